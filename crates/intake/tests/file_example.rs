//! `examples/shop`, the demo's cluster: read without a word, with everything in it that the demo shall show, and neither
//! mostly open nor mostly closed in any class of its matrix. `examples/tenants`: every rule decides something.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus, PodCondition, PodIP, PodStatus};
use sheetbend_intake::file::{Assigned, Cluster, Object, build_endpoint_slices, expand, read, snapshot};
use sheetbend_model::state::{
    Action, Algorithm, Endpoint, PortMatch, Service, Snapshot, TargetPort, Weights,
};
use sheetbend_model::types::{Direction, Family, NodeName, ObjectKey, Port, Protocol};
use sheetbend_oracle::{ByTier, Decision, End, Expected, Flow, L4, Probe, expect, networkpolicy};

/// The example on two nodes, with addresses as a lab gives them.
fn shop() -> Snapshot {
    example("shop")
}

fn example(name: &str) -> Snapshot {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    let manifests = read(&[dir]).unwrap();
    assert_eq!((manifests.skipped.len(), manifests.notices.len()), (0, 0), "{:?}", manifests.notices);
    let cluster = Cluster {
        nodes: vec![NodeName::new("node-1"), NodeName::new("node-2")],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        keep_addresses: false,
    };
    let mut expanded = expand(&manifests, &cluster, &Assigned::default()).unwrap();
    assert!(expanded.notices.is_empty(), "{:?}", expanded.notices);
    for (index, object) in expanded.objects.values_mut().enumerate() {
        if let Object::Node(node) = object {
            let name = node.metadata.name.clone().unwrap();
            let number = name.strip_prefix("node-").unwrap();
            let cidrs = vec![format!("10.244.{number}.0/24"), format!("fd00:244:{number}::/64")];
            node.spec = Some(NodeSpec { pod_cidrs: Some(cidrs), ..NodeSpec::default() });
            let address = |address| NodeAddress { address, type_: "InternalIP".to_owned() };
            let addresses =
                vec![address(format!("172.30.0.1{number}")), address(format!("fd00:30::1{number}"))];
            node.status = Some(NodeStatus { addresses: Some(addresses), ..NodeStatus::default() });
        } else if let Object::Pod(pod) = object {
            let node = pod.spec.as_ref().unwrap().node_name.clone().unwrap();
            let number = node.strip_prefix("node-").unwrap();
            let unready =
                pod.metadata.annotations.iter().flatten().any(|(key, _)| key == "sheetbend.dev/lab-ready");
            let status = if unready { "False" } else { "True" }.to_owned();
            let ips = [format!("10.244.{number}.{index}"), format!("fd00:244:{number}::{index}")];
            pod.status = Some(PodStatus {
                phase: Some("Running".to_owned()),
                pod_ips: Some(ips.map(|ip| PodIP { ip }).to_vec()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".to_owned(),
                    status,
                    ..PodCondition::default()
                }]),
                ..PodStatus::default()
            });
        }
    }
    let pods: Vec<_> = expanded
        .objects
        .values()
        .filter_map(|object| if let Object::Pod(pod) = object { Some((**pod).clone()) } else { None })
        .collect();
    let slices: Vec<Object> = expanded
        .objects
        .values()
        .filter_map(|object| {
            if let Object::Service(service) = object {
                Some(build_endpoint_slices(service, &pods, []))
            } else {
                None
            }
        })
        .flatten()
        .map(Object::from)
        .collect();
    snapshot(expanded.objects.values().chain(&slices))
}

