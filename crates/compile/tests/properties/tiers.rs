//! What is said about ClusterNetworkPolicies.

use std::sync::Arc;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use sheetbend_compile::compile;
use sheetbend_model::plan::{Dataplane, Posture};
use sheetbend_model::state::{
    Action, ClusterNetworkPolicy, ClusterPeer, ClusterRule, LabelSelector, NetworkConfig, PodsByLabels,
    Priority, Snapshot, Tier,
};
use sheetbend_model::types::Direction;
use sheetbend_testkit::generators::cluster::Event;
use sheetbend_testkit::generators::objects::{RandomPod, pod};
use sheetbend_testkit::generators::pools;

/// A cluster with pod number `index` of the first node, attached.
fn with_pod(snapshot: &mut Snapshot, index: u8) -> RandomPod {
    let mut runner = TestRunner::deterministic();
    let strategy = pod(index).prop_filter("a plain pod", |random| {
        random.attached.is_some() && random.pod.is_peer() && !random.pod.addresses.is_empty()
    });
    let random = strategy.new_tree(&mut runner).unwrap().current();
    Event::Pod(Box::new(random.clone())).apply(snapshot);
    random
}

fn policy(name: &str, priority: i32, directions: &[Direction]) -> ClusterNetworkPolicy {
    let rule = ClusterRule {
        name: "".into(),
        action: Action::Deny,
        peers: Some(vec![ClusterPeer::Pods(PodsByLabels::default())]),
        ports: Vec::new(),
        fault: None,
    };
    let rules = |direction| if directions.contains(&direction) { vec![rule.clone()] } else { Vec::new() };
    ClusterNetworkPolicy {
        name: name.into(),
        tier: Tier::Admin,
        priority: Priority::new(priority).unwrap(),
        subject: PodsByLabels::default(),
        ingress: rules(Direction::Ingress),
        egress: rules(Direction::Egress),
        fault: None,
    }
}

fn compiled(snapshot: &Snapshot) -> Dataplane {
    compile(snapshot, &pools::node(), &NetworkConfig::default())
}

fn said(tables: &Dataplane, reason: &str) -> Vec<String> {
    let found = tables.conditions.iter().filter(|condition| condition.reason == reason);
    found.map(|condition| condition.object.to_string()).collect()
}

#[test]
fn policies_that_share_their_place_are_named() {
    use Direction::{Egress, Ingress};
    let mut snapshot = Snapshot::default();
    with_pod(&mut snapshot, 0);
    let elsewhere = PodsByLabels {
        namespaces: LabelSelector {
            match_labels: [("nobody".into(), "has".into())].into(),
            ..LabelSelector::default()
        },
        ..PodsByLabels::default()
    };
    for policy in [
        policy("a", 5, &[Ingress]),
        policy("b", 5, &[Ingress, Egress]),
        policy("c", 5, &[Ingress]),
        policy("d", 6, &[Ingress]),
        ClusterNetworkPolicy { tier: Tier::Baseline, ..policy("e", 5, &[Ingress]) },
        ClusterNetworkPolicy { subject: elsewhere, ..policy("f", 6, &[Ingress]) },
        policy("g", 9, &[Ingress]),
        policy("h", 9, &[Egress]),
        ClusterNetworkPolicy { fault: Some("something".into()), ..policy("i", 10, &[Ingress]) },
    ] {
        snapshot.cluster_policies.insert(policy.name.clone(), Arc::new(policy));
    }
    let tables = compiled(&snapshot);
    assert_eq!(said(&tables, "OverlappingPriority"), ["a", "b", "c"]);
    assert_eq!(said(&tables, "FailsClosed"), ["i"]);
}

#[test]
fn a_direction_without_tiers_has_the_rows_it_had() {
    let mut snapshot = Snapshot::default();
    with_pod(&mut snapshot, 0);
    with_pod(&mut snapshot, 3);
    let mut runner = TestRunner::deterministic();
    for index in 0..8 {
        let policy = sheetbend_testkit::generators::objects::policy(index);
        Event::Policy(policy.new_tree(&mut runner).unwrap().current()).apply(&mut snapshot);
    }
    let rows = |tables: &Dataplane| {
        let ingress = tables.rules.iter().filter(|(key, _)| key.direction == Direction::Ingress);
        let plain = |(key, ruling): (&sheetbend_model::plan::RuleKey, _)| {
            let classes: Vec<_> = key.class.iter().flat_map(|class| class.terms().to_vec()).collect();
            (key.set.policies.clone(), classes, key.protocol, key.ports, ruling)
        };
        let mut rows: Vec<String> = ingress.map(plain).map(|row| format!("{row:?}")).collect();
        rows.sort();
        rows
    };
    let before = compiled(&snapshot);
    let mut egress = policy("tier", 1, &[Direction::Egress]);
    // Without peers there are no other classes than before.
    egress.egress.iter_mut().for_each(|rule| rule.peers = None);
    snapshot.cluster_policies.insert(egress.name.clone(), Arc::new(egress));
    let after = compiled(&snapshot);
    let has_tiers = |tables: &Dataplane| {
        let mut sets = tables.pods.values().filter_map(|row| match &row.posture {
            Posture::Judged(set) => Some(set),
            Posture::Closed => None,
        });
        sets.any(|set| set.has_tiers(Direction::Egress))
    };
    assert!(has_tiers(&after) && !has_tiers(&before));
    assert_eq!(rows(&before), rows(&after));
    assert!(!rows(&before).is_empty());
}
