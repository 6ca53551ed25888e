//! Changes of policy are atomic for each pod: packets are judged, on both CPUs and without a pause, while two policy sets
//! alternate, and no packet may see half of one.
//!
//! The sets agree about some packets and differ about others. What a pod's packets see must be one sequence of whole
//! sets: never a verdict that neither set gives, and never the old set once the new one was seen. Two ways to do it
//! wrongly show that this notices.

mod judge;
mod sets;

use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use anyhow::{Context, ensure};
use aya::maps::{Map, MapData, PerCpuHashMap};
use aya::programs::SchedClassifier;
use sheetbend_apply::bpf::Kernel;
use sheetbend_compile::{Compiler, compile};
use sheetbend_ebpf_abi::Reason;
use sheetbend_model::plan::{Dataplane, Plan, PolicyRef, PolicySet, Posture, RuleKey, TierRef, diff};
use sheetbend_model::state::{NetworkConfig, Snapshot};
use sheetbend_model::types::{Family, NodeName};

use self::judge::{Clock, Order, Seen, judge};
use super::flows::Flows;
use super::{Place, links};

/// One for all cases, so that the programs are loaded once.
const INSTANCE: &str = "policy-atomic";
/// Of each family.
const PACKETS: u64 = 600_000;
/// Of each family, where changes are made wrongly.
const FEW: u64 = 100_000;

/// What a case does with the kernel.
struct Scene {
    clusters: [Snapshot; 2],
    kernel: Kernel,
    /// What the kernel holds at the start, which is set 0.
    first: Dataplane,
}

impl Scene {
    fn new(place: &Place, tables: impl Fn(Dataplane) -> Dataplane) -> anyhow::Result<Self> {
        let clusters = sets::both(place)?;
        let first = tables(compiled(&clusters[0]));
        let mut kernel = place.open(INSTANCE)?;
        let report = kernel.sync(&first, &links)?;
        ensure!(report.is_done(), "{:?}", report.failed);
        Ok(Self { clusters, kernel, first })
    }

    /// Lets `count` packets of each family be judged while the sets alternate by the plans of `to`: (which set) → plan.
    fn alternate(
        &mut self,
        place: &Place,
        count: u64,
        mut to: impl FnMut(usize) -> Plan,
    ) -> anyhow::Result<Seen> {
        let clock = Clock::default();
        let pin = place.bpffs().join("sheetbend").join(INSTANCE).join("programs");
        let pin = pin.join(self.kernel.version()).join("from_pod");
        thread::scope(|scope| {
            let mut judges = Vec::new();
            for family in Family::ALL {
                let probes = sets::probes(&self.clusters, family)?;
                let program = SchedClassifier::from_pin(&pin).context("from_pod is pinned")?;
                let clock = &clock;
                judges.push(scope.spawn(move || judge(&program, &probes, clock, count)));
            }
            let mut changed = Ok(());
            while changed.is_ok() && judges.iter().any(|judge| !judge.is_finished()) {
                let next = clock.begun.load(SeqCst) + 1;
                let plan = to((next % 2) as usize);
                clock.begun.store(next, SeqCst);
                changed = self.run(&plan);
                clock.done.store(next, SeqCst);
            }
            clock.stop.store(true, SeqCst);
            let mut sum = Seen::default();
            for (family, judge) in Family::ALL.iter().zip(judges) {
                let seen = judge.join().map_err(|_| anyhow::anyhow!("a judge panicked"))??;
                println!("{family:?}: {seen:?}");
                sum.packets += seen.packets;
                sum.during += seen.during;
                sum.by_set = [0, 1].map(|set| sum.by_set[set] + seen.by_set[set]);
                sum.torn += seen.torn;
                sum.wrong += seen.wrong;
                sum.first = sum.first.or(seen.first);
            }
            println!("{} changes", clock.done.load(SeqCst));
            changed.map(|()| sum)
        })
    }

    fn run(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let report = self.kernel.run(plan, &links)?;
        ensure!(report.is_done() && report.epoch_raised, "{report} {:?}", report.failed);
        Ok(())
    }
}

fn compiled(cluster: &Snapshot) -> Dataplane {
    compile(cluster, &NodeName::new("node-a"), &NetworkConfig::default())
}

/// Plans as the agent makes them, alternating from set 0.
fn plans(clusters: [Snapshot; 2]) -> impl FnMut(usize) -> Plan {
    let mut compiler = Compiler::new(NodeName::new("node-a"), NetworkConfig::default());
    compiler.load(&clusters[0]);
    move |set| compiler.update(&clusters[set])
}

