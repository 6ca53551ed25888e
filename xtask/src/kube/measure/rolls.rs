//! The DaemonSet is rolled over and over, under load: nothing may be lost.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::full_sockets::FullSockets;
use super::load::{Load, Outcome};
use super::pods::{Cluster, NAMESPACE, Place, idle, server, service};
use super::report::Row;
use crate::progress::Step;

const SECTION: &str = "Agents rolled under load";
const DAEMON_SET: &str = "daemonset/sheetbend-agent";
/// A roll takes about so long, and the control run as long as all of them.
const ROLL: Duration = Duration::from_secs(7);

/// Same node, other node and Service, in every family.
pub(super) fn destinations(cluster: &Cluster) -> Result<Vec<IpAddr>> {
    let nodes = cluster.record.settings.node_names();
    let [near, far, ..] = nodes.as_slice() else { bail!("two nodes are needed") };
    for object in [server("near", near), server("far", far), service("servers"), idle("client", near)] {
        cluster.apply(&object)?;
    }
    cluster.wait_ready("app in (server,client)")?;
    let mut all = [cluster.addresses("near")?, cluster.addresses("far")?].concat();
    let service = cluster.get(&["get", "service", "-n", NAMESPACE, "servers"])?;
    for ip in service["spec"]["clusterIPs"].as_array().into_iter().flatten() {
        all.push(ip.as_str().context("a cluster address")?.parse()?);
    }
    Ok(all)
}

/// Load before, during and after `times` rolls.
pub(super) fn measure(cluster: &Cluster, times: u32, step: &mut Step) -> Result<Vec<Row>> {
    let to = destinations(cluster)?;
    let client = cluster.place(&cluster.record.settings.node_names()[0], "client")?;
    step.note("a control run without rolls");
    let control = Load::start(&client, &to)?;
    std::thread::sleep(ROLL * times);
    let control = control.end()?;
    if lost(&control) > 0 {
        bail!("something is lost without any roll: {}", losses(&control));
    }
    under_load(cluster, &client, &to, times, step)
}

/// Rolls all agents `times` times while `client` asks everybody in `to`.
pub(super) fn under_load(
    cluster: &Cluster,
    client: &Place,
    to: &[IpAddr],
    times: u32,
    step: &mut Step,
) -> Result<Vec<Row>> {
    let nodes = cluster.record.settings.node_names();
    let ends = [cluster.place(&nodes[0], "near")?, cluster.place(&nodes[1], "far")?, client.try_clone()?];
    let before = FullSockets::of(&ends)?;
    let load = Load::start(client, to)?;
    std::thread::sleep(Duration::from_secs(2));
    let began = Instant::now();
    let rolled = (1..=times).try_for_each(|time| {
        step.note(&format!("roll {time} of {times}"));
        cluster.ask(&["rollout", "restart", "-n", "kube-system", DAEMON_SET])?;
        let wait = ["rollout", "status", "-n", "kube-system", DAEMON_SET, "--timeout=180s"];
        cluster.ask(&wait).map(drop)
    });
    let each = began.elapsed().as_secs_f64() / f64::from(times.max(1));
    std::thread::sleep(Duration::from_secs(2));
    let outcome = load.end()?;
    rolled?;
    Ok(rows(&outcome, FullSockets::of(&ends)?.since(before), times, each))
}

fn lost(outcome: &Outcome) -> usize {
    outcome.missing + outcome.broken.len() + outcome.failed.len()
}

/// What a pod's process was too late for, where there is any.
fn of_full(sockets: u64) -> String {
    if sockets == 0 { String::new() } else { format!("; {sockets} arrived at a socket that was full") }
}

fn losses(outcome: &Outcome) -> String {
    let all = [outcome.broken.as_slice(), &outcome.failed].concat();
    format!(
        "{} datagrams, {} streams, {} requests{}",
        outcome.missing,
        outcome.broken.len(),
        outcome.failed.len(),
        of_each_kind(&all)
    )
}

/// What failed how often, the most frequent first.
fn of_each_kind(failures: &[String]) -> String {
    let mut kinds = BTreeMap::<&str, usize>::new();
    for failure in failures {
        *kinds.entry(failure).or_default() += 1;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, times)| Reverse(*times));
    kinds.into_iter().fold(String::new(), |text, (failure, times)| format!("{text}; {times} × {failure}"))
}

fn rows(outcome: &Outcome, full: FullSockets, times: u32, each: f64) -> Vec<Row> {
    let seconds = outcome.took.as_secs_f64();
    let row = |what: &str, lost: usize, of: usize, note: String| {
        Row::new(SECTION, what, format!("{lost} of {of}"), note).kept(lost == 0, "0")
    };
    let rate = outcome.requests as f64 / seconds;
    vec![
        Row::new(
            SECTION,
            "rolls",
            times.to_string(),
            format!("{each:.1} s each, all nodes one after the other"),
        ),
        row("HTTP requests failed", outcome.failed.len(), outcome.requests, {
            let full = of_full(full.connections);
            format!("a connection each, {rate:.0} a second{full}{}", of_each_kind(&outcome.failed))
        }),
        row("connections from before the first roll broken", outcome.broken.len(), outcome.streams, {
            format!("{} answers over them{}", outcome.answers, of_each_kind(&outcome.broken))
        }),
        row("numbered datagrams without an answer", outcome.missing, outcome.datagrams, {
            let full = of_full(full.datagrams);
            format!("{:.0} a second each way{full}", outcome.datagrams as f64 / seconds)
        }),
        Row::new(SECTION, "HTTP requests a second", format!("{rate:.0}"), String::new())
            .kept(rate >= 200.0, "≥ 200"),
    ]
}
