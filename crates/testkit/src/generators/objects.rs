//! Random objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use sheetbend_model::state::{
    ContainerPort, ISOLATION, IpBlock, LabelSelector, Namespace, NetworkPolicy, Operator, Peer, Pod,
    PodPhase, PolicyPort, PolicyRule, PortMatch, Requirement, TENANT, Tenant,
};
use sheetbend_model::types::{Family, Labels, NetworkId, NodeName, PodIps, Port, Protocol};

use super::pools::{
    LABEL_KEYS, LABEL_VALUES, NAMESPACES, NODE_PORTS, NODES, PODS, PORT_NAMES, PORTS, SERVICE_ACCOUNTS,
    TENANTS, blocks, excepts, node_address, pod_address, pod_key, policy_key, port, range, text,
};

fn one_of(pool: &'static [&'static str]) -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(pool).prop_map(text)
}

/// A port number of the pool.
pub fn port_number() -> impl Strategy<Value = Port> {
    prop::sample::select(&PORTS[..]).prop_map(port)
}

/// A protocol, TCP more often than the others.
pub fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![5 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp), 2 => Just(Protocol::Sctp)]
}

/// Labels from the pools.
pub fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(one_of(&LABEL_KEYS), one_of(&LABEL_VALUES), 0..=3)
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values = prop::collection::btree_set(one_of(&LABEL_VALUES), 1..=2);
    (one_of(&LABEL_KEYS), 0..4u8, values).prop_map(|(key, operator, values)| {
        let values = values.into_iter().collect();
        match operator {
            0 => Requirement { key, operator: Operator::In, values },
            1 => Requirement { key, operator: Operator::NotIn, values },
            2 => Requirement { key, operator: Operator::Exists, values: Vec::new() },
            _ => Requirement { key, operator: Operator::DoesNotExist, values: Vec::new() },
        }
    })
}

/// A selector, often empty.
pub fn selector() -> impl Strategy<Value = LabelSelector> {
    let match_labels = prop::collection::btree_map(one_of(&LABEL_KEYS), one_of(&LABEL_VALUES), 0..=1);
    let match_expressions = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(requirement(), 1..=2),
    ];
    (match_labels, match_expressions).prop_map(|(match_labels, mut match_expressions)| {
        match_expressions.sort();
        LabelSelector { match_labels: match_labels.into(), match_expressions }
    })
}

/// Some ServiceAccounts, sorted; often none, which is any.
pub fn accounts() -> impl Strategy<Value = Vec<Arc<str>>> {
    let some = prop::sample::subsequence(&SERVICE_ACCOUNTS[..], 1..=2)
        .prop_map(|names| names.into_iter().map(text).collect());
    prop_oneof![1 => Just(Vec::new()), 2 => some]
}

/// A node port or host port of the pool.
pub fn node_port_number() -> impl Strategy<Value = Port> {
    prop::sample::select(&NODE_PORTS[..]).prop_map(port)
}

/// A namespace of the pool, by its number; few are isolated.
pub fn namespace(index: usize) -> impl Strategy<Value = Namespace> {
    namespace_with(index, 0.1)
}

/// A namespace of the pool, by its number; so many of them are isolated, 0 to 1.
pub fn namespace_with(index: usize, isolated: f64) -> impl Strategy<Value = Namespace> {
    let word = prop::sample::select(&["strict", "tenant", "tenant", "no-such-word"][..]);
    let isolation = (prop::option::weighted(isolated, word), prop::option::weighted(0.5, one_of(&TENANTS)));
    let audit = prop::bool::weighted(0.15);
    (labels(), isolation, audit).prop_map(move |(mut labels, (word, tenant), audit)| {
        labels.extend(word.map(|word| (text(ISOLATION), text(word))));
        labels.extend(tenant.map(|tenant| (text(TENANT), tenant)));
        labels.insert(text("kubernetes.io/metadata.name"), text(NAMESPACES[index]));
        Namespace { name: text(NAMESPACES[index]), labels, audit }
    })
}

