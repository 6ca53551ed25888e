//! Random Services and EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;
use sheetbend_model::state::{
    Algorithm, Endpoint, EndpointPort, EndpointSlice, Hints, NodeLocalDns, Service, ServiceCidr, ServicePort,
    ServiceType, TargetPort, TrafficPolicy, Weights,
};
use sheetbend_model::types::{Family, Labels, NodeName, ObjectKey, Port, Protocol};

use super::objects::{node_port_number, port_number, protocol};
use super::pools::{
    NAMESPACES, NODES, PODS, SERVICES, ZONES, blocks, node_address, pod_address, pod_key, port, service_key,
    text,
};

/// A cluster address of the pool; a few are claimed by several Services.
pub fn cluster_address(number: u8, family: Family) -> IpAddr {
    match family {
        Family::IPv4 => IpAddr::from([10, 96, 0, 10 + number]),
        Family::IPv6 => IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, 10 + u16::from(number)]),
    }
}

/// An address of Services that none has; the second is in another range than the others.
pub fn free_address(number: u8, family: Family) -> IpAddr {
    match family {
        Family::IPv4 => IpAddr::from([10, 96, number, 200]),
        Family::IPv6 => IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, u16::from(number), 200]),
    }
}

/// The name of ServiceCIDR number `index`.
pub fn service_cidr_name(index: u8) -> Arc<str> {
    format!("range-{index}").into()
}

/// ServiceCIDR number `index`, of one family or both. The first has all cluster addresses of the pool.
pub fn service_cidr(index: u8) -> impl Strategy<Value = ServiceCidr> {
    prop::sample::subsequence(&Family::ALL[..], 1..=2).prop_map(move |families| ServiceCidr {
        name: service_cidr_name(index),
        cidrs: families
            .into_iter()
            .filter_map(|family| {
                let length = if family == Family::IPv4 { 24 } else { 112 };
                IpNet::new(free_address(index, family), length).ok()
            })
            .map(|range| range.trunc())
            .collect(),
    })
}

/// The health check node ports of the pool.
pub fn health_ports() -> [Port; 3] {
    [32_000, 32_001, 32_002].map(port)
}

/// An external or load balancer address of the pool; the first two are claimed by several Services.
pub fn external_address(number: u8, family: Family) -> IpAddr {
    match family {
        Family::IPv4 => IpAddr::from([192, 0, 2, 200 + number]),
        Family::IPv6 => IpAddr::from([0x2001, 0xdb8, 0xe, 0, 0, 0, 0, 200 + u16::from(number)]),
    }
}

/// An address that nobody has.
pub fn node_local_address(family: Family) -> IpAddr {
    match family {
        Family::IPv4 => IpAddr::from([169, 254, 20, 10]),
        Family::IPv6 => IpAddr::from([0xfd5b, 0x646e, 0x73, 0, 0, 0, 0, 0xa]),
    }
}

/// None, or node-local addresses of some Service of the pool: mostly ones that nobody has, else one that a Service has
/// too, or a node, or its pods.
pub fn node_local() -> impl Strategy<Value = NodeLocalDns> {
    let address = |family: Family| {
        prop_oneof![
            4 => Just(node_local_address(family)),
            1 => Just(external_address(0, family)),
            1 => Just(cluster_address(1, family)),
            1 => prop::sample::select(vec![node_address(1, family), pod_address(1, 0, family)]),
        ]
    };
    let families = prop::sample::subsequence(&Family::ALL[..], 0..=2);
    (families, address(Family::IPv4), address(Family::IPv6), 0..SERVICES).prop_map(
        |(families, ipv4, ipv6, index)| NodeLocalDns {
            addresses: [ipv4, ipv6]
                .into_iter()
                .filter(|addr| families.contains(&Family::of(*addr)))
                .collect(),
            service: service_key(index),
        },
    )
}

