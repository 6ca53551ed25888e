//! Large clusters, always the same, for benches and memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sheetbend_model::state::{
    Attachment, AttachmentId, ContainerPort, Endpoint, EndpointPort, EndpointSlice, IpBlock, LabelSelector,
    Namespace, NetworkPolicy, Node, Peer, Pod, PodPhase, PolicyPort, PolicyRule, PortMatch, Service,
    ServicePort, Snapshot, TargetPort, Weights,
};
use sheetbend_model::types::{
    Family, Labels, Mac, NetworkId, NodeName, ObjectKey, Port, PortRange, Protocol,
};

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pods in the cluster, at most 110 on a node, dual-stack.
    pub pods: usize,
    /// NetworkPolicies, spread over the namespaces.
    pub policies: usize,
    /// Namespaces.
    pub namespaces: usize,
}

impl Size {
    /// 1,000 policies × 10,000 pods in 100 namespaces.
    pub const POLICIES: Size = Size { pods: 10_000, policies: 1_000, namespaces: 100 };
}

/// Pods on a node of [`policies`].
pub const PODS_PER_NODE: usize = 110;

/// The first node of a large cluster, the one whose Dataplane is looked at.
pub fn node() -> NodeName {
    node_name(0)
}

fn node_name(index: usize) -> NodeName {
    NodeName::new(format!("node-{index:04}"))
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap_or_else(|error| panic!("{error}"))
}

fn label(key: &str, value: String) -> (Arc<str>, Arc<str>) {
    (key.into(), value.into())
}

/// A cluster with policies. Pods of each namespace are spread over all nodes, so that a node holds policies of all of
/// them in force.
pub fn policies(size: Size) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for index in 0..size.pods.div_ceil(PODS_PER_NODE) {
        add_node(&mut snapshot, index);
    }
    for index in 0..size.namespaces {
        let name: Arc<str> = namespace_name(index);
        let labels = Labels::from([
            ("kubernetes.io/metadata.name".into(), name.clone()),
            label("team", format!("team-{}", index % 10)),
        ]);
        snapshot.namespaces.insert(name.clone(), Arc::new(Namespace { name, labels, audit: false }));
    }
    for index in 0..size.pods {
        add_pod(&mut snapshot, &size, index);
    }
    for index in 0..size.policies {
        let policy = policy(&size, index);
        snapshot.policies.insert(policy.key.clone(), Arc::new(policy));
    }
    snapshot
}

fn namespace_name(index: usize) -> Arc<str> {
    format!("ns-{index:03}").into()
}

fn add_node(snapshot: &mut Snapshot, index: usize) {
    let number = index as u16;
    let node = Node {
        name: node_name(index),
        labels: Labels::new(),
        leaving: false,
        addresses: vec![
            Ipv4Addr::from(0xac10_0001 + index as u32).into(),
            Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number + 1).into(),
        ],
        other_addresses: Vec::new(),
        pod_cidrs: [pod_range(index, Family::IPv4), pod_range(index, Family::IPv6)]
            .into_iter()
            .flatten()
            .collect(),
    };
    snapshot.nodes.insert(node.name.clone(), Arc::new(node));
}

fn pod_range(node: usize, family: Family) -> Option<IpNet> {
    match family {
        Family::IPv4 => {
            Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + ((node as u32) << 8)), 24).ok().map(IpNet::V4)
        }
        Family::IPv6 => {
            Ipv6Net::new(Ipv6Addr::new(0xfd00, 2, node as u16, 0, 0, 0, 0, 0), 64).ok().map(IpNet::V6)
        }
    }
}

/// Pod number `index` of a cluster of [`policies`]: which labels it has with `generation`.
pub fn pod(size: &Size, index: usize, generation: usize) -> Pod {
    let namespace = namespace_name(index % size.namespaces);
    let (node, slot) = (index / PODS_PER_NODE, index % PODS_PER_NODE + 2);
    let app = (index / size.namespaces + index + generation) % 20;
    Pod {
        key: ObjectKey::new(namespace, format!("pod-{index:05}")),
        uid: format!("00000000-0000-0000-0000-{index:012}").into(),
        labels: Arc::new(Labels::from([
            label("app", format!("app-{app}")),
            label("tier", format!("tier-{}", app % 3)),
            label("pod-template-hash", format!("{:08x}", index / 10)),
        ])),
        service_account: "default".into(),
        node: Some(node_name(node)),
        network: NetworkId::default(),
        addresses: vec![
            Ipv4Addr::from(0x0a00_0000 + ((node as u32) << 8) + slot as u32).into(),
            Ipv6Addr::new(0xfd00, 2, node as u16, 0, 0, 0, 0, slot as u16).into(),
        ]
        .into(),
        host_network: false,
        phase: PodPhase::Running,
        ready: true,
        terminating: false,
        ports: Arc::from([ContainerPort {
            name: Some("http".into()),
            port: port(8080 + (index % 2) as u16),
            protocol: Protocol::Tcp,
            host_port: None,
            host_ip: None,
        }]),
    }
}

