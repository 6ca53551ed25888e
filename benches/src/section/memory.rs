//! What an agent weighs: resident memory after the first full sync and some idle time, and its peak.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cli::{Bench, say};
use crate::netns::Netns;
use crate::objects::{self, Amount};
use crate::report::{Row, Target};
use crate::topology::agent::{NodeSpec, Ours};
use crate::topology::fabric::{Fabric, fabric};
use crate::topology::process::{cpu_ticks, mib};

const SECTION: &str = "Agent memory";
/// How long an agent may take to read and apply the largest directory, where others work on the machine too.
const PATIENCE: Duration = Duration::from_secs(240);

/// A cluster, and what an agent in it may weigh.
pub(super) struct Case {
    /// As the tables call it.
    pub(super) name: &'static str,
    /// What the cluster has.
    pub(super) amount: Amount,
    /// Bound for resident memory, MiB.
    pub(super) resident: Option<f64>,
    /// Bound for its peak, MiB.
    pub(super) peak: Option<f64>,
}

struct Running {
    case: Case,
    ours: Ours,
    synced: Duration,
    /// Ticks of CPU time when idling began.
    ticks: u64,
}

/// Pods of a node, under the names that those of the next agent have too.
pub(super) struct Pods(Vec<Netns>);

impl Pods {
    /// Attaches the first `count` pods of the first node, whose objects exist.
    pub(super) fn attach(ours: &Ours, amount: Amount, count: u32) -> anyhow::Result<Self> {
        let mut pods = Self(Vec::new());
        for place in 0..count {
            let netns = Netns::create_bare(&objects::pod_name(place * amount.nodes))?;
            pods.0.push(netns.clone());
            ours.add(0, &netns)?;
        }
        Ok(pods)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        for netns in self.0.drain(..) {
            if let Err(error) = netns.remove() {
                say(&format!("the next case may find the name taken: {error:#}"));
            }
        }
    }
}

/// All of it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Agent memory …");
    rows(bench, cases(bench))
}

/// Rows of any cases.
pub(super) fn rows(bench: &Bench, cases: Vec<Case>) -> Vec<Row> {
    let idle = Duration::from_secs(if bench.quick { 5 } else { 60 });
    let mut rows = Vec::new();
    for (index, case) in cases.into_iter().enumerate() {
        let name = case.name;
        match one(bench, index as u8, case, idle) {
            Ok(measured) => rows.extend(measured),
            Err(error) => rows.push(Row::missing(SECTION, name, &error)),
        }
    }
    rows
}

/// One agent at a time: what another does is no idling.
fn one(bench: &Bench, index: u8, case: Case, idle: Duration) -> anyhow::Result<Vec<Row>> {
    let (running, _pods) = start(bench, index, case)?;
    sleep(idle);
    read(&running, idle)
}

fn cases(bench: &Bench) -> Vec<Case> {
    let pods = |pods| Amount { net: 0, nodes: 90, pods, services: pods / 10, endpoints: pods, policies: 100 };
    let services = Amount { net: 0, nodes: 100, pods: 0, services: 44_000, endpoints: 250_000, policies: 0 };
    let mut cases =
        vec![Case { name: "10,000 pods", amount: pods(10_000), resident: Some(40.0), peak: None }];
    if !bench.quick {
        cases.push(Case { name: "50,000 pods", amount: pods(50_000), resident: Some(64.0), peak: None });
        cases.push(Case {
            name: "44,000 Services with 250,000 endpoints",
            amount: services,
            resident: None,
            peak: Some(160.0),
        });
    }
    cases
}

/// Starts the agent, waits for its first sync, and attaches this node's pods.
fn start(bench: &Bench, index: u8, case: Case) -> anyhow::Result<(Running, Pods)> {
    let Fabric { nodes: [node, _other], addresses: [addresses, _] } =
        fabric(&format!("mem{index}"), 90 + index)?;
    let spec = NodeSpec { netns: node, addresses, pod_cidrs: objects::pod_cidrs(0) };
    let amount = Amount { net: 90 + index, ..case.amount };
    let begin = Instant::now();
    let mut ours = Ours::start(&bench.binaries, &format!("mem{index}"), "host-gw", &[spec], &|directory| {
        objects::write(directory, amount)
    })?;
    ours.wait_ready(PATIENCE)?;
    let synced = begin.elapsed();
    let pods = Pods::attach(&ours, amount, amount.local_pods())?;
    let ticks = cpu_ticks(ours.pid(0))?;
    Ok((Running { case, ours, synced, ticks }, pods))
}

fn read(agent: &Running, idle: Duration) -> anyhow::Result<Vec<Row>> {
    let pid = agent.ours.pid(0);
    let name = agent.case.name;
    let bounded =
        |row: Row, bound: Option<f64>| bound.map_or(row.clone(), |bound| row.target(Target::AtMost(bound)));
    let local = agent.case.amount.local_pods();
    let resident = Row::value(SECTION, format!("{name}: resident"), mib(pid, "VmRSS")?, "MiB").note(format!(
        "VmRSS, {local} of the pods on this node, {} s idle, first sync {:.1} s after the start",
        idle.as_secs(),
        agent.synced.as_secs_f64()
    ));
    let peak = Row::value(SECTION, format!("{name}: peak"), mib(pid, "VmHWM")?, "MiB")
        .note("VmHWM, first sync included");
    // USER_HZ is 100 on every platform Linux still supports.
    let busy = (cpu_ticks(pid)? - agent.ticks) as f64 / 100.0 / idle.as_secs_f64();
    let cpu = Row::value(SECTION, format!("{name}: CPU while idle"), busy * 100.0, "% of a core");
    Ok(vec![bounded(resident, agent.case.resident), bounded(peak, agent.case.peak), bounded(cpu, Some(0.5))])
}