/// A Tenant of the pool, by its number.
pub fn tenant(index: usize) -> impl Strategy<Value = Tenant> {
    let one = (one_of(&LABEL_KEYS), one_of(&LABEL_VALUES));
    (selector(), one).prop_map(move |(mut namespaces, (key, value))| {
        // One that selects everything is refused.
        if namespaces == LabelSelector::default() {
            namespaces.match_labels = [(key, value)].into();
        }
        Tenant { name: text(TENANTS[index]), namespaces }
    })
}

fn container_ports() -> impl Strategy<Value = Vec<ContainerPort>> {
    let host_ip = prop_oneof![
        4 => Just(None),
        1 => Just(Some(node_address(0, Family::IPv4))),
        1 => Just(Some(node_address(0, Family::IPv6))),
        1 => Just(Some(IpAddr::from([0; 4]))),
    ];
    let host = (prop::option::weighted(0.2, node_port_number()), host_ip);
    let port = (prop::option::weighted(0.9, one_of(&PORT_NAMES)), port_number(), protocol(), host);
    prop::collection::vec(port, 1..=5).prop_map(|ports| {
        let ports = ports.into_iter().map(|(name, port, protocol, (host_port, host_ip))| ContainerPort {
            name,
            // An SCTP port that can be a host port has its own number: mostly it is one.
            port: host_port
                .filter(|number| protocol == Protocol::Sctp && number.get() % 2 == 0)
                .unwrap_or(port),
            protocol,
            host_port,
            host_ip,
        });
        ports.collect()
    })
}

/// A pod, and whether and how CNI has attached it here.
#[derive(Clone, Debug)]
pub struct RandomPod {
    /// Its number; decides its key.
    pub index: u8,
    /// The pod.
    pub pod: Pod,
    /// The addresses that its attachment has, if it is on the first node and has one.
    pub attached: Option<Vec<std::net::IpAddr>>,
}

/// Pod number `index`. Two living pods never share an address; one that has ended may have its neighbour's.
pub fn pod(index: u8) -> impl Strategy<Value = RandomPod> {
    let phase = prop_oneof![
        16 => Just(PodPhase::Running),
        1 => Just(PodPhase::Pending),
        1 => Just(PodPhase::Succeeded),
        1 => Just(PodPhase::Failed),
    ];
    let place = prop_oneof![3 => Just(0usize), 1 => Just(1usize), 1 => Just(2usize)];
    let families = prop_oneof![
        4 => Just(vec![Family::IPv4, Family::IPv6]),
        1 => Just(vec![Family::IPv4]),
        1 => Just(vec![Family::IPv6]),
    ];
    let flags = (
        prop::bool::weighted(0.08), // hostNetwork
        prop::bool::weighted(0.1),  // the status has no address yet
        prop::bool::weighted(0.9),  // attached
        prop::bool::weighted(0.2),  // another address than usual
        prop::bool::weighted(0.1),  // terminating
    );
    let names = (labels(), one_of(&SERVICE_ACCOUNTS));
    (names, phase, place, families, container_ports(), flags).prop_map(
        move |(
            (mut labels, account),
            phase,
            place,
            families,
            ports,
            (host, unknown, attached, moved, terminating),
        )| {
            let slot = match (phase.is_terminal(), moved) {
                (true, _) => (index + 1) % PODS,
                (false, true) => index + 32,
                (false, false) => index,
            };
            let own: Vec<_> = families.iter().map(|family| pod_address(place, slot, *family)).collect();
            let attached = (attached && place == 0 && !host).then(|| own.clone());
            let silent = unknown && attached.is_some();
            // The pods of the last namespace are the cluster's DNS.
            if &*pod_key(index).namespace == NAMESPACES[NAMESPACES.len() - 1] {
                labels.insert(text("k8s-app"), text("kube-dns"));
            }
            let pod = Pod {
                key: pod_key(index),
                uid: format!("uid-{index}").into(),
                labels: Arc::new(labels),
                service_account: account,
                node: Some(NodeName::new(NODES[place])),
                network: NetworkId::default(),
                addresses: match (host, silent) {
                    (true, _) => families.iter().map(|f| node_address(place, *f)).collect(),
                    (false, true) => PodIps::default(),
                    (false, false) => own.into(),
                },
                host_network: host,
                phase,
                ready: !terminating,
                terminating,
                ports: ports.into(),
            };
            RandomPod { index, pod, attached }
        },
    )
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        2 => prop::option::of(selector()).prop_map(|pods| Peer::Pods {
            namespaces: None,
            pods: Some(pods.unwrap_or_default()),
        }),
        2 => (selector(), prop::option::of(selector()))
            .prop_map(|(namespaces, pods)| Peer::Pods { namespaces: Some(namespaces), pods }),
        3 => block().prop_map(Peer::Block),
    ]
}

