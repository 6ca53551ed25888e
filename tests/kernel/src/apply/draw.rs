//! Random Dataplanes from small pools, so that states overlap.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use sheetbend_model::plan::{
    AddressHolder, Backend, Class, Dataplane, Frontend, LOOPBACK, LocalPod, Origin, Overlay, PolicyRef,
    PolicySet, Posture, Reach, Route, RuleKey, Ruling, Scope, ServiceEntry, Term,
};
use sheetbend_model::state::{Algorithm, AttachmentId, NetworkMode};
use sheetbend_model::types::{
    AddrKey, BlockKey, Direction, NetworkId, NodeName, ObjectKey, Port, PortPrefix, Protocol,
};

const ADDRESSES: [&str; 6] = ["10.1.0.1", "10.1.0.2", "10.2.0.1", "2001:db8::1", "2001:db8::2", "192.0.2.1"];
const BLOCKS: [&str; 6] = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0", "2001:db8::/32", "10.1.0.1/32"];
const PODS: usize = 6;

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address of the pool")
}

fn block(text: &str) -> BlockKey {
    BlockKey::new(text.parse().expect("a block of the pool"))
}

fn port(number: u16) -> Port {
    Port::new(number).expect("a port of the pool")
}

fn class() -> impl Strategy<Value = Class> {
    let terms = vec![
        Term::Selector("ns=a pod=*".into()),
        Term::Selector("ns=b pod=app=web".into()),
        Term::Block("10.0.0.0/8".into()),
        Term::NamedPort("http".into(), Protocol::Tcp, port(80)),
    ];
    subsequence(terms, 0..=2).prop_map(Class::new)
}

fn policy_set() -> impl Strategy<Value = PolicySet> {
    let refs: Vec<PolicyRef> = (0..4u64)
        .map(|n| PolicyRef {
            policy: ObjectKey::new("a", format!("policy-{}", n / 2)),
            digest: n,
            ingress: n % 2 == 0,
            egress: n >= 2,
        })
        .collect();
    let named: Vec<(Arc<str>, Protocol, Port)> = vec![("http".into(), Protocol::Tcp, port(8080))];
    (subsequence(refs, 0..=2), subsequence(named, 0..=1)).prop_map(|(policies, named_ports)| PolicySet {
        named_ports: if policies.is_empty() { Arc::default() } else { named_ports.into() },
        policies: policies.into(),
        ..PolicySet::default()
    })
}

