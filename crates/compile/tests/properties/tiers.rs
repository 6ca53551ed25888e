//! What is said about ClusterNetworkPolicies.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::{prop_assert, prop_assert_eq};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use sheetbend_compile::{Compiler, SharedPlaces, compile};
use sheetbend_model::plan::{Dataplane, Posture};
use sheetbend_model::state::{
    Action, ClusterNetworkPolicy, ClusterPeer, ClusterRule, LabelSelector, NetworkConfig, Pod, PodsByLabels,
    Priority, Snapshot, Tier, traffic,
};
use sheetbend_model::types::{Direction, ObjectKey};
use sheetbend_testkit::generators::cluster::{Event, sequence};
use sheetbend_testkit::generators::objects::{RandomPod, pod};
use sheetbend_testkit::generators::pools;

use crate::runner;

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
        index: 0,
        name: "".into(),
        action: Action::Deny,
        peers: Some(vec![ClusterPeer::Pods(PodsByLabels::default())]),
        ports: Vec::new(),
        log: false,
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

/// The policies that share their place with another one on any pod, by looking at every pair for every pod.
fn sharing(snapshot: &Snapshot) -> BTreeSet<String> {
    let selects = |policy: &ClusterNetworkPolicy, pod: &Pod| {
        let namespace = snapshot.namespaces.get(&pod.key.namespace);
        let PodsByLabels { namespaces, pods, .. } = &policy.subject;
        pod.is_peer()
            && pods.matches(&pod.labels)
            && namespace.is_some_and(|known| namespaces.matches(&known.labels))
    };
    let mut found = BTreeSet::new();
    for pod in snapshot.pods.values() {
        for (name, one) in &snapshot.cluster_policies {
            let meets = |other: &ClusterNetworkPolicy| {
                let both = |direction| !one.rules(direction).is_empty() && !other.rules(direction).is_empty();
                one.name != other.name
                    && (&one.tier, one.priority) == (&other.tier, other.priority)
                    && (both(Direction::Ingress) || both(Direction::Egress))
                    && selects(one, pod)
                    && selects(other, pod)
            };
            if snapshot.cluster_policies.values().any(|other| meets(other)) {
                found.insert(name.to_string());
            }
        }
    }
    found
}

#[test]
fn who_shares_a_place_on_any_node_is_followed_through_changes() {
    let counts = Cell::new((0, 0));
    runner("places", 150)
        .run(&sequence(20), |states| {
            let mut places = SharedPlaces::default();
            for state in &states {
                let said = places.follow(state);
                prop_assert!(said.iter().all(|condition| condition.reason == "OverlappingPriority"));
                let named: BTreeSet<String> =
                    said.iter().map(|condition| condition.object.name.to_string()).collect();
                prop_assert_eq!(named.len(), said.len());
                prop_assert_eq!(&named, &sharing(state));
                let (some, all) = counts.get();
                counts.set((some + usize::from(!named.is_empty()), all + 1));
            }
            Ok(())
        })
        .unwrap();
    let (some, all) = counts.get();
    assert!(some * 100 > all && some < all, "policies share a place in {some} of {all} states");
}

/// Ten thousand networks of a NetworkSet are one class of peers, whatever rules name it; one more is one more row.
#[test]
fn a_large_network_set_is_one_class() {
    const NETWORKS: u32 = 10_000;
    let mut snapshot = Snapshot::default();
    with_pod(&mut snapshot, 0);
    let set = |count: u32| {
        let networks = (0..count).map(|number| {
            let addr = std::net::Ipv4Addr::from(0xc633_0000 + number * 4);
            ipnet::IpNet::new(addr.into(), 31).unwrap()
        });
        traffic::NetworkSet {
            name: "many".into(),
            labels: Default::default(),
            networks: networks.collect(),
            fault: None,
        }
    };
    let rule = traffic::Rule {
        name: "".into(),
        action: Action::Deny,
        peers: Some(vec![traffic::Peer::NetworkSet("many".into())]),
        ports: Vec::new(),
        log: false,
        fault: None,
    };
    let policy = traffic::Policy {
        key: ObjectKey::cluster_scoped("threats"),
        tier: None,
        order: Priority::default(),
        subject: PodsByLabels::default(),
        ingress: vec![rule.clone()],
        egress: vec![rule],
        fault: None,
    };
    snapshot.network_sets.insert("many".into(), Arc::new(set(NETWORKS)));
    snapshot.traffic_policies.insert(policy.key.clone(), Arc::new(policy));
    let mut compiler = Compiler::new(pools::node(), NetworkConfig::default());
    compiler.update(&snapshot);
    let tables = compiler.dataplane();
    let classes: BTreeSet<_> = tables.blocks.values().collect();
    assert_eq!((tables.blocks.len(), classes.len()), (NETWORKS as usize, 1));
    // Of both directions: every peer, and the class.
    assert_eq!(tables.rules.len(), 4, "{:?}", tables.rules.keys());

    snapshot.network_sets.insert("many".into(), Arc::new(set(NETWORKS + 1)));
    compiler.update(&snapshot);
    let tables = compiler.dataplane();
    assert_eq!((tables.blocks.len(), tables.rules.len()), (NETWORKS as usize + 1, 4));
    assert_eq!(tables, compiled(&snapshot));
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
