//! Which routes clients' packets may take as they came (`services.mode: dsr`).

use std::cell::RefCell;

use ipnet::IpNet;
use proptest::prelude::*;
use sheetbend_compile::compile;
use sheetbend_model::plan::Route;
use sheetbend_model::state::{NetworkConfig, NetworkMode, ServiceMode, Snapshot};
use sheetbend_oracle::is_told_by_64_bits;
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::generators::pools;

use crate::runner;

/// Some nodes have longer, shorter and second ranges.
fn with_ranges(cluster: &Snapshot, drawn: &[u8]) -> Snapshot {
    let mut cluster = cluster.clone();
    let nodes: Vec<_> = cluster.nodes.clone().into_iter().map(|(_, node)| node.as_ref().clone()).collect();
    for ((index, mut node), kind) in nodes.into_iter().enumerate().zip(drawn.iter().cycle()) {
        let more = match kind {
            0 => vec![],
            1 => vec![format!("fd40:{index}::/64"), format!("fd41:{index}::/64")],
            2 => vec![format!("fd40:{index}::/56")],
            _ => vec![format!("fd40:{index}::ab00/120")],
        };
        let more = more.iter().map(|text| text.parse::<IpNet>().unwrap());
        node.pod_cidrs = more.chain(node.pod_cidrs).collect();
        cluster.nodes.insert(node.name.clone(), node.into());
    }
    cluster
}

#[test]
fn packets_go_directly_to_pods_that_64_bits_tell() {
    let seen = RefCell::new([0usize; 3]);
    let modes = prop_oneof![Just(ServiceMode::Snat), Just(ServiceMode::Dsr)];
    let drawn = proptest::collection::vec(0..4_u8, 1..4);
    runner("direct", 300)
        .run(&(cluster(), drawn, modes, any::<bool>()), |(cluster, drawn, service_mode, is_routed)| {
            let cluster = with_ranges(&cluster, &drawn);
            let mode = if is_routed { NetworkMode::HostGw } else { NetworkMode::Vxlan };
            let config = NetworkConfig { mode, service_mode, ..NetworkConfig::default() };
            let tables = compile(&cluster, &pools::node(), &config);
            let is_known = cluster.nodes.contains_key(&pools::node());
            let is_on = is_known && service_mode == ServiceMode::Dsr && !is_routed;
            prop_assert_eq!(tables.overlay.direct, is_on);
            for (key, route) in &tables.routes {
                let Route::Node { node, direct, .. } = route else { continue };
                let (first, last) = (key.block.network(), key.block.broadcast());
                let wanted = [first, last].iter().all(|addr| is_told_by_64_bits(&cluster, node, *addr));
                prop_assert_eq!(*direct, wanted, "{} of {}", key, node);
                let mut seen = seen.borrow_mut();
                seen[0] += usize::from(wanted && first.is_ipv4());
                seen[1] += usize::from(wanted && first.is_ipv6());
                seen[2] += usize::from(!wanted);
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    eprintln!("{seen:?}");
    assert!(seen.iter().all(|count| *count >= 15), "{seen:?}");
}