fn rule() -> impl Strategy<Value = (RuleKey, Ruling)> {
    let direction = select(vec![Direction::Ingress, Direction::Egress]);
    let ports = prop_oneof![
        Just((None, PortPrefix::ALL)),
        Just((Some(Protocol::Tcp), PortPrefix::ALL)),
        Just((Some(Protocol::Udp), PortPrefix { value: 53, len: 16 })),
        Just((Some(Protocol::Tcp), PortPrefix { value: 8_000, len: 13 })),
    ];
    (policy_set(), direction, proptest::option::of(class()), ports, 0..3u32, 0..5u8).prop_map(
        |(set, direction, class, (protocol, ports), rule, verdict)| {
            // An empty class is no peer of a rule.
            let class = class.filter(|class| !class.is_empty());
            let origin = Origin { policy: ObjectKey::new("a", "policy-0"), direction, rule };
            let ruling = match verdict {
                0 => Ruling::deny(origin),
                1 => Ruling::default(false),
                _ => Ruling::allow(origin),
            };
            (RuleKey { set, direction, class, protocol, ports }, ruling)
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    prop_oneof![
        Just(Route::Local),
        Just(Route::Unowned),
        Just(Route::NoMasquerade),
        Just(Route::Service),
        (select(vec![None, Some("192.0.2.2"), Some("192.0.2.3")]), any::<bool>()).prop_map(
            |(other, node_ports)| Route::NodeAddress {
                node: NodeName::new("b"),
                other: other.map(addr),
                node_ports
            }
        ),
        (select(vec!["192.0.2.2", "192.0.2.3"]), any::<bool>()).prop_map(|(via, direct)| Route::Node {
            node: NodeName::new("b"),
            via: addr(via),
            direct
        }),
    ]
}

fn backend() -> impl Strategy<Value = Backend> {
    (select(ADDRESSES.to_vec()), 0..2u16, select(vec!["uid-1", "uid-2"])).prop_map(|(text, number, uid)| {
        Backend {
            network: NetworkId::default(),
            addr: addr(text),
            protocol: Protocol::Tcp,
            port: port(80 + number),
            pod_uid: uid.into(),
        }
    })
}

fn service() -> impl Strategy<Value = (Frontend, ServiceEntry)> {
    let backends = proptest::collection::btree_set((backend(), any::<bool>()), 0..6);
    let weights = vec(1..=3u8, 6);
    let affinity = proptest::option::of(1..9u32);
    let ranges: Vec<IpNet> = BLOCKS.iter().map(|text| block(text).block).collect();
    let sources = proptest::option::of(subsequence(ranges, 0..=3));
    (0..4u16, backends, any::<bool>(), select(&Algorithm::ALL[..]), weights, affinity, sources).prop_map(
        |(n, backends, only_remote, algorithm, weights, affinity, sources)| {
            let frontend = Frontend {
                network: NetworkId::default(),
                addr: addr(if n % 2 == 0 { "10.96.0.1" } else { "fd00::1" }),
                protocol: Protocol::Tcp,
                port: port(80 + n / 2),
                scope: if n % 3 == 0 { Scope::Outside } else { Scope::Inside },
            };
            let of = |draining: bool| -> Vec<Backend> {
                let drawn =
                    backends.iter().filter(|(_, drains)| *drains == draining).map(|(backend, _)| backend);
                let twice = |backend: &&Backend| draining && backends.contains(&((*backend).clone(), false));
                drawn.filter(|backend| !twice(backend)).cloned().collect()
            };
            let active = of(false);
            let weights = weights[..active.len()].to_vec();
            let is_weighted = weights.iter().any(|weight| Some(weight) != weights.first());
            let entry = ServiceEntry {
                service: ObjectKey::new("a", "service"),
                port_name: "".into(),
                reach: [Reach::Inside, Reach::EveryNode, Reach::ThisNode, Reach::Apart][usize::from(n)],
                only_remote,
                sources: sources.map(Arc::from),
                algorithm,
                affinity_timeout: affinity,
                backends: active.into(),
                weights: if is_weighted { weights.into() } else { [].into() },
                draining: of(true).into(),
            };
            (frontend, entry)
        },
    )
}

fn posture() -> impl Strategy<Value = Posture> {
    prop_oneof![1 => Just(Posture::Closed), 4 => policy_set().prop_map(Posture::Judged)]
}

/// Pod `n` is one of two containers, which never live together: the address goes from one to the other.
fn pods() -> impl Strategy<Value = Vec<(AttachmentId, LocalPod)>> {
    vec((proptest::option::of(any::<bool>()), posture()), PODS).prop_map(|drawn| {
        let pod = |(n, (life, posture)): (usize, (Option<bool>, Posture))| {
            let second = life?;
            let container_id = format!("container-{n}-{second}").into();
            let id = AttachmentId { container_id, ifname: "eth0".into() };
            let pod = LocalPod {
                pod: Some(ObjectKey::new("a", format!("pod-{n}"))),
                addresses: vec![AddrKey::new(addr(ADDRESSES[n]))],
                host_ifindex: 1_000 + 2 * n as u32 + u32::from(second),
                posture,
                asks_names: false,
                audited: false,
            };
            Some((id, pod))
        };
        drawn.into_iter().enumerate().filter_map(pod).collect()
    })
}

fn overlay() -> impl Strategy<Value = Overlay> {
    let addresses: Vec<IpAddr> = ["192.0.2.1", "2001:db8:f::1"].map(addr).to_vec();
    let without = addresses.iter().chain(&LOOPBACK).copied().collect::<Vec<_>>();
    let ranges = subsequence(vec![block("10.1.1.0/24").block, block("fd00:1::/64").block], 0..=2);
    let drawn =
        (any::<bool>(), any::<bool>(), subsequence(addresses, 0..=2), subsequence(without, 0..=4), ranges);
    drawn.prop_map(|(routed, direct, node_addresses, without_node_ports, pod_cidrs)| Overlay {
        mode: if routed { NetworkMode::HostGw } else { NetworkMode::Vxlan },
        direct,
        pod_cidrs,
        node_addresses,
        without_node_ports,
        ..Overlay::default()
    })
}

/// A Dataplane.
pub fn dataplane() -> impl Strategy<Value = Dataplane> {
    let classes =
        btree_map(select(ADDRESSES.to_vec()).prop_map(|text| AddrKey::new(addr(text))), class(), 0..5);
    let wanted = || class().prop_filter("a block's class is not empty", |class| !class.is_empty());
    let blocks = btree_map(select(BLOCKS.to_vec()).prop_map(block), wanted(), 0..5);
    let routes = btree_map(select(BLOCKS.to_vec()).prop_map(block), route(), 0..5);
    let holder = select(vec![AddressHolder::Us, AddressHolder::Others]);
    let addresses = select(ADDRESSES.to_vec()).prop_map(|text| AddrKey::new(addr(text)));
    let services = (vec(service(), 0..4), btree_map(addresses, holder, 0..3));
    let tables = (pods(), classes, blocks, vec(rule(), 0..8), services, routes, overlay());
    let whole = (tables, any::<bool>());
    whole.prop_map(|((pods, classes, mut blocks, rules, services, routes, overlay), is_guarded)| {
        let (services, service_addresses) = services;
        // compile writes this row beside a block that would match mapped IPv4 addresses; apply must do so itself too.
        if is_guarded && blocks.contains_key(&block("::/0")) {
            blocks.entry(block("0.0.0.0/0")).or_default();
        }
        Dataplane {
            pods: pods.into_iter().collect(),
            classes,
            blocks,
            rules: rules.into_iter().collect(),
            services: services.into_iter().collect(),
            service_addresses,
            routes,
            overlay,
            conditions: BTreeSet::new(),
        }
    })
}

/// One thing that happens to a node.
#[derive(Clone, Debug)]
pub enum Event {
    /// The Dataplane becomes this, by the steps of `diff`.
    Run(Box<Dataplane>),
    /// The Dataplane becomes this, by a full sync.
    Sync(Box<Dataplane>),
    /// The agent is killed and starts again.
    Restart,
    /// A sweep.
    Sweep,
}

/// A sequence of events; the first is a full sync.
pub fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => dataplane().prop_map(|state| Event::Run(Box::new(state))),
        2 => dataplane().prop_map(|state| Event::Sync(Box::new(state))),
        2 => Just(Event::Restart),
        1 => Just(Event::Sweep),
    ];
    (dataplane(), vec(event, 1..8)).prop_map(|(first, rest)| {
        let mut events = vec![Event::Sync(Box::new(first))];
        events.extend(rest);
        events
    })
}
