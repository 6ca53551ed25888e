//! What is found in policies is certain: rules that are said to do nothing do nothing.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use sheetbend_compile::lint::{Code, Finding, Level, lint};
use sheetbend_compile::resolved;
use sheetbend_model::state::{
    Action, ClusterNetworkPolicy, ClusterRule, PodsByLabels, Priority, Snapshot, Tier,
};
use sheetbend_model::types::Direction;
use sheetbend_oracle::{Allowed, Decision, networkpolicy};
use sheetbend_testkit::generators::cluster::{cluster, tiered_cluster, traffic_cluster};
use sheetbend_testkit::generators::packet::packet;

use crate::runner;
use crate::verdicts::{carried, family_of, find, oracle_flow};

const PACKETS: usize = 60;

#[test]
fn what_is_said_to_do_nothing_does_nothing() {
    let (shadowed, redundant, idle, decisions) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new(0));
    let add = |cell: &Cell<usize>, count: usize| cell.set(cell.get() + count);
    runner("lint", 1500)
        .run(
            &(
                prop_oneof![2 => cluster(), 2 => tiered_cluster(), 1 => traffic_cluster()],
                prop::collection::vec(packet(), PACKETS),
            ),
            |(cluster, packets)| {
                let findings = lint(&cluster);
                let of = |code| findings.iter().filter(move |finding| finding.code == code);
                add(&shadowed, of(Code::ShadowedRule).count());
                add(&redundant, of(Code::RedundantRule).count());
                add(&idle, of(Code::SelectsNothing).count() + of(Code::NoSuchPort).count());
                let useless: BTreeSet<_> = findings.iter().filter(|of| does_nothing(of.code)).collect();
                for packet in &packets {
                    let Some(family) = family_of(packet) else { continue };
                    let ends =
                        (find(&cluster, packet.source, family), find(&cluster, packet.destination, family));
                    let (Some(source), Some(destination)) = ends else { continue };
                    let (protocol, port) = carried(&cluster, packet, destination.pod);
                    let flow = oracle_flow((&source, &destination), (protocol, port));
                    let judged = networkpolicy(&cluster, &flow);
                    add(&decisions, 1);
                    check(&useless, Direction::Egress, &judged.egress)?;
                    check(&useless, Direction::Ingress, &judged.ingress)?;
                }
                check_names(&resolved(&cluster), &findings)
            },
        )
        .unwrap();
    let counts = (shadowed.get(), redundant.get(), idle.get());
    eprintln!("{counts:?} findings, {} packets", decisions.get());
    assert!(counts.0 >= 50 && counts.1 >= 50 && counts.2 >= 50, "{counts:?}");
}

#[test]
fn what_fails_closed_is_an_error() {
    let (rule, whole) = ("a peer of an unknown kind", "an unknown tier");
    let rule = ClusterRule {
        index: 0,
        name: "".into(),
        action: Action::Deny,
        peers: None,
        ports: Vec::new(),
        log: false,
        fault: Some(rule.into()),
    };
    let policy = ClusterNetworkPolicy {
        name: "odd".into(),
        tier: Tier::Admin,
        priority: Priority::default(),
        subject: PodsByLabels::default(),
        ingress: Vec::new(),
        egress: vec![rule],
        fault: Some(whole.into()),
    };
    let mut cluster = Snapshot::default();
    cluster.cluster_policies.insert(policy.name.clone(), policy.into());
    let found = lint(&cluster);
    let found: Vec<_> = found.iter().filter(|of| of.code.level() == Level::Error).collect();
    let texts: Vec<&str> = found.iter().map(|of| of.message.as_str()).collect();
    assert_eq!(texts, [whole, "the rule fails closed: a peer of an unknown kind"]);
    assert!(found.iter().all(|of| of.code == Code::FailsClosed));
}

fn does_nothing(code: Code) -> bool {
    matches!(code, Code::ShadowedRule | Code::RedundantRule | Code::SelectsNothing)
}

/// No useless rule decides; a redundant one only together with one before it.
fn check(
    useless: &BTreeSet<&Finding>,
    direction: Direction,
    decision: &Decision,
) -> Result<(), TestCaseError> {
    for finding in useless {
        let is_its = |rule: u32| finding.rule.is_none_or(|at| at == (direction, rule));
        let decides = match decision {
            Decision::Accepted(by) | Decision::Refused(by) => {
                finding.policy.namespace.is_empty() && finding.policy.name == by.policy && is_its(by.rule)
            }
            Decision::Allowed(rules) => {
                let own: Vec<&Allowed> = rules.iter().filter(|of| of.policy == finding.policy).collect();
                if finding.code == Code::RedundantRule {
                    // The first of a policy's rules that allow it cannot be one that those before it cover.
                    own.first().is_some_and(|first| is_its(first.rule))
                } else {
                    own.iter().any(|of| is_its(of.rule))
                }
            }
            Decision::Denied(isolating) => {
                finding.code == Code::SelectsNothing && isolating.contains(&finding.policy)
            }
            Decision::NotJudged | Decision::NotIsolated => false,
        };
        prop_assert!(!decides, "{:?} and yet {:?}", finding, decision);
    }
    Ok(())
}

/// Two findings of one rule and code differ, and each names a policy that exists.
fn check_names(cluster: &Snapshot, findings: &[Finding]) -> Result<(), TestCaseError> {
    prop_assert_eq!(findings.iter().collect::<BTreeSet<_>>().len(), findings.len());
    for finding in findings {
        let known = match finding.policy.namespace.is_empty() {
            true => cluster.cluster_policies.contains_key(&finding.policy.name),
            false => cluster.policies.contains_key(&finding.policy),
        };
        prop_assert!(known, "{:?}", finding);
    }
    Ok(())
}