/// Service number `index`. Its ports are named `p0`, `p1`; neighbours sometimes claim the same address.
pub fn service(index: u8) -> impl Strategy<Value = Service> {
    let port = (protocol(), port_number(), port_number(), prop::option::weighted(0.7, node_port_number()));
    let ports = prop::collection::vec(port, 1..=2);
    let service_type = prop_oneof![
        8 => Just(ServiceType::ClusterIP),
        5 => Just(ServiceType::NodePort),
        3 => Just(ServiceType::LoadBalancer),
        1 => Just(ServiceType::ExternalName),
    ];
    let families = prop_oneof![
        3 => Just(vec![Family::IPv4, Family::IPv6]),
        1 => Just(vec![Family::IPv6]),
        1 => Just(Vec::new()),
    ];
    let algorithm = prop::sample::select(&Algorithm::ALL[..]);
    let odd = (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::option::weighted(0.3, 1..=86_400u32),
        prop::bool::weighted(0.05),
    );
    let policy = || prop_oneof![2 => Just(TrafficPolicy::Cluster), 1 => Just(TrafficPolicy::Local)];
    let outside =
        (policy(), policy(), prop::bool::weighted(0.3), prop::bool::weighted(0.3), prop::bool::weighted(0.7));
    let ranges = prop::option::weighted(0.4, prop::sample::subsequence(blocks(), 0..=2));
    (ports, service_type, families, (algorithm, weights()), odd, outside, ranges).prop_map(
        move |(
            ports,
            service_type,
            families,
            (algorithm, weights),
            (shared, unknown, affinity_timeout, proxied_elsewhere),
            (internal_policy, external_policy, has_external, has_ingress, has_health),
            ranges,
        )| Service {
            key: service_key(index),
            service_type,
            cluster_ips: families
                .iter()
                .map(|family| cluster_address(if shared { 0 } else { index }, *family))
                .collect(),
            external_name: external_name(service_type, index),
            external_ips: Family::ALL
                .into_iter()
                .filter(|_| has_external)
                .map(|family| external_address(index % 2, family))
                .collect(),
            ingress_ips: Family::ALL
                .into_iter()
                .filter(|_| has_ingress)
                .map(|family| external_address(2 + index, family))
                .collect(),
            source_ranges: ranges.filter(|_| service_type == ServiceType::LoadBalancer).map(Arc::from),
            internal_policy,
            external_policy,
            // Now and then two Services claim one.
            health_check_node_port: has_health.then(|| health_ports()[usize::from(index % 3)]),
            proxied_elsewhere,
            ports: (0u8..)
                .zip(ports)
                .map(|(number, (protocol, port, target, node_port))| ServicePort {
                    name: format!("p{number}").into(),
                    protocol,
                    port,
                    node_port,
                    target: TargetPort::Number(if protocol == Protocol::Sctp { port } else { target }),
                })
                .collect(),
            selector: Labels::new(),
            affinity_timeout,
            publish_not_ready: false,
            algorithm,
            unknown_algorithm: unknown.then(|| text("fastest")),
            exposure: None,
            weights,
        },
    )
}

/// Mostly none; else of some pods, by name or by an address, and sometimes a text that says nothing.
fn weights() -> impl Strategy<Value = Weights> {
    let by_name = (0..PODS, prop::sample::select(&[0u8, 1, 2, 3, 50, 100][..]))
        .prop_map(|(pod, weight)| format!("{}={weight}", pod_key(pod).name));
    let by_address = (0..2usize, 0..PODS, 0..4u8).prop_map(|(place, pod, weight)| {
        let family = if pod % 2 == 0 { Family::IPv4 } else { Family::IPv6 };
        format!("{}={weight}", pod_address(place, pod, family))
    });
    let items = prop::collection::vec(prop_oneof![3 => by_name, 1 => by_address], 1..=4);
    prop_oneof![
        2 => Just(Weights::default()),
        2 => items.prop_map(|items| Weights::read(&items.join(","))),
    ]
}

