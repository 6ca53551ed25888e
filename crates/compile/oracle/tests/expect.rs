//! What probes must see, in the words of the contract.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{
    Endpoint, EndpointPort, EndpointSlice, IpBlock, LabelSelector, NetworkPolicy, Node, Peer, Pod, PodPhase,
    PolicyPort, PolicyRule, PortMatch, Service, ServicePort, Snapshot, TargetPort, Weights,
};
use sheetbend_model::types::{Direction, Family, NetworkId, NodeName, ObjectKey, Port, Protocol};
use sheetbend_oracle::{End, Expected, L4, Probe, expect};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A dual-stack pod with number `n` on `node`.
fn add_pod(cluster: &mut Snapshot, name: &str, n: u8, node: &str, host_network: bool) {
    let pod = Pod {
        key: key(name),
        uid: name.into(),
        labels: Arc::new([("app".into(), name.into())].into()),
        service_account: "default".into(),
        node: Some(NodeName::new(node)),
        network: NetworkId::default(),
        addresses: vec![addr(&format!("10.244.0.{n}")), addr(&format!("fd00::{n}"))].into(),
        host_network,
        phase: PodPhase::Running,
        ready: true,
        terminating: false,
        ports: Arc::from([]),
    };
    cluster.pods.insert(pod.key.clone(), Arc::new(pod));
}

/// Pods `cart` and `web` on node a, `host` in its network, `far` on node b; `cart` takes only TCP 80 from `web`.
fn cluster() -> Snapshot {
    let mut cluster = Snapshot::default();
    for (number, name) in [(1u8, "a"), (2, "b")] {
        let node = Node {
            name: NodeName::new(name),
            labels: Default::default(),
            addresses: vec![addr(&format!("192.168.0.{number}")), addr(&format!("fd01::{number}"))],
            leaving: false,
            other_addresses: Vec::new(),
            pod_cidrs: vec!["10.244.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        };
        cluster.nodes.insert(node.name.clone(), Arc::new(node));
    }
    add_pod(&mut cluster, "cart", 2, "a", false);
    add_pod(&mut cluster, "web", 3, "a", false);
    add_pod(&mut cluster, "far", 4, "b", false);
    add_pod(&mut cluster, "host", 200, "a", true);
    let from_web = PolicyRule {
        peers: vec![Peer::Pods { namespaces: None, pods: Some(app("web")) }],
        ports: vec![PolicyPort { protocol: Protocol::Tcp, port: PortMatch::number(port(80)) }],
    };
    add_policy(&mut cluster, "cart", Some(vec![from_web]), None);
    cluster
}

fn app(name: &str) -> LabelSelector {
    LabelSelector { match_labels: [("app".into(), name.into())].into(), match_expressions: Vec::new() }
}

fn add_policy(
    cluster: &mut Snapshot,
    of: &str,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
) {
    let policy = NetworkPolicy { key: key(of), pod_selector: app(of), ingress, egress };
    cluster.policies.insert(policy.key.clone(), Arc::new(policy));
}

/// Service `cart` at 10.96.0.1 and fd96::1, port 80, with these pods (number, name) behind it.
fn add_service(cluster: &mut Snapshot, endpoints: &[(u8, &str)]) {
    let service = Service {
        cluster_ips: vec![addr("10.96.0.1"), addr("fd96::1")],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: None,
            target: TargetPort::Number(port(80)),
        }],
        ..Service::new(key("cart"))
    };
    cluster.services.insert(service.key.clone(), Arc::new(service));
    for (family, prefix) in [(Family::IPv4, "10.244.0."), (Family::IPv6, "fd00::")] {
        let endpoint = |(n, name): &(u8, &str)| Endpoint {
            address: Some(addr(&format!("{prefix}{n}"))),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: None,
            pod: Some((key(name), (*name).into())),
            hints: None,
        };
        let slice = EndpointSlice {
            key: key(&format!("cart-{family}")),
            service: Some("cart".into()),
            family,
            ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: Some(port(80)) }],
            endpoints: endpoints.iter().map(endpoint).collect(),
            weights: Weights::default(),
        };
        cluster.endpoint_slices.insert(slice.key.clone(), Arc::new(slice));
    }
}

/// Everybody listens on port 80 and on no other.
fn ask(cluster: &Snapshot, source: End, destination: &str, protocol: L4, port: u16) -> Expected {
    let probe = Probe { source, destination: addr(destination), protocol, port };
    expect(cluster, &probe, &|_, _, port| port == 80)
}

fn pod(name: &str) -> End {
    End::Pod(key(name))
}

fn allow(names: &[&str]) -> Expected {
    Expected::Allow { by: names.iter().map(|name| pod(name)).collect() }
}

fn denied(direction: Direction) -> Expected {
    Expected::Deny { selected_by: vec![key("cart")], direction }
}

/// The same question in both families.
const CART: [&str; 2] = ["10.244.0.2", "fd00::2"];

#[test]
fn a_rule_allows_and_default_deny_denies() {
    let cluster = cluster();
    for cart in CART {
        assert_eq!(ask(&cluster, pod("web"), cart, L4::Tcp, 80), allow(&["cart"]));
        assert_eq!(ask(&cluster, pod("web"), cart, L4::Tcp, 81), denied(Direction::Ingress));
        assert_eq!(ask(&cluster, pod("web"), cart, L4::Udp, 80), denied(Direction::Ingress));
        assert_eq!(ask(&cluster, pod("far"), cart, L4::Tcp, 80), denied(Direction::Ingress));
    }
}

