//! Random TrafficPolicies of both kinds, with their tiers and sets of networks.

use proptest::prelude::*;
use sheetbend_model::state::traffic::{NetworkSet, Peer, Policy, Rule, Stage, Tier};
use sheetbend_model::state::{Action, IpBlock, LabelSelector, PodsByLabels, PolicyPort, Priority};

use super::objects::{accounts, labels, selector};
use super::pools::{
    NETWORK_SETS, SERVICES, TRAFFIC_TIERS, blocks, domain_patterns, excepts, service_key, text, traffic_key,
};
use super::tiers::{action, protocols};

/// TrafficTier of the pool, by its number.
pub fn traffic_tier(index: usize) -> impl Strategy<Value = Tier> {
    let order = prop::sample::select(&[0, 10, 10, 900][..]);
    let stage = prop_oneof![3 => Just(Stage::BeforeNetworkPolicies), 2 => Just(Stage::AfterNetworkPolicies)];
    (order, stage, prop::bool::weighted(0.4), prop::bool::weighted(0.05)).prop_map(
        move |(order, stage, denies, broken)| Tier {
            name: text(TRAFFIC_TIERS[index]),
            order,
            stage,
            denies,
            fault: broken.then(|| text("of another stage")),
        },
    )
}

/// NetworkSet of the pool, by its number.
pub fn network_set(index: usize) -> impl Strategy<Value = NetworkSet> {
    let networks = prop::sample::subsequence(blocks(), 0..=3);
    (labels(), networks, prop::bool::weighted(0.04)).prop_map(move |(labels, mut networks, broken)| {
        networks.sort_unstable();
        networks.dedup();
        NetworkSet {
            name: text(NETWORK_SETS[index]),
            labels,
            networks: networks.into(),
            fault: broken.then(|| text("no block")),
        }
    })
}

fn pods() -> impl Strategy<Value = PodsByLabels> {
    let by = |labels: BoxedStrategy<_>| {
        let both = (labels.clone(), labels, accounts());
        both.prop_map(|(namespaces, pods, accounts)| PodsByLabels { namespaces, pods, accounts })
    };
    prop_oneof![1 => by(selector().boxed()), 1 => by(Just(LabelSelector::default()).boxed())]
}

fn network() -> impl Strategy<Value = Peer> {
    (prop::sample::select(blocks()), prop::collection::vec(prop::sample::select(excepts()), 0..=2)).prop_map(
        |(cidr, mut except)| {
            except.retain(|except| cidr.contains(except));
            except.sort_unstable();
            except.dedup();
            Peer::Network(IpBlock { cidr, except })
        },
    )
}

fn set() -> impl Strategy<Value = Peer> {
    let name = prop::sample::select(&NETWORK_SETS[..]).prop_map(|name| Peer::NetworkSet(text(name)));
    let missing = Just(Peer::NetworkSet(text("missing")));
    prop_oneof![30 => name, 30 => selector().prop_map(Peer::NetworkSets), 1 => missing]
}

fn service() -> impl Strategy<Value = Peer> {
    (0..SERVICES).prop_map(|index| Peer::Service(service_key(index)))
}

/// Peers, mostly of one kind; `None` = everybody.
fn peers(egress: bool) -> BoxedStrategy<Option<Vec<Peer>>> {
    let pods = || pods().prop_map(Peer::Pods);
    let some = prop_oneof![
        4 => prop::collection::vec(pods(), 1..=2),
        2 => prop::collection::vec(network(), 1..=2),
        3 => prop::collection::vec(set(), 1..=1),
        1 => (pods(), set()).prop_map(|(pods, set)| vec![pods, set]),
    ];
    let some = if egress {
        let domain = prop::sample::select(domain_patterns()).prop_map(Peer::Domain);
        prop_oneof![
            2 => some,
            1 => prop::collection::vec(service(), 1..=2),
            1 => prop::collection::vec(domain, 1..=2),
            1 => (service(), network()).prop_map(|(service, network)| vec![service, network]),
        ]
        .boxed()
    } else {
        some.boxed()
    };
    prop::option::weighted(0.95, some).boxed()
}

fn rule(egress: bool) -> impl Strategy<Value = Rule> {
    let ports = prop_oneof![1 => Just(Vec::new()), 2 => protocols()];
    let log = prop::bool::weighted(0.2);
    (action(), peers(egress), ports, log).prop_map(|(action, peers, ports, log)| {
        let peers: Option<Vec<Peer>> = peers;
        let has_service = peers.iter().flatten().any(|peer| matches!(peer, Peer::Service(_)));
        // Where ports may be written at all.
        let ports: Vec<PolicyPort> = if has_service { Vec::new() } else { ports };
        Rule { name: text(""), action, peers, ports, log: log && action != Action::Pass, fault: None }
    })
}

/// TrafficPolicy number `index`, of a namespace or of the cluster.
pub fn traffic_policy(index: u8) -> impl Strategy<Value = Policy> {
    let key = traffic_key(index);
    let tier = prop_oneof![
        20 => prop::sample::select(&TRAFFIC_TIERS[..]).prop_map(|name| Some(text(name))),
        1 => Just(Some(text("missing"))),
        8 => Just(None),
    ];
    let order = prop::sample::select(&[0, 7, 10_000][..]);
    let subject = prop_oneof![2 => Just(PodsByLabels::default()), 1 => pods()];
    let rules = |egress| prop_oneof![1 => Just(Vec::new()), 3 => prop::collection::vec(rule(egress), 1..=4)];
    (tier, order, subject, rules(false), rules(true)).prop_map(
        move |(tier, order, subject, ingress, egress)| {
            let is_namespaced = !key.namespace.is_empty();
            Policy {
                key: key.clone(),
                tier: tier.filter(|_| !is_namespaced),
                order: Priority::of_order(order),
                subject,
                ingress,
                egress,
                fault: None,
            }
        },
    )
}

/// Some of the possible ones, with some tiers and sets.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Policies of both kinds.
    pub policies: Vec<Policy>,
    /// Their tiers.
    pub tiers: Vec<Tier>,
    /// Their sets.
    pub sets: Vec<NetworkSet>,
}

/// So many policies, with most tiers and sets.
pub fn traffic(count: impl Strategy<Value = u8>) -> impl Strategy<Value = Traffic> {
    let policies = count.prop_flat_map(|count| (0..count).map(traffic_policy).collect::<Vec<_>>());
    let tiers = (0..TRAFFIC_TIERS.len()).map(traffic_tier).collect::<Vec<_>>();
    let sets = (0..NETWORK_SETS.len()).map(network_set).collect::<Vec<_>>();
    (policies, tiers, sets).prop_map(|(policies, tiers, sets)| Traffic { policies, tiers, sets })
}
