//! What must not be on the node, found before anything is changed, named, and refused.

use std::collections::BTreeSet;
use std::fs;

use anyhow::bail;
use aya::programs::{SchedClassifier, TcAttachType};
use sheetbend_apply::netlink::{self, node::TUNNEL_DEVICE};
use sheetbend_ebpf_abi::TUNNEL_PORT;
use sheetbend_model::state::NetworkMode;
use sheetbend_shell::config::Config;
use tracing::{debug, warn};

/// Where kube-proxy serves metrics and health by default.
const KUBE_PROXY_PORTS: [u16; 2] = [10249, 10256];
/// Listening, in /proc/net/tcp.
const TCP_LISTEN: &str = "0A";
/// Our programs on uplinks, by the names the kernel shows.
const OURS: [&str; 2] = ["from_uplink", "to_uplink"];

/// Refuses to start beside what would break the node's network with us.
///
/// # Errors
/// Everything that is in the way, with what to do about each.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let mut found = Vec::new();
    found.extend(kube_proxy());
    if config.network.mode == NetworkMode::Vxlan {
        found.extend(tunnel_port());
    }
    for device in default_devices() {
        found.extend(foreign_programs(&device));
    }
    if found.is_empty() {
        return Ok(());
    }
    bail!("this node is not ready for Sheetbend:\n- {}", found.join("\n- "));
}

fn kube_proxy() -> Option<String> {
    let listening = ports("tcp", Some(TCP_LISTEN));
    let port = KUBE_PROXY_PORTS.iter().find(|port| listening.contains(*port));
    let chains = match netlink::packet_filter_chains() {
        Ok(chains) => chains,
        Err(error) => {
            debug!("cannot list nftables chains: {error}");
            Vec::new()
        }
    };
    let rules = chains.iter().find(|chain| is_kube_proxy(&chain.table, &chain.name));
    match (port, rules) {
        (Some(port), _) => Some(format!(
            "kube-proxy runs here (port {port} is served). Sheetbend does its work: delete the DaemonSet kube-system/kube-proxy, or its service on this node, then restart the agent"
        )),
        (None, Some(chain)) => {
            warn!(
                table = chain.table,
                chain = chain.name,
                "rules of a kube-proxy that no longer runs are left; they may send the node's own connections to pods that are gone. `kube-proxy --cleanup` or a reboot removes them"
            );
            None
        }
        (None, None) => None,
    }
}

/// The table that its nftables mode makes, or the chains of its iptables modes. (`KUBE-KUBELET-CANARY` and such are
/// the kubelet's.)
fn is_kube_proxy(table: &str, chain: &str) -> bool {
    table == "kube-proxy" || chain == "KUBE-SERVICES" || chain == "KUBE-NODEPORTS"
}

fn tunnel_port() -> Option<String> {
    if nix::net::if_::if_nametoindex(TUNNEL_DEVICE).is_ok() {
        return None; // it is an earlier agent's
    }
    ports("udp", None).contains(&TUNNEL_PORT).then(|| {
        format!(
            "UDP port {TUNNEL_PORT} is in use, and the tunnel needs it: remove the other network plugin's VXLAN device (`ip -d link show type vxlan`), or choose network.mode host-gw"
        )
    })
}

/// Local ports of the sockets in this network namespace.
fn ports(protocol: &str, state: Option<&str>) -> BTreeSet<u16> {
    let files = ["", "6"].map(|family| fs::read_to_string(format!("/proc/net/{protocol}{family}")));
    files
        .iter()
        .flatten()
        .flat_map(|text| text.lines().skip(1))
        .filter_map(|line| socket_port(line, state))
        .collect()
}

/// `sl local_address rem_address st …`, addresses as HEX:PORT.
fn socket_port(line: &str, wanted: Option<&str>) -> Option<u16> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    let state = words.nth(1)?;
    if wanted.is_some_and(|wanted| wanted != state) {
        return None;
    }
    u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()
}

/// Devices with a default route: the likely uplinks.
fn default_devices() -> BTreeSet<String> {
    let ipv4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let ipv4 = ipv4.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let device = words.next()?;
        (words.next()? == "00000000").then(|| device.to_owned())
    });
    let ipv6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let ipv6 = ipv6.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let default = words.first()?.bytes().all(|byte| byte == b'0') && *words.get(1)? == "00";
        words.last().filter(|_| default).map(|device| (*device).to_owned())
    });
    ipv4.chain(ipv6.collect::<Vec<_>>()).filter(|device| device != "lo").collect()
}

/// A TCX program ends the chain unless it says "next": one before ours takes packets that we never see.
fn foreign_programs(device: &str) -> Vec<String> {
    let mut found = Vec::new();
    for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
        let Ok((_, programs)) = SchedClassifier::query_tcx(device, hook) else { continue };
        let names: Vec<String> =
            programs.iter().map(|program| program.name_as_str().unwrap_or("?").to_owned()).collect();
        if let Some(name) = first_foreign(&names) {
            found.push(format!(
                "program {name} of another network plugin is on device {device}, before ours: remove that plugin and its programs (`bpftool net detach`, or reboot after removing it)"
            ));
        }
    }
    found
}

fn first_foreign(names: &[String]) -> Option<&String> {
    names.first().filter(|name| !OURS.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn ports_are_read_from_the_kernels_lists() {
        let line =
            "   0: 0100007F:2809 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert_eq!(socket_port(line, Some(TCP_LISTEN)), Some(10249));
        assert_eq!(socket_port(line, Some("01")), None);
        assert_eq!(socket_port("  sl  local_address rem_address   st", None), None);
    }

    #[test]
    fn only_what_runs_before_ours_is_in_the_way() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(first_foreign(&names(&[])), None);
        assert_eq!(first_foreign(&names(&["from_uplink", "cil_from_netdev"])), None);
        assert_eq!(first_foreign(&names(&["cil_from_netdev", "from_uplink"])).unwrap(), "cil_from_netdev");
    }

    #[test]
    fn the_kubelets_own_chains_are_no_kube_proxy() {
        assert!(is_kube_proxy("kube-proxy", "services"));
        assert!(is_kube_proxy("nat", "KUBE-SERVICES"));
        assert!(!is_kube_proxy("mangle", "KUBE-KUBELET-CANARY"));
        assert!(!is_kube_proxy("filter", "KUBE-FIREWALL"));
    }
}