/// What the matrix probes: declared and named ports, the neighbours of ranges, a closed port.
fn ports(cluster: &Snapshot) -> BTreeSet<(L4, u16)> {
    let mut ports: BTreeSet<(L4, u16)> = BTreeSet::from([(L4::Icmp, 0), (L4::Tcp, 9), (L4::Udp, 9)]);
    for pod in cluster.pods.values() {
        ports.extend(pod.ports.iter().map(|port| (L4::from(port.protocol), port.port.get())));
    }
    for policy in cluster.policies.values() {
        let rules = policy.ingress.iter().chain(&policy.egress).flatten();
        for port in rules.flat_map(|rule| &rule.ports) {
            if let PortMatch::Range(range) = port.port {
                let (first, last) = (range.first().get(), range.last().get());
                ports.extend([(L4::from(port.protocol), first), (L4::from(port.protocol), last)]);
                if first != last {
                    ports.extend([(L4::from(port.protocol), first - 1), (L4::from(port.protocol), last + 1)]);
                }
            }
        }
    }
    ports
}

fn listens(cluster: &Snapshot, end: &End, protocol: L4, port: u16) -> bool {
    match end {
        End::Pod(key) => cluster.pods[key]
            .ports
            .iter()
            .any(|own| L4::from(own.protocol) == protocol && own.port == Port::new(port).unwrap()),
        End::World(_) => true,
        End::Node(_) => false,
    }
}

#[derive(Debug, Default)]
struct Tally {
    allow: usize,
    deny: usize,
    all: usize,
}

impl Tally {
    fn add(&mut self, expected: &Expected) {
        self.all += 1;
        self.allow += usize::from(matches!(expected, Expected::Allow { .. }));
        self.deny += usize::from(matches!(expected, Expected::Deny { .. }));
    }
}

#[test]
fn a_quarter_is_allowed_and_a_quarter_denied_in_every_class() {
    let cluster = shop();
    let mut classes: BTreeMap<String, Tally> = BTreeMap::new();
    let mut deciding = BTreeSet::new();
    let world = ["203.0.113.10", "203.0.113.200", "198.51.100.10", "2001:db8::10", "2001:db8:0:bad::10"];
    let world: Vec<IpAddr> = world.iter().map(|text| text.parse().unwrap()).collect();
    let ports = ports(&cluster);
    let listens = |end: &End, protocol: L4, port: u16| listens(&cluster, end, protocol, port);
    for to in cluster.pods.values() {
        let ends = cluster.pods.keys().cloned().map(End::Pod).chain(world.iter().copied().map(End::World));
        for source in ends {
            for destination in to.addresses.iter() {
                let family = Family::of(destination);
                let place = match &source {
                    End::Pod(key) if cluster.pods[key].node == to.node => "same node",
                    End::Pod(_) => "cross node",
                    End::World(addr) if Family::of(*addr) != family => continue,
                    End::World(_) | End::Node(_) => "world",
                };
                for &(protocol, port) in &ports {
                    let probe = Probe { source: source.clone(), destination, protocol, port };
                    let expected = expect(&cluster, &probe, &listens);
                    if let Expected::Deny { selected_by, .. } = &expected {
                        deciding.extend(selected_by.clone());
                    }
                    classes.entry(format!("{family} {protocol} {place}")).or_default().add(&expected);
                    if place != "same node" {
                        let class = format!("{family} {protocol} cross node and world");
                        classes.entry(class).or_default().add(&expected);
                    }
                }
            }
        }
    }
    for (class, tally) in
        classes.iter().filter(|(class, _)| !class.ends_with(" world") || class.contains("and"))
    {
        assert!(4 * tally.allow >= tally.all && 4 * tally.deny >= tally.all, "{class}: {tally:?}");
    }
    assert_eq!(
        deciding,
        cluster.policies.keys().cloned().collect(),
        "every policy isolates somebody from somebody"
    );
}

