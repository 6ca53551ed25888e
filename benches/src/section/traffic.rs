//! Packets between pods: ours beside the wire, the kernel and the bridge plugin.

use std::time::Duration;

use crate::cli::{Bench, say};
use crate::contest::{self, Promise, Way};
use crate::report::Row;
use crate::topology::cluster_api::Load;
use crate::topology::kube_proxy::{self, Mode, Peer};
use crate::topology::ours::{BEFORE, Cluster};
use crate::topology::{fabric, wire};
use crate::traffic::Tool;

/// All places, with the bounds of `design.md` §7.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let promise = |peer, round_trip, stream| Promise { peer, round_trip, stream, connect: None };
    let (even, nine_tenths) = (Some(1.0), Some(0.9));
    let same_node_promises = [
        promise(kube_proxy::DIRECT, even, nine_tenths),
        promise(fabric::ROUTED_HERE, Some(0.95), nine_tenths),
        promise(wire::NAME, Some(0.80), None),
    ];
    let service_promises = [Promise { connect: even, ..promise(kube_proxy::SERVICE, even, nine_tenths) }];
    let host_gw_promises =
        [promise(fabric::ROUTED, even, nine_tenths), promise(fabric::NODE_TO_NODE, Some(0.80), None)];
    let vxlan_promises = [promise(fabric::VXLAN, even, nine_tenths)];
    let mut rows = Vec::new();
    rows.extend(place("Same node", bench, same_node, &same_node_promises));
    rows.extend(place("Same node, through a ClusterIP", bench, same_node_service, &service_promises));
    rows.extend(place("Between nodes, host-gw", bench, host_gw, &host_gw_promises));
    rows.extend(place("Between nodes, VXLAN", bench, vxlan, &vxlan_promises));
    rows
}

/// A topology: whoever must stay alive, and the ways through it, ours first.
type Built = anyhow::Result<(Vec<Cluster>, Vec<Way>)>;

fn place(section: &str, bench: &Bench, build: fn(&Bench) -> Built, promises: &[Promise]) -> Vec<Row> {
    say(&format!("{section} …"));
    match build(bench) {
        Ok((_alive, ways)) => contest::rows(section, &ways, &Tool::ALL, promises, bench.effort()),
        Err(error) => vec![Row::missing(section, "all", &error)],
    }
}

/// Clusters of ours by `way`, the one of `--before` as the last candidate; `peers` stand between them.
fn beside(
    bench: &Bench,
    (name, net, mode, server): (&str, u8, &str, usize),
    way: fn(&Cluster) -> anyhow::Result<Way>,
    peers: Vec<Way>,
) -> Built {
    let ours = Cluster::start(&bench.binaries, name, net, mode, server)?;
    let mut ways = vec![way(&ours)?];
    ways.extend(peers);
    let mut clusters = vec![ours];
    if let Some(before) = &bench.before {
        let cluster = Cluster::start(before, &format!("{name}b"), net + 20, mode, server)?;
        ways.push(Way { name: BEFORE, ..way(&cluster)? });
        clusters.push(cluster);
    }
    Ok((clusters, ways))
}

fn same_node(bench: &Bench) -> Built {
    let peer = peer("peer", 85)?;
    let peers = vec![peer.direct(), fabric::routed_on_one_node()?, wire::build()?];
    beside(bench, ("same", 75, "host-gw", 0), |cluster| Ok(cluster.direct()), peers)
}

fn same_node_service(bench: &Bench) -> Built {
    let peer = peer("peers", 86)?;
    beside(bench, ("sames", 76, "host-gw", 0), Cluster::service, vec![peer.service(0)])
}

/// A node on which kube-proxy has made the rules of ten Services.
fn peer(name: &str, net: u8) -> anyhow::Result<Peer> {
    let mut peer = Peer::build(name, net, Mode::Nftables, Load { services: 10, dummies: 0 })?;
    peer.start()?;
    peer.wait(9, Duration::from_secs(60))?;
    Ok(peer)
}

fn host_gw(bench: &Bench) -> Built {
    let peers = vec![fabric::routed()?, fabric::node_to_node("nodes", 71)?];
    beside(bench, ("hostgw", 77, "host-gw", 1), |cluster| Ok(cluster.direct()), peers)
}

fn vxlan(bench: &Bench) -> Built {
    let peers = vec![fabric::vxlan()?, fabric::node_to_node("nodes2", 74)?];
    beside(bench, ("ourvx", 78, "vxlan", 1), |cluster| Ok(cluster.direct()), peers)
}
