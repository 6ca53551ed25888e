//! `services.mode`.

use sheetbend_model::state::{NetworkConfig, NetworkMode, ServiceMode};

use super::source::Sources;

const KEY: &str = "services.mode";

pub(super) fn load(sources: &mut Sources) -> ServiceMode {
    sources.text(KEY, str::parse).unwrap_or_default()
}

/// Notes what does not go together.
pub(super) fn check(sources: &mut Sources, network: &NetworkConfig) {
    match (network.service_mode, network.mode) {
        (ServiceMode::Snat, _) | (ServiceMode::Dsr, NetworkMode::Vxlan) => {}
        (ServiceMode::Dsr, mode @ NetworkMode::HostGw) => sources.wrong(
            KEY,
            format!(
                "{KEY} dsr needs network.mode vxlan, and that is {mode}: clients' packets go to the endpoint's node \
                 through the tunnel, which {mode} does not have; set {KEY} to snat, or network.mode to vxlan"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;
    use crate::config::Config;

    fn load(mode: &str, network: &str) -> Result<ServiceMode, String> {
        let sources = Sources::default().flag(KEY, Some(mode)).flag("network.mode", Some(network));
        Config::load(sources).map(|config| config.network.service_mode).map_err(|errors| errors.to_string())
    }

    #[test]
    fn direct_server_return_needs_the_tunnel() {
        assert_eq!(Config::default().network.service_mode, ServiceMode::Snat);
        assert_eq!(load("dsr", "vxlan"), Ok(ServiceMode::Dsr));
        assert_eq!(load("snat", "host-gw"), Ok(ServiceMode::Snat));
        let error = load("dsr", "host-gw").unwrap_err();
        assert!(error.contains("needs network.mode vxlan, and that is host-gw"), "{error}");
        let error = load("hybrid", "vxlan").unwrap_err();
        assert!(error.contains("\"hybrid\" does not exist; use snat or dsr"), "{error}");
    }
}