#[test]
fn a_closed_port_on_an_allowed_path_is_refused() {
    let cluster = cluster();
    for far in ["10.244.0.4", "fd00::4"] {
        assert_eq!(ask(&cluster, pod("web"), far, L4::Tcp, 81), Expected::Refuse);
        assert_eq!(ask(&cluster, pod("web"), far, L4::Tcp, 80), allow(&["far"]));
    }
    // An address of a pod range that no pod has.
    assert_eq!(ask(&cluster, pod("web"), "10.244.0.99", L4::Tcp, 80), Expected::Refuse);
}

#[test]
fn echo_needs_a_rule_without_ports() {
    let mut cluster = cluster();
    for cart in CART {
        assert_eq!(ask(&cluster, pod("web"), cart, L4::Icmp, 0), denied(Direction::Ingress));
    }
    let everything = PolicyRule { peers: Vec::new(), ports: Vec::new() };
    add_policy(&mut cluster, "cart", Some(vec![everything]), None);
    for cart in CART {
        assert_eq!(ask(&cluster, pod("web"), cart, L4::Icmp, 0), allow(&["cart"]));
    }
}

#[test]
fn the_own_node_and_the_pod_itself_always_reach_it() {
    let mut cluster = cluster();
    add_policy(&mut cluster, "cart", Some(Vec::new()), Some(Vec::new()));
    for cart in CART {
        assert_eq!(ask(&cluster, pod("cart"), cart, L4::Tcp, 80), allow(&["cart"]));
        assert_eq!(ask(&cluster, End::Node(NodeName::new("a")), cart, L4::Tcp, 80), allow(&["cart"]));
        // A hostNetwork pod is its node.
        assert_eq!(ask(&cluster, pod("host"), cart, L4::Tcp, 80), allow(&["cart"]));
        assert_eq!(
            ask(&cluster, End::Node(NodeName::new("b")), cart, L4::Tcp, 80),
            denied(Direction::Ingress)
        );
    }
}

#[test]
fn a_host_network_pod_matches_blocks_and_no_selector() {
    let mut cluster = cluster();
    let everyone = PolicyRule { peers: vec![Peer::Pods { namespaces: None, pods: None }], ports: Vec::new() };
    add_policy(&mut cluster, "far", Some(vec![everyone]), None);
    let deny = Expected::Deny { selected_by: vec![key("far")], direction: Direction::Ingress };
    assert_eq!(ask(&cluster, pod("host"), "10.244.0.4", L4::Tcp, 80), deny);
    let block = IpBlock { cidr: "192.168.0.0/24".parse().unwrap(), except: Vec::new() };
    let nodes = PolicyRule { peers: vec![Peer::Block(block)], ports: Vec::new() };
    add_policy(&mut cluster, "far", Some(vec![nodes]), None);
    assert_eq!(ask(&cluster, pod("host"), "10.244.0.4", L4::Tcp, 80), allow(&["far"]));
}

#[test]
fn a_service_is_judged_at_its_backends() {
    let mut cluster = cluster();
    add_service(&mut cluster, &[(2, "cart"), (4, "far")]);
    for frontend in ["10.96.0.1", "fd96::1"] {
        assert_eq!(ask(&cluster, pod("web"), frontend, L4::Tcp, 80), allow(&["cart", "far"]));
        // `far` reaches itself by way of the Service, and is denied at `cart`.
        let mixed = Expected::OneOf(vec![allow(&["far"]), denied(Direction::Ingress)]);
        assert_eq!(ask(&cluster, pod("far"), frontend, L4::Tcp, 80), mixed);
        // Node processes reach Services later; nothing is promised yet.
        assert_eq!(ask(&cluster, pod("host"), frontend, L4::Tcp, 80), Expected::Unspecified);
    }
    // A block that covers a cluster address matches nothing.
    let block = IpBlock { cidr: "10.96.0.0/16".parse().unwrap(), except: Vec::new() };
    let rule = PolicyRule { peers: vec![Peer::Block(block)], ports: Vec::new() };
    add_policy(&mut cluster, "web", None, Some(vec![rule]));
    let deny = Expected::Deny { selected_by: vec![key("web")], direction: Direction::Egress };
    assert_eq!(ask(&cluster, pod("web"), "10.96.0.1", L4::Tcp, 80), deny);
}

#[test]
fn a_service_without_endpoints_refuses() {
    let mut cluster = cluster();
    add_service(&mut cluster, &[]);
    for frontend in ["10.96.0.1", "fd96::1"] {
        assert_eq!(ask(&cluster, pod("web"), frontend, L4::Tcp, 80), Expected::Refuse);
    }
}

#[test]
fn the_world_is_judged_by_its_address() {
    let mut cluster = cluster();
    let block =
        IpBlock { cidr: "203.0.113.0/24".parse().unwrap(), except: vec!["203.0.113.64/26".parse().unwrap()] };
    let rule = PolicyRule { peers: vec![Peer::Block(block)], ports: Vec::new() };
    add_policy(&mut cluster, "cart", Some(vec![rule]), None);
    let from = |text| End::World(addr(text));
    assert_eq!(ask(&cluster, from("203.0.113.5"), CART[0], L4::Tcp, 80), allow(&["cart"]));
    assert_eq!(ask(&cluster, from("203.0.113.70"), CART[0], L4::Tcp, 80), denied(Direction::Ingress));
    assert_eq!(ask(&cluster, from("203.0.113.5"), CART[1], L4::Tcp, 80), Expected::Unspecified);
}