/// The first Service names a host of the world, the others one that may be a Service of the cluster.
fn external_name(service_type: ServiceType, index: u8) -> Option<Arc<str>> {
    let other = service_key((index + 1) % SERVICES);
    let name = match index {
        0 => "www.example.com".to_owned(),
        _ => format!("{}.{}.svc.cluster.local", other.name, other.namespace),
    };
    (service_type == ServiceType::ExternalName).then(|| name.into())
}

fn endpoint(service: u8, family: Family) -> impl Strategy<Value = Endpoint> {
    let state = prop_oneof![
        4 => Just((true, true, false)),
        1 => Just((false, false, false)),
        2 => Just((false, true, true)),
        1 => Just((false, false, true)),
    ];
    // Mostly a pod of the Service's namespace, as keys are given out.
    let namespaces = NAMESPACES.len() as u8;
    let own = (0..PODS / namespaces).prop_map(move |number| number * namespaces + service % namespaces);
    let pod = prop_oneof![8 => own, 1 => 0..PODS];
    // Two endpoints sometimes share a host name.
    let hostname = prop::option::weighted(0.4, prop::sample::select(&["first", "second"][..]));
    (pod, state, 0..2usize, prop::bool::weighted(0.9), hostname, hints()).prop_map(
        move |(pod, (ready, serving, terminating), place, is_pod, hostname, hints)| Endpoint {
            address: Some(pod_address(place, pod, family)),
            ready,
            serving,
            terminating,
            hostname: hostname.map(text),
            node: Some(NodeName::new(NODES[place])),
            pod: is_pod.then(|| (pod_key(pod), format!("uid-{pod}").into())),
            hints: hints.map(Arc::new),
        },
    )
}

/// Mostly complete, as a controller writes them: one missing among a Service's endpoints turns all of them off.
fn hints() -> impl Strategy<Value = Option<Hints>> {
    let zones = prop::collection::vec(prop::sample::select(&ZONES[..]), 0..=2);
    let nodes = prop::collection::vec(prop::sample::select(&NODES[..]), 0..=1);
    let hints = (zones, nodes).prop_map(|(zones, nodes)| Hints {
        zones: zones.into_iter().map(text).collect(),
        nodes: nodes.into_iter().map(NodeName::new).collect(),
    });
    prop::option::weighted(0.9, hints)
}

/// Slice `number` of Service `index`; two slices of a Service may hold the same endpoint.
pub fn endpoint_slice(index: u8, number: u8) -> impl Strategy<Value = EndpointSlice> {
    let family = if number.is_multiple_of(2) { Family::IPv4 } else { Family::IPv6 };
    let port_of_slice =
        prop::option::weighted(0.95, (port_number(), node_port_number(), prop::bool::weighted(0.3)));
    // An SCTP endpoint behind a node port has the node port's number.
    let port = (0..2u8, protocol(), port_of_slice).prop_map(|(name, protocol, number)| {
        let number = number.map(
            |(port, node_port, behind)| {
                if behind && protocol == Protocol::Sctp { node_port } else { port }
            },
        );
        (name, protocol, number)
    });
    let ports = prop::collection::vec(port, 1..=3);
    let endpoints = prop::collection::vec(endpoint(index, family), 0..=4);
    let owner = prop_oneof![12 => Just(Some(index)), 1 => Just(None)];
    (ports, endpoints, owner, weights()).prop_map(move |(ports, endpoints, owner, weights)| {
        let service = service_key(index);
        EndpointSlice {
            key: ObjectKey::new(service.namespace, format!("{}-{number}", service.name)),
            service: owner.map(|_| service.name.clone()),
            family,
            ports: ports
                .into_iter()
                .map(|(name, protocol, port)| EndpointPort {
                    name: format!("p{name}").into(),
                    protocol,
                    port,
                })
                .collect(),
            endpoints,
            weights,
        }
    })
}
