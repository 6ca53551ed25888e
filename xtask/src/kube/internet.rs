//! What stands in for the Internet: the router has the addresses of a public resolver and answers there, and knows the few
//! names that Kubernetes' own tests ask for. No packet leaves the cluster's namespaces.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::settings::Settings;

/// The resolver as the router runs it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Internet {
    /// Its addresses, IPv4 first.
    pub(super) addresses: Vec<IpAddr>,
    /// CoreDNS.
    program: PathBuf,
    /// Its configuration.
    corefile: String,
}

impl Internet {
    /// What the router of this cluster knows; `coredns` is a program.
    pub(super) fn new(settings: &Settings, coredns: PathBuf) -> Self {
        let addresses = settings.family.pick(
            IpAddr::from(Ipv4Addr::new(8, 8, 8, 8)),
            IpAddr::from(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888)),
        );
        let named = |name: &str, addresses: &[IpAddr]| -> String {
            addresses.iter().map(|address| format!("        {address} {name}\n")).collect()
        };
        let corefile = format!(
            // `health` answers on port 80, which is all that a test of google.com asks for.
            ".:53 {{\n    errors\n    health :80\n    hosts {{\n{}{}    }}\n}}\n",
            named("dns.google", &addresses),
            named("google.com", &settings.world()),
        );
        Self { addresses, program: coredns, corefile }
    }

    /// Starts it; it ends with the cluster.
    pub(super) fn start(&self, directory: &Path) -> Result<()> {
        let (config, log) = (directory.join("Corefile"), directory.join("logs/underlay.internet.log"));
        std::fs::write(&config, &self.corefile)
            .with_context(|| format!("cannot write {}", config.display()))?;
        let log = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(&self.program);
        command.arg("-conf").arg(config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot start {}", self.program.display())).map(drop)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::super::settings::{Family, Network};
    use super::*;

    #[test]
    fn a_cluster_of_one_family_knows_no_address_of_the_other() {
        let settings = Settings::new("a", 2, Family::Ipv6, Network::None).unwrap();
        let internet = Internet::new(&settings, PathBuf::from("coredns"));
        assert!(internet.corefile.contains("        2001:4860:4860::8888 dns.google\n"));
        assert!(internet.corefile.contains("        2001:db8::1 google.com\n"));
        assert!(!internet.corefile.contains("8.8.8.8"));
    }
}
