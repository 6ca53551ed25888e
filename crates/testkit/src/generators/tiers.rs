//! Random ClusterNetworkPolicies.

use proptest::prelude::*;
use sheetbend_model::state::{
    Action, ClusterNetworkPolicy, ClusterPeer, ClusterRule, PodsByLabels, PolicyPort, PortMatch, Priority,
    Tier,
};
use sheetbend_model::types::Protocol;

use super::objects::{port_number, protocol, selector};
use super::pools::{PORT_NAMES, PORTS, blocks, domain_patterns, range, text, tier_name};

pub(super) fn action() -> impl Strategy<Value = Action> {
    prop_oneof![3 => Just(Action::Accept), 3 => Just(Action::Deny), 5 => Just(Action::Pass)]
}

fn pods() -> impl Strategy<Value = PodsByLabels> {
    prop_oneof![
        1 => selector().prop_map(|namespaces| PodsByLabels { namespaces, ..PodsByLabels::default() }),
        1 => (selector(), selector()).prop_map(|(namespaces, pods)| PodsByLabels {
            namespaces,
            pods,
            ..PodsByLabels::default()
        }),
    ]
}

/// Peers, mostly of one kind.
fn peers(egress: bool) -> BoxedStrategy<Vec<ClusterPeer>> {
    let pods = || pods().prop_map(ClusterPeer::Pods);
    if !egress {
        return prop::collection::vec(pods(), 1..=2).boxed();
    }
    let nodes = || selector().prop_map(ClusterPeer::Nodes);
    let network = || prop::sample::select(blocks()).prop_map(ClusterPeer::Network);
    let domain = prop::sample::select(domain_patterns()).prop_map(ClusterPeer::Domain);
    prop_oneof![
        3 => prop::collection::vec(pods(), 1..=2),
        4 => prop::collection::vec(domain, 1..=2),
        5 => prop::collection::vec(nodes(), 1..=1),
        2 => prop::collection::vec(network(), 1..=2),
        1 => (pods(), network()).prop_map(|(pods, network)| vec![pods, network]),
    ]
    .boxed()
}

/// `protocols`, of one kind, so that tests can say which kind decided. A name stands for the port of every protocol.
pub(super) fn protocols() -> impl Strategy<Value = Vec<PolicyPort>> {
    let number = || prop::sample::select(&PORTS[..]);
    let with = |port: BoxedStrategy<PortMatch>, count| {
        let port = (protocol(), port).prop_map(|(protocol, port)| PolicyPort { protocol, port });
        prop::collection::vec(port, count)
    };
    let ranges =
        (number(), 1..2_000u16).prop_map(|(first, more)| PortMatch::Range(range(first, first + more)));
    let named = |name: &'static str| {
        Protocol::ALL.map(|protocol| PolicyPort { protocol, port: PortMatch::Named(text(name)) }).to_vec()
    };
    prop_oneof![
        5 => with(port_number().prop_map(PortMatch::number).boxed(), 2..=6),
        4 => with(ranges.boxed(), 1..=3),
        3 => prop::sample::select(&PORT_NAMES[..]).prop_map(named),
    ]
}

fn rule(egress: bool) -> impl Strategy<Value = ClusterRule> {
    // Only a rule that fails closed has every peer.
    let every = prop::bool::weighted(0.03);
    let ports = prop_oneof![1 => Just(Vec::new()), 3 => protocols()];
    (action(), peers(egress), every, ports).prop_map(|(action, peers, every, ports)| {
        let closed = every && action == Action::Deny;
        ClusterRule {
            index: 0,
            name: text(""),
            action,
            peers: (!closed).then_some(peers),
            ports: if closed { Vec::new() } else { ports },
            log: false,
            fault: closed.then(|| text("of an unknown kind")),
        }
    })
}

/// ClusterNetworkPolicy number `index`.
pub fn cluster_policy(index: u8) -> impl Strategy<Value = ClusterNetworkPolicy> {
    let tier = prop_oneof![2 => Just(Tier::Admin), 3 => Just(Tier::Baseline)];
    // Few priorities, so that some are equal.
    let priority = prop::sample::select(vec![0, 7, 500, 1_000]);
    let subject = prop_oneof![2 => Just(PodsByLabels::default()), 1 => pods()];
    let rules = |egress| {
        let some = prop::collection::vec(rule(egress), 1..=6).prop_map(|mut rules| {
            (0..).zip(&mut rules).for_each(|(index, rule)| rule.index = index);
            rules
        });
        prop_oneof![1 => Just(Vec::new()), 3 => some]
    };
    (tier, priority, subject, rules(false), rules(true)).prop_map(
        move |(tier, priority, subject, ingress, egress)| ClusterNetworkPolicy {
            name: tier_name(index),
            tier,
            priority: Priority::new(priority).unwrap_or_default(),
            subject,
            ingress,
            egress,
            fault: None,
        },
    )
}

/// Some of the possible ones.
pub fn cluster_policies(
    count: impl Strategy<Value = u8>,
) -> impl Strategy<Value = Vec<ClusterNetworkPolicy>> {
    count.prop_flat_map(|count| (0..count).map(cluster_policy).collect::<Vec<_>>())
}
