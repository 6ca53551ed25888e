//! An update costs what changed: shown by what is recompiled, not by time.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_compile::{Compiler, Counters};
use sheetbend_model::state::{
    Action, ClusterNetworkPolicy, ClusterPeer, ClusterRule, LabelSelector, NetworkConfig, PodsByLabels,
    Priority, Snapshot, Tier,
};
use sheetbend_model::types::DomainPattern;
use sheetbend_testkit::generators::large::{self, Size};

const SIZE: Size = Size { pods: 1_100, policies: 200, namespaces: 20 };

/// What `change` makes `compiler` compile.
fn cost(compiler: &mut Compiler, change: impl FnOnce(&mut Snapshot)) -> Counters {
    let mut next = compiler.snapshot().clone();
    change(&mut next);
    let before = compiler.counters();
    compiler.update(&next);
    let after = compiler.counters();
    Counters {
        updates: after.updates - before.updates,
        local_pods: after.local_pods - before.local_pods,
        policies: after.policies - before.policies,
        addresses: after.addresses - before.addresses,
        blocks: after.blocks - before.blocks,
        services: after.services - before.services,
        routes: after.routes - before.routes,
    }
}

fn follower(cluster: &Snapshot) -> Compiler {
    let mut compiler = Compiler::new(large::node(), NetworkConfig::default());
    compiler.update(cluster);
    compiler
}

#[test]
fn a_pod_elsewhere_costs_its_two_addresses() {
    let mut compiler = follower(&large::policies(SIZE));
    let cost = cost(&mut compiler, |next| {
        let pod = large::pod(&SIZE, 700, 1);
        next.pods.insert(pod.key.clone(), Arc::new(pod));
    });
    assert_eq!(cost, Counters { updates: 1, addresses: 2, ..Counters::default() });
}

#[test]
fn a_policy_that_selects_no_pod_here_costs_nothing() {
    let mut compiler = follower(&large::policies(SIZE));
    let cost = cost(&mut compiler, |next| {
        let mut policy = large::policy(&SIZE, 199);
        policy.pod_selector =
            LabelSelector { match_labels: [("app".into(), "none".into())].into(), ..Default::default() };
        policy.key.name = "of-nobody".into();
        next.policies.insert(policy.key.clone(), Arc::new(policy));
    });
    assert_eq!(cost, Counters { updates: 1, ..Counters::default() });
}

#[test]
fn a_policy_without_peers_costs_no_address() {
    let mut compiler = follower(&large::policies(SIZE));
    let key = large::policy(&SIZE, 0).key;
    // The default deny of one namespace names no peer.
    let cost = cost(&mut compiler, |next| drop(next.policies.remove(&key)));
    assert_eq!(cost, Counters { updates: 1, ..Counters::default() });
}

#[test]
fn a_learnt_address_costs_itself() {
    let mut cluster = large::policies(SIZE);
    let rule = ClusterRule {
        index: 0,
        name: "".into(),
        action: Action::Accept,
        peers: Some(vec![ClusterPeer::Domain(DomainPattern::new("*.example.com").unwrap())]),
        ports: Vec::new(),
        log: false,
        fault: None,
    };
    let policy = ClusterNetworkPolicy {
        name: "names".into(),
        tier: Tier::Admin,
        priority: Priority::default(),
        subject: PodsByLabels::default(),
        ingress: Vec::new(),
        egress: vec![rule],
        fault: None,
    };
    cluster.cluster_policies.insert(policy.name.clone(), Arc::new(policy));
    let mut learn = |last: std::ops::Range<u8>| {
        let addresses = last.map(|last| IpAddr::from([203, 0, 113, last]));
        cluster.learnt_names.insert("www.example.com".into(), Arc::new(addresses.collect()));
        cluster.clone()
    };
    let (before, after) = (learn(0..100), learn(0..101));
    let mut compiler = follower(&before);
    assert!(compiler.pods().all(|(_, pod)| pod.asks_names));
    let cost = cost(&mut compiler, |next| *next = after);
    assert_eq!(cost, Counters { updates: 1, addresses: 1, ..Counters::default() });
}

#[test]
fn a_slice_costs_its_service() {
    let mut compiler = follower(&large::services(500, 2_000));
    let cost = cost(&mut compiler, |next| {
        let slice = large::endpoint_slice(123, 5_000..5_003);
        next.endpoint_slices.insert(slice.key.clone(), Arc::new(slice));
    });
    assert_eq!(cost, Counters { updates: 1, services: 1, ..Counters::default() });
}

#[test]
fn nothing_new_costs_nothing() {
    let mut compiler = follower(&large::policies(SIZE));
    let cost = cost(&mut compiler, |_| {});
    assert_eq!(cost, Counters { updates: 1, ..Counters::default() });
}
