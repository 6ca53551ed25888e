//! CNI ADD and DEL of many pods, beside the bridge plugin with host-local.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::cli::{Bench, say};
use crate::netns::Netns;
use crate::report::{Row, Target};
use crate::stats::percentile;
use crate::topology::agent::{NodeSpec, Ours, pod_object, write_object};
use crate::topology::bridge;
use crate::topology::fabric::{Fabric, fabric};

const SECTION: &str = "CNI";
/// Pods of one side before the other's turn.
const BATCH: usize = 25;
/// ADDs at a time, as a kubelet starts many pods.
const PARALLEL: usize = 4;
const PEER: &str = "bridge plugin + host-local";

/// Longer than the agent waits after the last ADD before it makes links of the new pods' filters.
const QUIET: Duration = Duration::from_millis(2_500);
/// ADDs into the midst of that, each after a pause that lets it begin again.
const AMIDST: usize = 12;

/// All of it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("CNI …");
    run(bench).unwrap_or_else(|error| vec![Row::missing(SECTION, "all", &error)])
}

/// Both sides with their pods' namespaces.
struct Sides {
    ours: Ours,
    peer: bridge::Node,
    our_pods: Vec<Netns>,
    peer_pods: Vec<Netns>,
}

fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let pods = if bench.quick { 50 } else { 500 };
    let sides = build(bench, pods)?;
    let mut rows = Vec::new();
    let (mut add, mut peer_add) = (Vec::new(), Vec::new());
    for batch in 0..pods.div_ceil(BATCH) {
        let range = batch * BATCH..pods.min((batch + 1) * BATCH);
        for pod in &sides.our_pods[range.clone()] {
            add.push(timed(|| sides.ours.add(0, pod).map(drop))?);
        }
        for pod in &sides.peer_pods[range] {
            peer_add.push(timed(|| sides.peer.add(pod).map(drop))?);
        }
    }
    rows.extend(latency("ADD, one at a time", &add, &peer_add, Some(20.0))?);
    let rate = |times: &[f64]| times.len() as f64 * 1e3 / times.iter().sum::<f64>();
    rows.push(
        Row::value(SECTION, "pods per second, one ADD at a time", rate(&add), "/s")
            .beside(PEER, rate(&peer_add))
            .target(Target::AtLeast(100.0))
            .note(format!("{pods} pods each")),
    );
    let (mut del, mut peer_del) = (Vec::new(), Vec::new());
    for (our_pod, peer_pod) in sides.our_pods.iter().zip(&sides.peer_pods) {
        del.push(timed(|| sides.ours.del(0, our_pod))?);
        peer_del.push(timed(|| sides.peer.del(peer_pod))?);
    }
    rows.extend(latency("DEL, one at a time", &del, &peer_del, None)?);
    rows.extend(parallel(&sides)?);
    Ok(rows)
}

/// Every namespace again, several ADDs at a time; then half of them anew while the other half goes.
fn parallel(sides: &Sides) -> anyhow::Result<Vec<Row>> {
    let start = Instant::now();
    let ours = at_once(&sides.our_pods, |pod| sides.ours.add(0, pod).map(drop))?;
    let our_rate = ours.len() as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    let theirs = at_once(&sides.peer_pods, |pod| sides.peer.add(pod).map(drop))?;
    let peer_rate = theirs.len() as f64 / start.elapsed().as_secs_f64();
    let mut rows = latency(&format!("ADD, {PARALLEL} at a time"), &ours, &theirs, None)?;
    rows.push(
        Row::value(SECTION, format!("pods per second, {PARALLEL} ADDs at a time"), our_rate, "/s")
            .beside(PEER, peer_rate)
            .target(Target::AtLeast(100.0)),
    );
    let (stay, go) = sides.our_pods.split_at(sides.our_pods.len() / 2);
    at_once(stay, |pod| sides.ours.del(0, pod))?;
    let mixed = thread::scope(|scope| {
        let going = scope.spawn(|| go.iter().try_for_each(|pod| sides.ours.del(0, pod)));
        let coming: anyhow::Result<Vec<f64>> =
            stay.iter().map(|pod| timed(|| sides.ours.add(0, pod).map(drop))).collect();
        going.join().map_err(|_| anyhow::anyhow!("a thread of DELs panicked"))??;
        coming
    });
    let mixed = mixed?;
    let p99 = percentile(&mixed, 99.0).context("no samples")?;
    rows.push(Row::value(SECTION, "ADD with a DEL at a time beside it, p99", p99, "ms"));
    rows.push(amidst_moves(sides, go)?);
    Ok(rows)
}

