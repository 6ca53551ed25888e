//! Which addresses of nodes lead to node ports.

use std::cell::RefCell;
use std::net::IpAddr;

use proptest::prelude::*;
use sheetbend_compile::compile;
use sheetbend_model::plan::{LOOPBACK, Route};
use sheetbend_model::state::{NetworkConfig, NodePortAddresses, Snapshot};
use sheetbend_oracle::serves_node_ports;
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::generators::pools;

use crate::runner;

fn addresses() -> impl Strategy<Value = NodePortAddresses> {
    let blocks = [
        "192.168.7.1/32",
        "192.168.7.0/30",
        "10.244.0.0/24",
        "127.0.0.0/8",
        "fd00:192::2/128",
        "fd00::/16",
        "::1/128",
    ];
    let blocks = blocks.map(|text| text.parse().unwrap()).to_vec();
    prop_oneof![
        1 => Just(NodePortAddresses::All),
        2 => Just(NodePortAddresses::Primary),
        4 => prop::sample::subsequence(blocks, 1..=4).prop_map(NodePortAddresses::Within),
    ]
}

/// Now and then a node has a second address of a family.
fn with_second(cluster: &Snapshot) -> Snapshot {
    let mut cluster = cluster.clone();
    for mut node in cluster.nodes.clone().into_iter().map(|(_, node)| node.as_ref().clone()) {
        node.addresses.push(IpAddr::from([192, 168, 8, node.name.0.len() as u8]));
        cluster.nodes.insert(node.name.clone(), node.into());
    }
    cluster
}

#[test]
fn the_addresses_that_lead_to_node_ports_are_those_of_the_configuration() {
    let seen = RefCell::new([0usize; 5]);
    runner("node ports", 300)
        .run(&(cluster(), addresses(), any::<bool>()), |(cluster, addresses, second)| {
            let cluster = if second { with_second(&cluster) } else { cluster };
            let config = NetworkConfig { node_port_addresses: addresses.clone(), ..NetworkConfig::default() };
            let tables = compile(&cluster, &pools::node(), &config);
            for (key, route) in &tables.routes {
                let Route::NodeAddress { node, node_ports, .. } = route else { continue };
                let wanted = serves_node_ports(&cluster, &addresses, node, key.block.addr());
                prop_assert_eq!(*node_ports, wanted, "{} of {}", key, node);
                let mut seen = seen.borrow_mut();
                seen[0] += usize::from(wanted && addresses != NodePortAddresses::All);
                seen[1] += usize::from(!wanted);
            }
            let overlay = &tables.overlay;
            let own = overlay.node_addresses.iter().chain(&overlay.router_addresses);
            let mut without = Vec::new();
            for addr in own.chain(&LOOPBACK).filter(|_| cluster.nodes.contains_key(&pools::node())) {
                if !serves_node_ports(&cluster, &addresses, &pools::node(), *addr) {
                    without.push(*addr);
                }
            }
            let mut seen = seen.borrow_mut();
            seen[2] += usize::from(without.iter().any(|addr| overlay.node_addresses.contains(addr)));
            seen[3] += usize::from(without.iter().any(|addr| overlay.router_addresses.contains(addr)));
            seen[4] += usize::from(without.iter().any(IpAddr::is_loopback));
            prop_assert_eq!(&overlay.without_node_ports, &without);
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    eprintln!("{seen:?}");
    assert!(seen.iter().all(|count| *count >= 15), "{seen:?}");
}