/// At least 1,000,000 packets of both families are judged; none sees half of a policy set.
pub(super) fn no_packet_is_judged_by_half_of_a_policy_set(place: &Place) -> anyhow::Result<()> {
    let mut scene = Scene::new(place, |tables| tables)?;
    let before = judged(place)?;
    let plans = plans(scene.clusters.clone());
    let seen = scene.alternate(place, PACKETS, plans)?;
    let judged = judged(place)? - before;
    println!("{judged} packets judged, {} of them during a change", seen.during);
    ensure!(seen.torn + seen.wrong == 0, "{} torn, {} wrong: {:?}", seen.torn, seen.wrong, seen.first);
    ensure!(judged >= 1_000_000, "only {judged} of {} packets were judged", seen.packets);
    ensure!(seen.during >= 10_000, "only {} packets came during a change", seen.during);
    ensure!(seen.by_set.iter().all(|count| *count >= 10_000), "one set was hardly seen: {:?}", seen.by_set);
    Ok(())
}

/// The same with pods that change before what they refer to is there.
pub(super) fn steps_out_of_order_are_noticed(place: &Place) -> anyhow::Result<()> {
    let mut scene = Scene::new(place, |tables| tables)?;
    let mut plans = plans(scene.clusters.clone());
    let seen = scene.alternate(place, FEW, |set| {
        let plan = plans(set);
        Plan { refine: [plan.swap, plan.refine, plan.retire].concat(), swap: vec![], retire: vec![], ..plan }
    })?;
    ensure!(seen.torn > 0 && seen.wrong == 0, "{seen:?}");
    Ok(())
}

/// The same with sets whose names do not tell their rules apart, so that rules change under the pods that use them.
pub(super) fn rules_that_change_in_place_are_noticed(place: &Place) -> anyhow::Result<()> {
    let mut scene = Scene::new(place, without_digests)?;
    let tables = [0, 1].map(|set: usize| without_digests(compiled(&scene.clusters[set])));
    ensure!(tables[0] == scene.first);
    let seen = scene.alternate(place, FEW, |set| diff(&tables[1 - set], &tables[set]))?;
    ensure!(seen.torn > 0 && seen.wrong == 0, "{seen:?}");
    Ok(())
}

fn without_digests(mut tables: Dataplane) -> Dataplane {
    let name = |set: &PolicySet| PolicySet {
        policies: set.policies.iter().map(|each| PolicyRef { digest: 0, ..each.clone() }).collect(),
        tiers: set.tiers.iter().map(|each| TierRef { digest: 0, ..each.clone() }).collect(),
        ..set.clone()
    };
    for pod in tables.pods.values_mut() {
        if let Posture::Judged(set) = &mut pod.posture {
            *set = name(set);
        }
    }
    let rules = std::mem::take(&mut tables.rules).into_iter();
    tables.rules = rules.map(|(key, ruling)| (RuleKey { set: name(&key.set), ..key }, ruling)).collect();
    tables
}

/// An established order: what was seen is not taken back, and what has not begun is not foreseen.
pub(super) fn an_order_of_whole_sets_is_told_from_others(_: &Place) -> anyhow::Result<()> {
    let is = |wanted: usize| move |set: usize| set == wanted;
    let mut order = Order::default();
    ensure!(order.explain(0, 0, is(1)).is_none(), "the new set before its change began");
    ensure!(order.explain(0, 1, is(0)) == Some(0) && order.explain(0, 1, is(1)) == Some(1));
    ensure!(order.explain(0, 1, is(0)).is_none(), "the old set after the new one");
    ensure!(order.explain(0, 2, is(0)) == Some(2), "the change after it");
    ensure!(order.explain(3, 3, is(0)).is_none() && order.explain(3, 3, is(1)) == Some(3));
    ensure!(order.explain(3, 4, |_| false).is_none(), "a verdict of neither set");
    Ok(())
}

/// Packets that policy let pass or dropped, as the programs count them: packets of established flows are not among them.
fn judged(place: &Place) -> anyhow::Result<u64> {
    let pin = Flows::of(place, INSTANCE).pins.join("COUNTERS");
    let data = MapData::from_pin(pin)?;
    let counters: PerCpuHashMap<MapData, [u8; 8], [u8; 16]> =
        PerCpuHashMap::try_from(Map::PerCpuHashMap(data))?;
    let reasons = [Reason::Forwarded, Reason::PolicyDenied].map(|reason| (reason as u16).to_ne_bytes());
    let mut sum = 0;
    for row in counters.iter() {
        let (key, values) = row?;
        if reasons.contains(&[key[6], key[7]]) {
            let packets = values.iter().filter_map(|value| value.first_chunk().copied());
            sum += packets.map(u64::from_ne_bytes).sum::<u64>();
        }
    }
    Ok(sum)
}
