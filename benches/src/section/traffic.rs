//! Packets between pods: ours beside the wire, the kernel and the bridge plugin.

use crate::cli::{Bench, say};
use crate::contest::{self, Promise, Way};
use crate::report::Row;
use crate::topology::kube_proxy::{self, Peer};
use crate::topology::{fabric, wire};
use crate::traffic::Tool;

/// All three places.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(place(
        "Same node",
        bench,
        same_node,
        &[
            (kube_proxy::DIRECT, Some(1.0), Some(0.9)),
            (fabric::ROUTED_HERE, Some(0.95), Some(0.9)),
            (wire::NAME, Some(0.80), None),
        ],
    ));
    rows.extend(place(
        "Same node, through a ClusterIP",
        bench,
        same_node_service,
        &[(kube_proxy::SERVICE, Some(1.0), Some(0.9))],
    ));
    rows.extend(place(
        "Between nodes, host-gw",
        bench,
        host_gw,
        &[(fabric::ROUTED, Some(1.0), Some(0.9)), (fabric::NODE_TO_NODE, Some(0.80), None)],
    ));
    rows.extend(place("Between nodes, VXLAN", bench, vxlan, &[(fabric::VXLAN, Some(1.0), Some(0.9))]));
    rows
}

fn place(
    section: &str,
    bench: &Bench,
    build: fn(&Bench) -> anyhow::Result<Vec<Way>>,
    promises: &[Promise],
) -> Vec<Row> {
    say(&format!("{section} …"));
    match build(bench) {
        Ok(ways) => contest::rows(section, &ways, &Tool::ALL, promises, bench.effort()),
        Err(error) => vec![Row::missing(section, "all", &error)],
    }
}

fn same_node(_bench: &Bench) -> anyhow::Result<Vec<Way>> {
    let peer = Peer::build("peer", 85, 10)?;
    Ok(vec![fabric::routed_on_one_node()?, peer.direct(), wire::build()?])
}

fn same_node_service(_bench: &Bench) -> anyhow::Result<Vec<Way>> {
    let peer = Peer::build("peers", 86, 10)?;
    Ok(vec![peer.direct(), peer.service()])
}

fn host_gw(_bench: &Bench) -> anyhow::Result<Vec<Way>> {
    Ok(vec![fabric::routed()?, fabric::node_to_node("nodes", 71)?])
}

fn vxlan(_bench: &Bench) -> anyhow::Result<Vec<Way>> {
    Ok(vec![fabric::vxlan()?, fabric::node_to_node("nodes2", 74)?])
}
