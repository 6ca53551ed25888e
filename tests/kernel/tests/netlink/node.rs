//! The node as a whole.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use sheetbend_apply::netlink::node::{self, NodeLinks, NodeSpec};
use sheetbend_apply::netlink::{self, NetlinkError};
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_model::plan::{Overlay, Route};
use sheetbend_model::state::NetworkMode;
use sheetbend_model::types::{BlockKey, NodeName};

use crate::attach::{attached, ipv4, ipv6, pod_spec, seen_source};

pub(crate) const TESTS: &[crate::Test] = &[
    ("node::a_second_ensure_changes_nothing", a_second_ensure_changes_nothing),
    ("node::what_is_stale_goes_and_what_is_foreign_stays", what_is_stale_goes_and_what_is_foreign_stays),
    ("node::host_routes_carry_pods_and_nodes", host_routes_carry_pods_and_nodes),
    ("node::the_tunnel_device_is_as_designed", the_tunnel_device_is_as_designed),
    ("node::an_unowned_range_is_unreachable", an_unowned_range_is_unreachable),
    ("node::remove_leaves_nothing", remove_leaves_nothing),
    ("node::a_missing_uplink_is_named", a_missing_uplink_is_named),
    ("node::the_reverse_path_filter_of_others_stays", the_reverse_path_filter_of_others_stays),
];

/// Node `number` of two: 192.0.2.N, 2001:db8::N, pods 10.244.N.0/24, fd00:N::/64.
struct Cluster {
    overlay: Overlay,
    routes: BTreeMap<BlockKey, Route>,
}

fn cluster(number: u8, mode: NetworkMode) -> Result<Cluster> {
    let mut routes = BTreeMap::new();
    for other in 1..=2u8 {
        for (block, via) in [
            (format!("10.244.{other}.0/24"), format!("192.0.2.{other}")),
            (format!("fd00:{other}::/64"), format!("2001:db8::{other}")),
        ] {
            let via = if mode == NetworkMode::Vxlan { format!("192.0.2.{other}") } else { via };
            let node =
                Route::Node { node: NodeName::new(format!("node-{other}")), via: via.parse()?, direct: true };
            routes.insert(BlockKey::new(block.parse()?), if other == number { Route::Local } else { node });
        }
    }
    routes.insert(BlockKey::new("10.244.0.0/16".parse()?), Route::Unowned);
    routes.insert(BlockKey::new("fd00::/32".parse()?), Route::Unowned);
    let overlay = Overlay {
        mode,
        node_addresses: vec![format!("192.0.2.{number}").parse()?, format!("2001:db8::{number}").parse()?],
        router_addresses: vec![format!("10.244.{number}.1").parse()?, format!("fd00:{number}::1").parse()?],
        pod_cidrs: vec![format!("10.244.{number}.0/24").parse()?, format!("fd00:{number}::/64").parse()?],
        direct: false,
        without_node_ports: Vec::new(),
    };
    Ok(Cluster { overlay, routes })
}

impl Cluster {
    fn ensure(&self, node: &Netns) -> Result<NodeLinks> {
        let spec = NodeSpec {
            overlay: &self.overlay,
            routes: &self.routes,
            nat_ports: (40000, 20000),
            keeps: false,
        };
        node.run(|| Ok(node::ensure(&spec)?))
    }
}

fn two_nodes() -> Result<(Netns, Netns)> {
    let (a, b) = (Netns::new()?, Netns::new()?);
    a.join(&b, &["192.0.2.1/24", "2001:db8::1/64"], &["192.0.2.2/24", "2001:db8::2/64"])?;
    Ok((a, b))
}

