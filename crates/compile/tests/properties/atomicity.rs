//! While a Plan runs, every pod judges every packet as before or as after, at each single step.

use std::net::IpAddr;

use proptest::prelude::*;
use sheetbend_compile::Compiler;
use sheetbend_model::plan::{Dataplane, Entry, Plan, Step};
use sheetbend_model::state::{AttachmentId, NetworkConfig, Snapshot};
use sheetbend_model::types::{Direction, Family, Protocol};
use sheetbend_testkit::generators::cluster::sequence;
use sheetbend_testkit::generators::pools;

use crate::kernel::{Question, verdict};
use crate::runner;

#[test]
fn every_step_shows_the_old_or_the_new_verdict() {
    let steps = std::cell::Cell::new(0usize);
    let mixed = std::cell::Cell::new(0usize);
    runner("atomicity", 14)
        .run(&sequence(6), |states| {
            let mut compiler = Compiler::new(pools::node(), NetworkConfig::default());
            let mut tables = Dataplane::default();
            for state in &states {
                let plan = compiler.update(state);
                steps.set(steps.get() + plan.len());
                mixed.set(mixed.get() + usize::from(plan.to_string().contains("{was ")));
                let before = tables.clone();
                tables.apply(&plan);
                check(&before, &tables, &plan, state)?;
            }
            Ok(())
        })
        .unwrap();
    eprintln!("{} steps; {} plans with mixed classes", steps.get(), mixed.get());
    assert!(mixed.get() > 0, "no plan changed a pod's set and a peer's labels at once");
}

fn check(before: &Dataplane, after: &Dataplane, plan: &Plan, state: &Snapshot) -> Result<(), TestCaseError> {
    let pods: Vec<AttachmentId> = before.pods.keys().chain(after.pods.keys()).cloned().collect();
    let asked: Vec<(AttachmentId, Question)> = pods
        .iter()
        .flat_map(|pod| questions(state).into_iter().map(|question| (pod.clone(), question)))
        .filter(|(pod, question)| !is_self(before, after, pod, question))
        .collect();
    let verdicts = |tables: &Dataplane| -> Vec<bool> {
        asked.iter().map(|(pod, question)| verdict(tables, pod, question).passes()).collect()
    };
    let (old, new) = (verdicts(before), verdicts(after));
    if !plan.raise_epoch {
        // Verdicts of pods that stay may only change when established flows are judged anew.
        for ((pod, question), (old, new)) in asked.iter().zip(old.iter().zip(&new)) {
            let stays = before.pods.contains_key(pod) && after.pods.contains_key(pod);
            prop_assert!(!stays || old == new, "no new epoch, but {pod:?} {question:?} changed\n{plan}");
        }
    }
    let mut tables = before.clone();
    for (number, step) in plan.steps().enumerate() {
        let one = Plan { refine: vec![step.clone()], ..Plan::default() };
        tables.apply(&one);
        if matches!(step, Step::Put(Entry::Service(..) | Entry::Route(..) | Entry::Overlay(_))) {
            continue;
        }
        for (index, now) in verdicts(&tables).into_iter().enumerate() {
            prop_assert!(
                now == old[index] || now == new[index],
                "step {number} ({one}): {:?} was {}, will be {}, is {now}\n{plan}",
                asked[index],
                old[index],
                new[index]
            );
        }
    }
    Ok(())
}

/// A pod's packets to itself are not judged.
fn is_self(before: &Dataplane, after: &Dataplane, pod: &AttachmentId, question: &Question) -> bool {
    [before, after]
        .iter()
        .filter_map(|tables| tables.pods.get(pod))
        .any(|row| row.addresses.iter().any(|own| own.addr == question.peer))
}

fn questions(state: &Snapshot) -> Vec<Question> {
    let mut peers: Vec<IpAddr> = state.pods.values().flat_map(|pod| pod.addresses.clone()).collect();
    peers.extend(pools::world());
    peers.extend((0..3).map(|slot| pools::pod_address(0, slot, Family::IPv4)));
    peers.sort();
    peers.dedup();
    let what = [(Some(Protocol::Tcp), 80), (Some(Protocol::Tcp), 8080), (Some(Protocol::Udp), 53), (None, 0)];
    let mut questions = Vec::new();
    for peer in peers {
        for direction in [Direction::Ingress, Direction::Egress] {
            for (protocol, port) in what {
                questions.push(Question { direction, peer, protocol, port });
            }
        }
    }
    questions
}
