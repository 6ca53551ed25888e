#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use sheetbend_model::plan::{Overlay, Route};
use sheetbend_model::state::NetworkMode;
use sheetbend_model::types::{BlockKey, NodeName};

use super::wanted::{Wanted, tunnel_mac};
use super::{NodeSpec, pod_mtu};

fn block(text: &str) -> BlockKey {
    BlockKey::new(text.parse().unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn overlay(mode: NetworkMode, node_addresses: &[&str]) -> Overlay {
    Overlay {
        mode,
        node_addresses: node_addresses.iter().map(|addr| ip(addr)).collect(),
        router_addresses: vec![ip("10.244.1.1"), ip("fd00:1::1")],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        direct: false,
        without_node_ports: Vec::new(),
    }
}

fn to_b(via: &str) -> Route {
    Route::Node { node: NodeName::new("b"), via: ip(via), direct: true }
}

fn cluster(via4: &str, via6: &str) -> BTreeMap<BlockKey, Route> {
    BTreeMap::from([
        (block("10.244.1.0/24"), Route::Local),
        (block("fd00:1::/64"), Route::Local),
        (block("10.244.2.0/24"), to_b(via4)),
        (block("fd00:2::/64"), to_b(via6)),
        (block("10.244.0.0/16"), Route::Unowned),
        (
            block("192.0.2.2/32"),
            Route::NodeAddress { node: NodeName::new("b"), other: None, node_ports: true },
        ),
        (block("172.16.0.0/12"), Route::NoMasquerade),
    ])
}

fn print(wanted: &Wanted) -> String {
    let addresses = wanted.addresses.iter().map(|addr| format!("address {addr}"));
    let neighbours = wanted.neighbours.iter().map(|(addr, mac)| format!("neighbour {addr} {mac}"));
    let routes = wanted.routes.values().map(|route| format!("route {route}"));
    addresses.chain(neighbours).chain(routes).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_tunnel_leads_to_other_nodes() {
    let overlay = overlay(NetworkMode::Vxlan, &["192.0.2.1", "2001:db8::1"]);
    let routes = cluster("192.0.2.2", "192.0.2.2");
    let wanted = Wanted::of(
        &NodeSpec { overlay: &overlay, routes: &routes, nat_ports: (40000, 20000), keeps: false },
        2,
        Some(9),
    );
    let theirs = tunnel_mac(&Overlay { node_addresses: vec![ip("2001:db8::2"), ip("192.0.2.2")], ..overlay });
    let expected = "\
address 10.244.1.1
address fd00:1::1
neighbour 10.244.2.0 MAC
neighbour fd00:2:: MAC
route unreachable 10.244.0.0/16
route unreachable 10.244.1.0/24
route 10.244.2.0/24 via 10.244.2.0 dev 9 onlink src 10.244.1.1
route unreachable fd00:1::/64
route fd00:2::/64 via fd00:2:: dev 9 onlink src fd00:1::1";
    assert_eq!(print(&wanted), expected.replace("MAC", &theirs.to_string()));
}

#[test]
fn host_routes_lead_over_the_uplink() {
    let overlay = overlay(NetworkMode::HostGw, &["192.0.2.1", "2001:db8::1"]);
    let routes = cluster("192.0.2.2", "2001:db8::2");
    let wanted = Wanted::of(
        &NodeSpec { overlay: &overlay, routes: &routes, nat_ports: (40000, 20000), keeps: false },
        2,
        None,
    );
    let expected = "\
address 10.244.1.1
address fd00:1::1
route unreachable 10.244.0.0/16
route unreachable 10.244.1.0/24
route 10.244.2.0/24 via 192.0.2.2 dev 2 src 10.244.1.1
route unreachable fd00:1::/64
route fd00:2::/64 via 2001:db8::2 dev 2 src fd00:1::1";
    assert_eq!(print(&wanted), expected);
}

#[test]
fn the_pods_mtu_leaves_room_for_the_tunnel() {
    let mtu = |mode, addresses: &[&str], via: &str| {
        let (overlay, routes) = (overlay(mode, addresses), cluster(via, via));
        pod_mtu(
            &NodeSpec { overlay: &overlay, routes: &routes, nat_ports: (40000, 20000), keeps: false },
            1500,
        )
    };
    assert_eq!(mtu(NetworkMode::Vxlan, &["192.0.2.1"], "192.0.2.2"), 1450);
    assert_eq!(mtu(NetworkMode::Vxlan, &["2001:db8::1"], "2001:db8::2"), 1430);
    assert_eq!(mtu(NetworkMode::Vxlan, &["192.0.2.1", "2001:db8::1"], "2001:db8::2"), 1430);
    assert_eq!(mtu(NetworkMode::HostGw, &["192.0.2.1"], "192.0.2.2"), 1500);
}
