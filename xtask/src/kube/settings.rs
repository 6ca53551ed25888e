//! What a test cluster is made of: its name, size, families and addresses. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Kubernetes' version, without the `v`.
pub(crate) const KUBERNETES: &str = "1.35.4";
/// The machine that runs etcd and the control plane.
pub(crate) const CONTROL_PLANE: &str = "control-plane";
/// More nodes than this leave no room for Pods on any machine this runs on.
const MAX_NODES: u8 = 32;

/// Which address families Pods, Services and nodes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Family {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
    /// Both, IPv4 first.
    Dual,
}

impl Family {
    /// One value per family that the cluster has, IPv4 first.
    pub(crate) fn pick<T>(self, v4: T, v6: T) -> Vec<T> {
        match self {
            Self::Ipv4 => vec![v4],
            Self::Ipv6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }

    /// The same, joined by commas, as Kubernetes' flags take it.
    pub(crate) fn join(self, v4: &str, v6: &str) -> String {
        self.pick(v4, v6).join(",")
    }
}

/// What gives the cluster its Pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Network {
    /// Nothing: nodes stay NotReady, there is no kube-proxy, no CNI configuration and no DNS.
    None,
    /// Sheetbend, built from this tree and installed with `kubectl apply -k deploy/kubernetes`.
    Sheetbend,
    /// What Sheetbend is compared with: bridge plugin, static routes, kube-proxy in nftables mode, CoreDNS.
    Peer,
}

/// How Sheetbend carries packets between nodes: an overlay of `deploy/kubernetes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Through a VXLAN tunnel.
    #[default]
    Vxlan,
    /// By host routes.
    HostGw,
}

impl Mode {
    /// The overlay's name.
    pub(crate) fn overlay(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
        }
    }
}

/// A cluster as the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Its name: 1 to 20 of `a-z0-9-`, beginning with a letter.
    pub(crate) name: String,
    /// Nodes beside the control plane, 1 to 32.
    pub(crate) nodes: u8,
    /// Address families.
    pub(crate) family: Family,
    /// Pod network.
    pub(crate) network: Network,
    /// With `--network sheetbend`: its mode.
    #[serde(default)]
    pub(crate) mode: Mode,
}

impl Settings {
    /// Refuses names and sizes that cannot work.
    pub(crate) fn new(name: &str, nodes: u8, family: Family, network: Network) -> Result<Self> {
        check_name(name)?;
        if !(1..=MAX_NODES).contains(&nodes) {
            bail!("--nodes {nodes}: between 1 and {MAX_NODES} nodes are possible");
        }
        Ok(Self { name: name.to_owned(), nodes, family, network, mode: Mode::default() })
    }

    /// The nodes' names: `node1`, `node2`, …
    pub(crate) fn node_names(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("node{number}")).collect()
    }

    /// Every machine's name: the control plane, then the nodes.
    pub(crate) fn machines(&self) -> Vec<String> {
        [vec![CONTROL_PLANE.to_owned()], self.node_names()].concat()
    }

    /// A machine's addresses on the underlay, by its place in [`Self::machines`].
    pub(crate) fn addresses(&self, machine: usize) -> Vec<IpAddr> {
        // The control plane is .2, nodes begin at .11; the last hexadecimal digits of IPv6 read the same.
        let number = if machine == 0 { 2 } else { 10 + machine };
        let last = u8::try_from(number).unwrap_or(u8::MAX);
        let digits = u16::from_str_radix(&last.to_string(), 16).unwrap_or_default();
        self.family.pick(
            IpAddr::from(Ipv4Addr::new(172, 31, 0, last)),
            IpAddr::from(Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, digits)),
        )
    }

    /// The block of all machines, which is one link; IPv4 first.
    pub(crate) fn underlay(&self) -> Vec<String> {
        self.family.pick("172.31.0.0/24".to_owned(), "fd00:172:31::/64".to_owned())
    }

    /// The underlay's router, which is the way to the world; IPv4 first.
    pub(crate) fn gateways(&self) -> Vec<IpAddr> {
        self.family.pick(
            IpAddr::from(Ipv4Addr::new(172, 31, 0, 1)),
            IpAddr::from(Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, 1)),
        )
    }

    /// The router's own addresses out there, in no node's block; IPv4 first.
    pub(crate) fn world(&self) -> Vec<IpAddr> {
        self.family.pick(
            IpAddr::from(Ipv4Addr::new(203, 0, 113, 1)),
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        )
    }

    /// The address under which nodes reach the API server.
    pub(crate) fn api_server(&self) -> IpAddr {
        self.addresses(0)[0]
    }

    /// The API server's URL.
    pub(crate) fn api_url(&self) -> String {
        match self.api_server() {
            IpAddr::V4(address) => format!("https://{address}:6443"),
            IpAddr::V6(address) => format!("https://[{address}]:6443"),
        }
    }

    /// `--service-cluster-ip-range`.
    pub(crate) fn service_cidrs(&self) -> String {
        self.family.join("10.96.0.0/16", "fd00:10:96::/112")
    }

    /// `--cluster-cidr`; nodes get a /24 and a /64 of it, which are Kubernetes' defaults.
    pub(crate) fn pod_cidrs(&self) -> String {
        self.family.join("10.244.0.0/16", "fd00:10:244::/56")
    }

    /// The address of Service `kubernetes` in each family.
    pub(crate) fn kubernetes_service(&self) -> Vec<IpAddr> {
        self.family.pick(
            IpAddr::from(Ipv4Addr::new(10, 96, 0, 1)),
            IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1)),
        )
    }

    /// For Services of type LoadBalancer: addresses of the underlay that no machine has.
    pub(crate) fn load_balancer_addresses(&self) -> Vec<&'static str> {
        self.family.pick("172.31.0.128/26", "fd00:172:31::8000/120")
    }

    /// The address of Service `kube-dns` in the first family.
    pub(crate) fn dns_service(&self) -> Vec<&'static str> {
        self.family.pick("10.96.0.10", "fd00:10:96::a")
    }
}

/// Refuses names that cannot be part of a path, a cgroup and a host name.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() > 20 || !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(fine) {
        bail!("--name {name:?}: use 1 to 20 of a-z, 0-9 and -, beginning with a letter");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn addresses_of_both_families_read_alike() {
        let cluster = Settings::new("a", 2, Family::Dual, Network::None).unwrap();
        let text = |machine| cluster.addresses(machine).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(0), ["172.31.0.2", "fd00:172:31::2"]);
        assert_eq!(text(2), ["172.31.0.12", "fd00:172:31::12"]);
        assert_eq!(cluster.machines(), ["control-plane", "node1", "node2"]);
        let six = Settings { family: Family::Ipv6, ..cluster };
        assert_eq!(six.api_url(), "https://[fd00:172:31::2]:6443");
        assert_eq!(six.service_cidrs(), "fd00:10:96::/112");
    }

    #[test]
    fn names_that_escape_a_path_are_refused() {
        for wrong in ["", "..", "a/b", "A", "1a", "a_b", "a23456789012345678901"] {
            assert!(Settings::new(wrong, 1, Family::Dual, Network::None).is_err(), "{wrong}");
        }
        assert!(Settings::new("a", 0, Family::Dual, Network::None).is_err());
    }
}
