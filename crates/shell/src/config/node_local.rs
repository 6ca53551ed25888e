//! `dns.nodeLocal` and `dns.service`.

use std::net::IpAddr;

use ipnet::IpNet;
use sheetbend_model::state::NodeLocalDns;
use sheetbend_model::types::{Family, ObjectKey};

use super::source::Sources;

/// What the node's programs and links use themselves: the pods' gateways, and the sources of pods that reach themselves
/// through a Service.
const RESERVED: [&str; 4] = ["169.254.1.1", "169.254.42.1", "fe80::1", "fd5b:6861:6972::1"];

/// `pods` are the ranges that pods may have.
pub(super) fn load(sources: &mut Sources, pods: &[IpNet]) -> NodeLocalDns {
    let defaults = NodeLocalDns::default();
    let addresses = sources.list("dns.nodeLocal", address);
    for family in Family::ALL {
        let of_family = addresses.iter().filter(|addr| Family::of(**addr) == family).count();
        if of_family > 1 {
            let message = format!("dns.nodeLocal has {of_family} {family} addresses; leave at most one");
            sources.wrong("dns.nodeLocal", message);
        }
    }
    for addr in &addresses {
        if let Some(range) = pods.iter().find(|range| range.contains(addr)) {
            sources.wrong(
                "dns.nodeLocal",
                format!(
                    "{addr} is within {range}, where pods get their addresses; write one like 169.254.20.10"
                ),
            );
        }
    }
    let service = sources.text("dns.service", service).unwrap_or(defaults.service);
    NodeLocalDns { addresses, service }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let addr = text.parse::<IpAddr>().map_err(|_| {
        format!("{text:?} is no address; write one like 169.254.20.10 or fd5b:646e:73::a, without a port")
    })?;
    let addr = addr.to_canonical();
    if RESERVED.iter().any(|own| own.parse() == Ok(addr)) {
        return Err(format!("{addr} is used by Sheetbend itself; write one like 169.254.20.10"));
    }
    // Packets to these never come to a program of the node, or are not for one server.
    let is_broadcast = addr == IpAddr::from([255; 4]);
    let is_link_local = matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local());
    if addr.is_unspecified() || addr.is_loopback() || addr.is_multicast() || is_broadcast || is_link_local {
        return Err(format!(
            "{addr} cannot be asked from every pod; write a unicast address like 169.254.20.10 or fd5b:646e:73::a"
        ));
    }
    Ok(addr)
}

fn service(text: &str) -> Result<ObjectKey, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ObjectKey::new(namespace, name))
        }
        _ => Err(format!("{text:?} is no Service; write NAMESPACE/NAME, as in kube-system/kube-dns")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::super::Config;
    use super::*;

    fn load(values: &[(&str, &str)]) -> Result<NodeLocalDns, String> {
        let sources =
            values.iter().fold(Sources::default(), |sources, (key, text)| sources.flag(key, Some(text)));
        Config::load(sources).map(|config| config.network.node_local_dns).map_err(|errors| errors.to_string())
    }

    #[test]
    fn one_address_of_each_family() {
        assert_eq!(load(&[]), Ok(NodeLocalDns::default()));
        let dns = load(&[("dns.nodeLocal", "169.254.20.10,fd5b:646e:73::a"), ("dns.service", "names/dns")]);
        let dns = dns.unwrap();
        let addresses: Vec<String> = dns.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["169.254.20.10", "fd5b:646e:73::a"]);
        assert_eq!(dns.service, ObjectKey::new("names", "dns"));
    }

    #[test]
    fn an_address_that_somebody_has_is_refused() {
        let pool = ("ipam.clusterPool", "10.244.0.0/16,fd00:244::/48");
        for (text, advice) in [
            ("169.254.1.1", "used by Sheetbend itself"),
            ("::ffff:169.254.42.1", "used by Sheetbend itself"),
            ("fd5b:6861:6972::1", "used by Sheetbend itself"),
            ("127.0.0.53", "unicast address"),
            ("fe80::a", "unicast address"),
            ("169.254.20.10:53", "without a port"),
            ("169.254.20.10,169.254.20.11", "leave at most one"),
            ("10.244.3.4", "10.244.0.0/16, where pods"),
            ("fd00:244::a", "fd00:244::/48, where pods"),
        ] {
            let error = load(&[pool, ("dns.nodeLocal", text)]).unwrap_err();
            assert!(error.contains("dns.nodeLocal") && error.contains(advice), "{error}");
        }
        let own = [("network.podCIDRs", "169.254.0.0/16"), ("dns.nodeLocal", "169.254.20.10")];
        assert!(load(&own).unwrap_err().contains("where pods"));
        assert!(load(&[("dns.service", "kube-dns")]).unwrap_err().contains("NAMESPACE/NAME"));
    }
}
