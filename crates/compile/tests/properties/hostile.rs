//! Objects that no API server should have let through, or that are larger than anybody meant: what is wrong is named, and the
//! rest goes on.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_compile::{Compiler, compile};
use sheetbend_model::plan::{Condition, Dataplane, Frontend, Scope, ServiceEntry};
use sheetbend_model::state::{
    Algorithm, Endpoint, EndpointPort, EndpointSlice, NetworkConfig, Service, ServicePort, ServiceType,
    Snapshot, TargetPort, Weights,
};
use sheetbend_model::types::{Family, NetworkId, ObjectKey, Port, Protocol};
use sheetbend_testkit::generators::pools;

/// Endpoints of the large Service, and how many a slice has (the API's own limit is 1,000).
const MANY: u32 = 100_000;
const SLICE: u32 = 1_000;

fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

fn service(name: &str, last: u8, node_port: Option<u16>) -> Service {
    let key = ObjectKey::new("shop", name);
    Service {
        service_type: if node_port.is_some() { ServiceType::NodePort } else { ServiceType::ClusterIP },
        cluster_ips: vec![address(last, Family::IPv4), address(last, Family::IPv6)],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: node_port.map(port),
            target: TargetPort::Number(port(8080)),
        }],
        ..Service::new(key)
    }
}

fn address(last: u8, family: Family) -> IpAddr {
    match family {
        Family::IPv4 => [10, 96, 0, last].into(),
        Family::IPv6 => [0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(last)].into(),
    }
}

fn slice(service: &str, number: u32, family: Family, addresses: Vec<IpAddr>) -> EndpointSlice {
    let endpoint = |addr| Endpoint {
        address: Some(addr),
        ready: true,
        serving: true,
        terminating: false,
        hostname: None,
        node: None,
        pod: None,
        hints: None,
    };
    EndpointSlice {
        key: ObjectKey::new("shop", format!("{service}-{family}-{number}")),
        service: Some(service.into()),
        family,
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: Some(port(8080)) }],
        endpoints: addresses.into_iter().map(endpoint).collect(),
        weights: Weights::default(),
    }
}

fn add(cluster: &mut Snapshot, service: Service) {
    cluster.services.insert(service.key.clone(), Arc::new(service));
}

fn add_slice(cluster: &mut Snapshot, slice: EndpointSlice) {
    cluster.endpoint_slices.insert(slice.key.clone(), Arc::new(slice));
}

fn backend(family: Family, number: u32) -> IpAddr {
    match family {
        Family::IPv4 => IpAddr::from((0x0a80_0000 + number).to_be_bytes()),
        Family::IPv6 => IpAddr::from(((0xfd00_0128_u128 << 96) + u128::from(number)).to_be_bytes()),
    }
}

fn found(tables: &Dataplane, addr: IpAddr, number: u16) -> Option<&ServiceEntry> {
    let (network, protocol, scope) = (NetworkId::default(), Protocol::Tcp, Scope::Inside);
    tables.services.get(&Frontend { network, addr, protocol, port: port(number), scope })
}

#[test]
fn of_two_services_with_one_node_port_the_first_has_it_and_the_other_is_named() {
    let mut cluster = Snapshot::default();
    for (name, last) in [("a", 1), ("b", 2)] {
        add(&mut cluster, service(name, last, Some(30_080)));
        for family in Family::ALL {
            add_slice(&mut cluster, slice(name, 0, family, vec![backend(family, last.into())]));
        }
    }
    let tables = compile(&cluster, &pools::node(), &NetworkConfig::default());
    for (family, any) in [(Family::IPv4, IpAddr::from([0; 4])), (Family::IPv6, IpAddr::from([0; 16]))] {
        assert_eq!(found(&tables, any, 30_080).map(|entry| &*entry.service.name), Some("a"));
        for (name, last) in [("a", 1), ("b", 2)] {
            let entry = found(&tables, address(last, family), 80).unwrap();
            assert_eq!((&*entry.service.name, entry.backends.len()), (name, 1), "its cluster address serves");
        }
    }
    let named: Vec<&Condition> = tables.conditions.iter().collect();
    assert_eq!(named.len(), 2, "one for each family: {named:?}");
    for condition in named {
        assert_eq!((&*condition.object.name, condition.reason), ("b", "FrontendConflict"));
        assert!(
            condition.message.contains("30080/TCP belongs to Service shop/a; give one of them another port")
        );
    }
}

#[test]
fn an_endpoint_of_the_other_family_is_left_out_alone() {
    let mut cluster = Snapshot::default();
    add(&mut cluster, service("a", 1, None));
    for (family, other) in [(Family::IPv4, Family::IPv6), (Family::IPv6, Family::IPv4)] {
        add_slice(&mut cluster, slice("a", 0, family, vec![backend(other, 1), backend(family, 2)]));
    }
    let tables = compile(&cluster, &pools::node(), &NetworkConfig::default());
    for family in Family::ALL {
        let entry = found(&tables, address(1, family), 80).unwrap();
        assert_eq!(
            entry.backends.iter().map(|backend| backend.addr).collect::<Vec<_>>(),
            [backend(family, 2)]
        );
        assert!(entry.draining.is_empty());
    }
}

#[test]
fn a_hundred_thousand_endpoints_are_all_served_and_the_rest_goes_on() {
    for algorithm in Algorithm::ALL {
        let mut cluster = Snapshot::default();
        add(&mut cluster, Service { algorithm, ..service("large", 1, Some(30_080)) });
        add(&mut cluster, service("small", 2, None));
        for family in Family::ALL {
            add_slice(&mut cluster, slice("small", 0, family, vec![backend(family, MANY + 1)]));
            for number in 0..MANY / SLICE {
                let addresses = (number * SLICE..(number + 1) * SLICE).map(|n| backend(family, n));
                add_slice(&mut cluster, slice("large", number, family, addresses.collect()));
            }
        }
        let mut compiler = Compiler::new(pools::node(), NetworkConfig::default());
        compiler.update(&cluster);
        let tables = compiler.dataplane();
        assert!(tables.conditions.is_empty());
        for family in Family::ALL {
            let large = found(&tables, address(1, family), 80).unwrap();
            assert_eq!(large.backends.len(), MANY as usize);
            // Every one has a slot, so that no algorithm leaves one out.
            let mut in_slots: Vec<u32> = large.slots().iter().map(|slot| slot.backend).collect();
            in_slots.sort_unstable();
            in_slots.dedup();
            assert_eq!(in_slots.len(), MANY as usize, "{algorithm}");
            assert_eq!(found(&tables, address(2, family), 80).unwrap().backends.len(), 1);
        }
        // Without one slice it has so many fewer, and nobody else is touched.
        let gone = ObjectKey::new("shop", "large-IPv4-7");
        assert!(cluster.endpoint_slices.remove(&gone).is_some());
        let before = compiler.counters().services;
        compiler.update(&cluster);
        assert_eq!(compiler.counters().services - before, 1);
        let tables = compiler.dataplane();
        let large = found(&tables, address(1, Family::IPv4), 80).unwrap();
        assert_eq!(large.backends.len(), (MANY - SLICE) as usize);
    }
}