/// Single ADDs that come while the agent makes links of earlier pods' filters, which holds rtnl for about 10 ms a step.
fn amidst_moves(sides: &Sides, pods: &[Netns]) -> anyhow::Result<Row> {
    let mut times = Vec::new();
    for pod in pods.iter().take(AMIDST) {
        thread::sleep(QUIET);
        times.push(timed(|| sides.ours.add(0, pod).map(drop))?);
    }
    let longest = percentile(&times, 100.0).context("no samples")?;
    let row =
        Row::value(SECTION, "ADD while earlier pods move from filters to links, longest", longest, "ms");
    Ok(row
        .target(Target::AtMost(20.0))
        .note(format!("{} ADDs, each {QUIET:?} after the one before", times.len())))
}

fn at_once(pods: &[Netns], work: impl Fn(&Netns) -> anyhow::Result<()> + Sync) -> anyhow::Result<Vec<f64>> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..PARALLEL)
            .map(|worker| {
                let work = &work;
                let own = pods.iter().skip(worker).step_by(PARALLEL);
                scope.spawn(move || own.map(|pod| timed(|| work(pod))).collect::<anyhow::Result<Vec<f64>>>())
            })
            .collect();
        let mut times = Vec::new();
        for worker in workers {
            times.extend(worker.join().map_err(|_| anyhow::anyhow!("a caller of the plugin panicked"))??);
        }
        Ok(times)
    })
}

fn build(bench: &Bench, pods: usize) -> anyhow::Result<Sides> {
    let Fabric { nodes: [node, _other], addresses: [addresses, _] } = fabric("cni", 79)?;
    let spec =
        NodeSpec { netns: node, addresses, pod_cidrs: ["10.79.0.0/16".to_owned(), "fd79::/64".to_owned()] };
    let name = |side: &str, index: usize| format!("sbb-{side}-{index}");
    let objects = |directory: &Path| {
        let items: Vec<Value> = (0..pods).map(|index| pod_object(&name("ours", index), "n1")).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        write_object(directory, "pods.json", &list.to_string())
    };
    let mut ours = Ours::start(&bench.binaries, "cni", "host-gw", &[spec], &objects)?;
    let peer = bridge::Node::create("sbb-cni-peer", 80)?;
    let namespaces = |side: &str| {
        (0..pods).map(|index| Netns::create_bare(&name(side, index))).collect::<anyhow::Result<_>>()
    };
    let (our_pods, peer_pods) = (namespaces("ours")?, namespaces("peer")?);
    ours.wait()?;
    Ok(Sides { ours, peer, our_pods, peer_pods })
}

/// Milliseconds of `work`.
fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn latency(what: &str, ours: &[f64], theirs: &[f64], p99: Option<f64>) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for percent in [50.0, 99.0] {
        let at = |times: &[f64]| percentile(times, percent).context("no samples");
        let row =
            Row::value(SECTION, format!("{what}, p{percent:.0}"), at(ours)?, "ms").beside(PEER, at(theirs)?);
        rows.push(match p99 {
            Some(bound) if percent > 50.0 => row.target(Target::AtMost(bound)),
            Some(_) | None => row,
        });
    }
    Ok(rows)
}