fn a_second_ensure_changes_nothing() -> Result<()> {
    for mode in [NetworkMode::Vxlan, NetworkMode::HostGw] {
        let (a, _b) = two_nodes()?;
        let cluster = cluster(1, mode)?;
        let first = cluster.ensure(&a)?;
        ensure!(!first.steps.is_empty());
        let second = cluster.ensure(&a)?;
        ensure!(second.steps.is_empty(), "{mode}: {:#?}", second.steps);
        ensure!(second.uplink.name == "uplink" && second.uplink.mtu == 1500, "{second:?}");
        ensure!(second.pod_mtu == if mode == NetworkMode::Vxlan { 1450 } else { 1500 }, "{second:?}");
        let setting = |name: &str| a.run(|| Ok(std::fs::read_to_string(format!("/proc/sys/net/{name}"))?));
        ensure!(setting("ipv4/ip_forward")?.trim() == "1");
        ensure!(setting("ipv6/conf/all/forwarding")?.trim() == "1");
        ensure!(setting("ipv6/conf/uplink/accept_ra")?.trim() == "2");
        ensure!(setting("ipv4/ip_local_reserved_ports")?.contains("40000-59999"));
    }
    Ok(())
}

fn what_is_stale_goes_and_what_is_foreign_stays() -> Result<()> {
    let (a, _b) = two_nodes()?;
    let pod = Netns::new()?;
    let mut cluster = cluster(1, NetworkMode::Vxlan)?;
    cluster.ensure(&a)?;
    attached(&a, &pod_spec(&pod, 2))?;
    a.ip("route add 198.51.100.0/24 via 192.0.2.9")?;
    a.ip("addr add 203.0.113.7/32 dev lo")?;
    cluster.routes.remove(&BlockKey::new("10.244.2.0/24".parse()?));
    cluster.overlay.router_addresses[1] = "fd00:1::9".parse()?;
    let links = cluster.ensure(&a)?;
    let steps = links.steps.join("\n");
    for wanted in [
        "remove route 10.244.2.0/24",
        "remove neighbour 10.244.2.0",
        "remove router address fd00:1::1/128",
        "add router address fd00:1::9/128",
        "change route fd00:2::/64",
    ] {
        ensure!(steps.contains(wanted), "{wanted} is missing:\n{steps}");
    }
    ensure!(a.ip("route")?.contains("198.51.100.0/24"));
    ensure!(a.ip("route")?.contains("10.244.1.2 dev sb"), "the pod's route went");
    ensure!(a.ip("addr show lo")?.contains("203.0.113.7"));
    // The other mode takes the tunnel away.
    let cluster = self::cluster(1, NetworkMode::HostGw)?;
    let links = cluster.ensure(&a)?;
    ensure!(links.tunnel_ifindex.is_none());
    ensure!(!a.ip("-o link")?.contains("sb-vxlan"));
    ensure!(cluster.ensure(&a)?.steps.is_empty());
    Ok(())
}

fn host_routes_carry_pods_and_nodes() -> Result<()> {
    let (a, b) = two_nodes()?;
    let (pod_a, pod_b) = (Netns::new()?, Netns::new()?);
    cluster(1, NetworkMode::HostGw)?.ensure(&a)?;
    cluster(2, NetworkMode::HostGw)?.ensure(&b)?;
    attached(&a, &pod_spec(&pod_a, 5))?;
    let mut spec = pod_spec(&pod_b, 6);
    spec.addresses = vec!["10.244.2.6".parse()?, "fd00:2::6".parse()?];
    attached(&b, &spec)?;
    for (target, client, router) in
        [("10.244.2.6", ipv4(5), "10.244.1.1"), ("fd00:2::6", ipv6(5), "fd00:1::1")]
    {
        let target: IpAddr = target.parse()?;
        let seen = seen_source(&pod_a, &pod_b, target)?;
        ensure!(seen == client, "pod to pod: {target} saw {seen}");
        let seen = seen_source(&a, &pod_b, target)?;
        ensure!(seen == router.parse::<IpAddr>()?, "node to pod: {target} saw {seen}");
    }
    Ok(())
}