#[test]
fn everything_that_the_demo_shows_is_in_it() {
    let cluster = shop();
    assert!((16..=20).contains(&cluster.pods.len()), "{} pods", cluster.pods.len());
    assert!(cluster.namespaces.len() >= 3);
    for node in ["node-1", "node-2"] {
        let here = cluster.pods.values().filter(|pod| pod.node == Some(NodeName::new(node))).count();
        assert!(here * 3 >= cluster.pods.len(), "{here} pods on {node}");
    }
    let services = || cluster.services.values();
    let endpoints = |service: &Service| {
        let slices = cluster.endpoint_slices.values();
        let own = slices.filter(|slice| {
            slice.key.namespace == service.key.namespace && slice.service.as_ref() == Some(&service.key.name)
        });
        own.flat_map(|slice| &slice.endpoints).cloned().collect::<Vec<Endpoint>>()
    };
    let annotated = |algorithm| services().filter(|service| service.algorithm == algorithm).count();
    assert!(Algorithm::ALL.into_iter().all(|algorithm| annotated(algorithm) > 0));
    assert!(services().any(|service| service.weights != Weights::default()));
    assert!(services().all(|service| service.weights.fault().is_none()));
    assert!(services().all(|service| service.unknown_algorithm.is_none()));
    assert!(services().any(|service| service.affinity_timeout == Some(600)));
    assert!(services().any(|service| endpoints(service).is_empty() && service.cluster_ips.len() == 2));
    assert!(services().any(|service| service.publish_not_ready
        && endpoints(service).iter().any(|endpoint| endpoint.ready && !endpoint.serving)));
    assert!(services().any(|service| service.cluster_ips.len() == 1));
    let ports = || services().flat_map(|service| &service.ports);
    assert!(ports().any(|port| matches!(port.target, TargetPort::Name(_))));
    assert!(ports().any(|port| port.protocol == Protocol::Udp));
    let named = |pod: &str| cluster.pods[&ObjectKey::new("shop", pod)].named_ports("http", Protocol::Tcp);
    assert_ne!(named("web-0"), named("cart-0"), "one name, two numbers");
}

#[test]
fn in_the_tenants_cluster_every_rule_but_pass_decides_something() {
    let cluster = example("tenants");
    let mut rules = BTreeSet::new();
    for policy in cluster.cluster_policies.values() {
        assert_eq!(policy.fault, None);
        for direction in [Direction::Ingress, Direction::Egress] {
            for (index, rule) in (0u32..).zip(policy.rules(direction)) {
                assert_eq!(rule.fault, None);
                if rule.action != Action::Pass {
                    rules.insert((policy.name.to_string(), direction, index));
                }
            }
        }
    }
    let (mut denied, mut allowed) = (0, 0);
    let others = ["172.30.0.11", "198.51.100.1", "203.0.113.1", "2001:db8::1"]
        .map(|text| (text.parse().unwrap(), None));
    let pods = cluster.pods.values().flat_map(|pod| pod.addresses.iter().map(|addr| (addr, Some(&pod.key))));
    let ends: Vec<(IpAddr, Option<&ObjectKey>)> = pods.chain(others).collect();
    for (source, source_pod) in &ends {
        for (destination, destination_pod) in &ends {
            if Family::of(*source) != Family::of(*destination) {
                continue;
            }
            for (protocol, port) in ports(&cluster) {
                let (source, destination) = (*source, *destination);
                let (source_pod, destination_pod) = (*source_pod, *destination_pod);
                let flow = Flow { source, source_pod, destination, destination_pod, protocol, port };
                let judgement = networkpolicy(&cluster, &flow);
                denied += usize::from(!judgement.allowed);
                allowed += usize::from(judgement.allowed);
                let decisions =
                    [(Direction::Ingress, judgement.ingress), (Direction::Egress, judgement.egress)];
                for (direction, decision) in decisions {
                    if let Decision::Accepted(by) | Decision::Refused(by) = decision {
                        let ByTier { policy, rule, .. } = by;
                        rules.remove(&(policy.to_string(), direction, rule));
                    }
                }
            }
        }
    }
    assert!(rules.is_empty(), "{rules:?} decide nothing");
    assert!(denied > 100 && allowed > 100, "{denied} denied, {allowed} allowed");
}
