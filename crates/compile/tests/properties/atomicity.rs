//! While a Plan runs, every pod judges every packet as before or as after, at each single step.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use sheetbend_compile::Compiler;
use sheetbend_model::plan::{Dataplane, Entry, EntryKey, Plan, Posture, Step};
use sheetbend_model::state::{
    AttachmentId, LabelSelector, NetworkConfig, NetworkPolicy, Peer, Pod, PodPhase, PolicyRule, Snapshot,
};
use sheetbend_model::types::{Direction, Family, NetworkId, ObjectKey, Protocol};
use sheetbend_testkit::generators::cluster::{Event, sequence};
use sheetbend_testkit::generators::objects::RandomPod;
use sheetbend_testkit::generators::pools;

use crate::kernel::{Question, passes};
use crate::runner;

#[test]
fn every_step_shows_the_old_or_the_new_verdict() {
    let steps = std::cell::Cell::new(0usize);
    let mixed = std::cell::Cell::new(0usize);
    runner("atomicity", 12)
        .run(&sequence(5), |states| {
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
    let passes =
        |tables: &Dataplane, (pod, question): &(AttachmentId, Question)| passes(tables, pod, question);
    let verdicts =
        |tables: &Dataplane| -> Vec<bool> { asked.iter().map(|asked| passes(tables, asked)).collect() };
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
        for (index, question) in asked.iter().enumerate() {
            if !concerns(step, &tables, question) {
                continue;
            }
            let now = passes(&tables, question);
            prop_assert!(
                now == old[index] || now == new[index],
                "step {number} ({one}): {question:?} was {}, will be {}, is {now}\n{plan}",
                old[index],
                new[index]
            );
        }
    }
    prop_assert!(tables.pods == after.pods && tables.classes == after.classes && tables.rules == after.rules);
    Ok(())
}

/// Whether a step writes a row that the verdict of this question reads; most do not, and asking all takes a minute.
fn concerns(step: &Step, tables: &Dataplane, (pod, question): &(AttachmentId, Question)) -> bool {
    let key = match step {
        Step::Put(Entry::Service(..) | Entry::ServiceAddress(..) | Entry::Route(..) | Entry::Overlay(_)) => {
            return false;
        }
        Step::Put(Entry::Pod(id, _)) => &EntryKey::Pod(id.clone()),
        Step::Put(Entry::Class(addr, _)) => &EntryKey::Class(*addr),
        Step::Put(Entry::Block(block, _)) => &EntryKey::Block(*block),
        Step::Put(Entry::Rule(rule, _)) => &EntryKey::Rule(rule.clone()),
        Step::Delete(key) => key,
    };
    match key {
        EntryKey::Pod(id) => id == pod,
        EntryKey::Class(addr) => addr.addr == question.peer,
        // A short block of IPv6 may hold IPv4 in the kernel's eyes.
        EntryKey::Block(key) => {
            key.block.contains(&question.peer) || (key.block.addr().is_ipv6() && key.block.prefix_len() <= 96)
        }
        EntryKey::Rule(rule) => {
            let posture = tables.pods.get(pod).map(|row| &row.posture);
            rule.direction == question.direction
                && matches!(posture, Some(Posture::Judged(set)) if *set == rule.set)
        }
        EntryKey::Service(_) | EntryKey::ServiceAddress(_) | EntryKey::Route(_) => false,
    }
}

/// A pod's packets to itself are not judged.
fn is_self(before: &Dataplane, after: &Dataplane, pod: &AttachmentId, question: &Question) -> bool {
    [before, after]
        .iter()
        .filter_map(|tables| tables.pods.get(pod))
        .any(|row| row.addresses.iter().any(|own| own.addr == question.peer))
}

fn questions(state: &Snapshot) -> Vec<Question> {
    let mut peers: Vec<IpAddr> = state.pods.values().flat_map(|pod| pod.addresses.iter()).collect();
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

/// Pod number `index` of the first node, with these labels.
fn pod(index: u8, labels: &[(&str, &str)]) -> Event {
    let addresses: Vec<IpAddr> =
        Family::ALL.iter().map(|family| pools::pod_address(0, index, *family)).collect();
    let pod = Pod {
        key: ObjectKey::new(pools::NAMESPACES[0], format!("pod-{index}")),
        uid: format!("uid-{index}").into(),
        labels: Arc::new(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()),
        service_account: "default".into(),
        node: Some(pools::node()),
        network: NetworkId::default(),
        addresses: addresses.clone().into(),
        host_network: false,
        phase: PodPhase::Running,
        ready: true,
        terminating: false,
        ports: Arc::from([]),
    };
    Event::Pod(Box::new(RandomPod { index, pod, attached: Some(addresses) }))
}

/// Pods of `app` are reached from pods of `tier` only.
fn policy(app: &str, tier: &str) -> Event {
    let selector = |key: &str, value: &str| LabelSelector {
        match_labels: [(key.into(), value.into())].into(),
        match_expressions: Vec::new(),
    };
    let peers = vec![Peer::Pods { namespaces: None, pods: Some(selector("tier", tier)) }];
    Event::Policy(NetworkPolicy {
        key: ObjectKey::new(pools::NAMESPACES[0], format!("policy-{app}")),
        pod_selector: selector("app", app),
        ingress: Some(vec![PolicyRule { peers, ports: Vec::new() }]),
        egress: None,
    })
}

#[test]
fn pods_that_trade_their_policies_while_a_peer_is_relabelled() {
    let mut before = Snapshot::default();
    // Pod 0 and pod 1 trade places, pod 2 stays, pod 3 is the peer.
    let first = [
        policy("web", "one"),
        policy("db", "two"),
        pod(0, &[("app", "web")]),
        pod(1, &[("app", "db")]),
        pod(2, &[("app", "web")]),
        pod(3, &[("tier", "one")]),
    ];
    let second = [pod(0, &[("app", "db")]), pod(1, &[("app", "web")]), pod(3, &[("tier", "two")])];
    first.iter().for_each(|event| event.apply(&mut before));
    let mut after = before.clone();
    second.iter().for_each(|event| event.apply(&mut after));

    let mut compiler = Compiler::new(pools::node(), NetworkConfig::default());
    let mut tables = Dataplane::default();
    for state in [&before, &after, &before] {
        let plan = compiler.update(state);
        let old = tables.clone();
        tables.apply(&plan);
        check(&old, &tables, &plan, state).unwrap();
    }
}