fn add_pod(snapshot: &mut Snapshot, size: &Size, index: usize) {
    let pod = pod(size, index, 0);
    if index < PODS_PER_NODE {
        let id = AttachmentId { container_id: format!("container-{index:05}").into(), ifname: "eth0".into() };
        let attachment = Attachment {
            id: id.clone(),
            pod: Some(pod.key.clone()),
            pod_uid: Some(pod.uid.clone()),
            netns: format!("/run/netns/{index}").into(),
            network: NetworkId::default(),
            addresses: pod.addresses.into(),
            host_ifname: format!("sb{index}").into(),
            host_ifindex: 100 + index as u32,
            host_mac: Mac([0x0a, 0x5b, 0, 0, 0, 1]),
            pod_mac: Mac([0x0a, 0x5b, 0, 1, (index >> 8) as u8, index as u8]),
            mtu: 1450,
            bandwidth: Default::default(),
        };
        snapshot.attachments.insert(id, Arc::new(attachment));
    }
    snapshot.pods.insert(pod.key.clone(), Arc::new(pod));
}

fn selector(pairs: &[(&str, String)]) -> LabelSelector {
    let match_labels = pairs.iter().map(|(key, value)| label(key, value.clone())).collect();
    LabelSelector { match_labels, match_expressions: Vec::new() }
}

/// Policy number `index` of a cluster of [`policies`]: of every ten in a namespace one selects all pods and denies, the
/// others select a tier and allow peers by labels, namespaces and blocks.
pub fn policy(size: &Size, index: usize) -> NetworkPolicy {
    let (namespace, number) = (index % size.namespaces, index / size.namespaces);
    let key = ObjectKey::new(namespace_name(namespace), format!("policy-{index:05}"));
    if number.is_multiple_of(10) {
        return NetworkPolicy {
            key,
            pod_selector: LabelSelector::default(),
            ingress: Some(Vec::new()),
            egress: None,
        };
    }
    let app = |offset: usize| selector(&[("app", format!("app-{}", (number * 3 + offset) % 20))]);
    let tcp = |port: PortMatch| PolicyPort { protocol: Protocol::Tcp, port };
    let range = PortRange::new(port(9000), port(9100));
    let from_apps = PolicyRule {
        peers: vec![
            Peer::Pods { namespaces: None, pods: Some(app(1)) },
            Peer::Pods {
                namespaces: Some(selector(&[("team", format!("team-{}", number % 10))])),
                pods: Some(app(2)),
            },
        ],
        ports: vec![tcp(PortMatch::Named("http".into())), tcp(PortMatch::number(port(443)))],
    };
    let from_block = PolicyRule {
        peers: vec![Peer::Block(block(index))],
        ports: range.map(PortMatch::Range).map(tcp).into_iter().collect(),
    };
    let to_apps = PolicyRule {
        peers: vec![Peer::Pods { namespaces: None, pods: Some(app(4)) }],
        ports: vec![tcp(PortMatch::Named("http".into()))],
    };
    let egress = number.is_multiple_of(2).then(|| vec![to_apps]);
    let pod_selector = selector(&[("tier", format!("tier-{}", number % 3))]);
    NetworkPolicy { key, pod_selector, ingress: Some(vec![from_apps, from_block]), egress }
}

fn block(index: usize) -> IpBlock {
    let net = |text: String| -> IpNet { text.parse().unwrap_or_else(|error| panic!("{text}: {error}")) };
    IpBlock {
        cidr: net(format!("172.{}.{}.0/24", 16 + index % 16, index % 200)),
        except: vec![net(format!("172.{}.{}.64/26", 16 + index % 16, index % 200))],
    }
}

/// `count` Services with `endpoints` endpoints in all, IPv4, a slice each, and no pods.
pub fn services(count: usize, endpoints: usize) -> Snapshot {
    let mut snapshot = Snapshot::default();
    add_node(&mut snapshot, 0);
    for index in 0..count {
        let from = index * endpoints / count;
        let to = (index + 1) * endpoints / count;
        let key = service_key(index);
        let service = Service {
            cluster_ips: vec![Ipv4Addr::from(0x0a60_0000 + 10 + index as u32).into()],
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: port(80),
                node_port: None,
                target: TargetPort::Number(port(8080)),
            }],
            ..Service::new(key.clone())
        };
        snapshot.services.insert(key, Arc::new(service));
        let slice = endpoint_slice(index, from..to);
        snapshot.endpoint_slices.insert(slice.key.clone(), Arc::new(slice));
    }
    snapshot
}

fn service_key(index: usize) -> ObjectKey {
    ObjectKey::new(namespace_name(index % 100), format!("service-{index:05}"))
}

/// The slice of Service number `index`, with the endpoints of `numbers`.
pub fn endpoint_slice(index: usize, numbers: std::ops::Range<usize>) -> EndpointSlice {
    let service = service_key(index);
    EndpointSlice {
        key: ObjectKey::new(service.namespace.clone(), format!("{}-x7k2p", service.name)),
        service: Some(service.name.clone()),
        family: Family::IPv4,
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: Some(port(8080)) }],
        endpoints: numbers
            .map(|number| Endpoint {
                address: Some(IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + number as u32))),
                ready: true,
                serving: true,
                terminating: false,
                hostname: None,
                node: None,
                pod: Some((
                    ObjectKey::new(service.namespace.clone(), format!("pod-{number:06}")),
                    format!("00000000-0000-0000-0000-{number:012}").into(),
                )),
                hints: None,
            })
            .collect(),
        weights: Weights::default(),
    }
}