fn block() -> impl Strategy<Value = IpBlock> {
    let chosen = prop::collection::btree_set(prop::sample::select(excepts()), 0..=6);
    (prop::sample::select(blocks()), chosen).prop_map(|(cidr, chosen)| {
        let except = chosen.into_iter().filter(|except| cidr.contains(except)).collect();
        IpBlock { cidr, except }
    })
}

/// Ports of one kind, so that tests can say which kind of port let a packet pass.
fn policy_ports() -> impl Strategy<Value = Vec<PolicyPort>> {
    let number = || prop::sample::select(&PORTS[..]);
    let several = |port: BoxedStrategy<PortMatch>| {
        let port = (protocol(), port).prop_map(|(protocol, port)| PolicyPort { protocol, port });
        prop::collection::vec(port, 1..=3)
    };
    prop_oneof![
        2 => several(Just(PortMatch::All).boxed()),
        5 => several(port_number().prop_map(PortMatch::number).boxed()),
        4 => several(
            (number(), number())
                .prop_map(|(first, last)| PortMatch::Range(range(first, last.max(first + 1))))
                .boxed()
        ),
        7 => several(one_of(&PORT_NAMES).prop_map(PortMatch::Named).boxed()),
    ]
}

/// Peers, mostly of one kind.
fn peers() -> impl Strategy<Value = Vec<Peer>> {
    let own = selector().prop_map(|pods| Peer::Pods { namespaces: None, pods: Some(pods) });
    let others = (selector(), prop::option::of(selector()))
        .prop_map(|(namespaces, pods)| Peer::Pods { namespaces: Some(namespaces), pods });
    prop_oneof![
        2 => Just(Vec::new()),
        4 => prop::collection::vec(own, 1..=2),
        3 => prop::collection::vec(others, 1..=2),
        3 => prop::collection::vec(block().prop_map(Peer::Block), 1..=2),
        1 => prop::collection::vec(peer(), 2..=3),
    ]
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    let ports = prop_oneof![1 => Just(Vec::new()), 5 => policy_ports()];
    (peers(), ports).prop_map(|(peers, ports)| PolicyRule { peers, ports })
}

/// Policy number `index`.
pub fn policy(index: u8) -> impl Strategy<Value = NetworkPolicy> {
    let rules = || prop::option::weighted(0.75, prop::collection::vec(rule(), 0..=5));
    let pod_selector = prop_oneof![3 => Just(LabelSelector::default()), 1 => selector()];
    (pod_selector, rules(), rules()).prop_map(move |(pod_selector, ingress, egress)| NetworkPolicy {
        key: policy_key(index),
        pod_selector,
        ingress,
        egress,
    })
}

/// Some of the possible pods, by number.
pub fn pods() -> impl Strategy<Value = BTreeMap<u8, RandomPod>> {
    (PODS - 4..=PODS).prop_flat_map(|count| {
        (0..count)
            .map(pod)
            .collect::<Vec<_>>()
            .prop_map(|pods| pods.into_iter().map(|pod| (pod.index, pod)).collect())
    })
}

/// Some of the possible policies.
pub fn policies(count: impl Strategy<Value = u8>) -> impl Strategy<Value = Vec<NetworkPolicy>> {
    count.prop_flat_map(|count| (0..count).map(policy).collect::<Vec<_>>())
}