fn the_tunnel_device_is_as_designed() -> Result<()> {
    let (a, b) = two_nodes()?;
    let links = cluster(1, NetworkMode::Vxlan)?.ensure(&a)?;
    cluster(2, NetworkMode::Vxlan)?.ensure(&b)?;
    ensure!(links.tunnel_ifindex.is_some());
    let shown = a.ip("-d link show sb-vxlan")?;
    for wanted in ["external", "dstport 4789", "udp6zerocsumtx", "udp6zerocsumrx", "mtu 1450", "UP"] {
        ensure!(shown.contains(wanted), "{wanted} is missing: {shown}");
    }
    let mac_of = |node: &Netns| -> Result<String> {
        let link = node.ip("-o link show sb-vxlan")?;
        Ok(link
            .split("link/ether ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .context("a MAC")?
            .to_owned())
    };
    let neighbours = a.ip("neigh show dev sb-vxlan")?;
    let theirs = mac_of(&b)?;
    for next_hop in ["10.244.2.0", "fd00:2::"] {
        let wanted = format!("{next_hop} lladdr {theirs}");
        ensure!(neighbours.contains(&wanted), "{wanted} is missing: {neighbours}");
    }
    ensure!(
        a.ip("route get 10.244.2.7")?.contains("dev sb-vxlan src 10.244.1.1"),
        "{}",
        a.ip("route get 10.244.2.7")?
    );
    ensure!(a.ip("route get fd00:2::7")?.contains("src fd00:1::1"), "{}", a.ip("route get fd00:2::7")?);
    Ok(())
}

fn an_unowned_range_is_unreachable() -> Result<()> {
    let (a, _b) = two_nodes()?;
    cluster(1, NetworkMode::Vxlan)?.ensure(&a)?;
    for address in ["10.244.1.77", "fd00:1::77", "10.244.9.1", "fd00:9::1"] {
        let refused = a.ip(&format!("route get {address}"));
        ensure!(refused.is_err(), "{address}: {refused:?}");
    }
    Ok(())
}

fn remove_leaves_nothing() -> Result<()> {
    let (a, _b) = two_nodes()?;
    // Operational states and link-local routes come and go by themselves.
    let state = || -> Result<Vec<String>> {
        let text = a.ip("-br -o addr")? + &a.ip("route")? + &a.ip("-6 route")?;
        let settled = text.lines().filter(|line| !line.starts_with("fe80"));
        Ok(settled
            .map(|line| line.split(' ').filter(|word| !word.starts_with("fe80") && *word != "UP").collect())
            .collect())
    };
    let before = state()?;
    cluster(1, NetworkMode::Vxlan)?.ensure(&a)?;
    ensure!(before != state()?);
    a.run(|| Ok(node::remove()?))?;
    let after = state()?;
    ensure!(before == after, "before {before:#?}\nafter {after:#?}");
    Ok(())
}

fn a_missing_uplink_is_named() -> Result<()> {
    let node = Netns::new()?;
    let missing = cluster(1, NetworkMode::Vxlan)?.ensure(&node);
    let error = missing.err().context("there is no such address")?;
    ensure!(matches!(error.downcast_ref(), Some(NetlinkError::NoUplink(_))), "{error}");
    ensure!(error.to_string().contains("192.0.2.1"), "{error}");
    ensure!(node.run(|| Ok(netlink::pod_links()?))?.is_empty());
    Ok(())
}

fn the_reverse_path_filter_of_others_stays() -> Result<()> {
    let (a, _b) = two_nodes()?;
    let path = |device: &str| format!("/proc/sys/net/ipv4/conf/{device}/rp_filter");
    a.run(|| Ok(std::fs::write(path("all"), "1")?))?;
    cluster(1, NetworkMode::Vxlan)?.ensure(&a)?;
    let pod = Netns::new()?;
    let spec = pod_spec(&pod, 2);
    attached(&a, &spec)?;
    for (device, wanted) in
        [("all", "0"), ("uplink", "1"), ("sb-vxlan", "0"), (spec.host_ifname.as_str(), "0")]
    {
        let found = a.run(|| Ok(std::fs::read_to_string(path(device))?))?;
        ensure!(found.trim() == wanted, "{device}: {found}");
    }
    Ok(())
}
