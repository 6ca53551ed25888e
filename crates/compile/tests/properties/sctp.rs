//! SCTP: no table asks for a port that would have to be translated, and whoever wants one is named.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use sheetbend_compile::{Compiler, compile};
use sheetbend_model::plan::{Condition, Dataplane, Frontend, Scope};
use sheetbend_model::state::{
    Endpoint, EndpointPort, EndpointSlice, NetworkConfig, Service, ServicePort, ServiceType, Snapshot,
    TargetPort, Weights,
};
use sheetbend_model::types::{Family, NetworkId, ObjectKey, Port, Protocol};
use sheetbend_oracle::{SctpFault, sctp_faults};
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::generators::pools;

use crate::runner;

/// What the Conditions of `tables` name.
fn named(tables: &Dataplane) -> BTreeSet<SctpFault> {
    let ours = tables.conditions.iter().filter(|condition| condition.reason == "SctpPortTranslation");
    ours.map(fault).collect()
}

/// Reads `KIND NUMBER/SCTP is not served...` or `... leaves out...`.
fn fault(condition: &Condition) -> SctpFault {
    let (head, rest) = condition.message.split_once("/SCTP ").unwrap();
    let (kind, number) = head.rsplit_once(' ').unwrap();
    let kind = ["port", "node port", "host port"].into_iter().find(|known| *known == kind).unwrap();
    assert_eq!(condition.kind == "Pod", kind == "host port", "{condition:?}");
    let is_whole = rest.starts_with("is not served: ");
    assert!(is_whole || rest.starts_with("leaves out endpoints "), "{rest}");
    SctpFault { owner: condition.object.clone(), kind, port: number.parse().unwrap(), is_whole }
}

#[test]
fn sctp_frontends_with_another_port_are_named_and_not_served() {
    let seen = RefCell::new(BTreeMap::<&str, usize>::new());
    let see = |what| *seen.borrow_mut().entry(what).or_default() += 1;
    let sequence = prop::collection::vec(cluster(), 1..=3);
    runner("sctp", 600)
        .run(&sequence, |clusters| {
            let mut compiler = Compiler::new(pools::node(), NetworkConfig::default());
            for cluster in &clusters {
                compiler.update(cluster);
                let tables = compiler.dataplane();
                for (frontend, entry) in &tables.services {
                    if frontend.protocol != Protocol::Sctp {
                        continue;
                    }
                    let mut backends = entry.backends.iter().chain(entry.draining.iter());
                    prop_assert!(backends.all(|backend| backend.port == frontend.port), "{}", frontend);
                    if !entry.backends.is_empty() {
                        let is_node_port = frontend.addr.is_unspecified();
                        see(if is_node_port { "served by node port" } else { "served by address" });
                    }
                }
                let faults = sctp_faults(cluster, &pools::node());
                prop_assert_eq!(&named(&tables), &faults);
                for SctpFault { kind, is_whole, .. } in faults {
                    see(kind);
                    see(if is_whole { "not served" } else { "left out" });
                }
            }
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    eprintln!("{seen:?}");
    let all = [
        "served by node port",
        "served by address",
        "port",
        "node port",
        "host port",
        "not served",
        "left out",
    ];
    // The rarest, "left out", is seen 20 times, give or take 5.
    for what in all {
        assert!(seen.get(what).is_some_and(|count| *count >= 3), "{what}: {seen:?}");
    }
}

fn number(number: u16) -> Port {
    Port::new(number).unwrap()
}

/// `shop/core` with ports `diameter` and `s1`, on one address of each family and on node ports.
fn core(targets: [TargetPort; 2]) -> Service {
    let [diameter, s1] = targets;
    let port = |name: &str, port, node_port, target| ServicePort {
        name: name.into(),
        protocol: Protocol::Sctp,
        port: number(port),
        node_port: Some(number(node_port)),
        target,
    };
    Service {
        service_type: ServiceType::NodePort,
        cluster_ips: vec![[10, 96, 0, 1].into(), "fd00:96::1".parse().unwrap()],
        ports: vec![port("diameter", 3868, 30_868, diameter), port("s1", 30_412, 30_412, s1)],
        selector: [(Arc::from("app"), Arc::from("core"))].into_iter().collect(),
        ..Service::new(ObjectKey::new("shop", "core"))
    }
}

fn slice(family: Family, addr: IpAddr, ports: [u16; 2]) -> EndpointSlice {
    let port = |name: &str, own| EndpointPort {
        name: name.into(),
        protocol: Protocol::Sctp,
        port: Some(number(own)),
    };
    let endpoint = Endpoint {
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
        key: ObjectKey::new("shop", format!("core-{addr}").replace(['.', ':'], "-")),
        service: Some("core".into()),
        family,
        ports: vec![port("diameter", ports[0]), port("s1", ports[1])],
        endpoints: vec![endpoint],
        weights: Weights::default(),
    }
}

fn backends(tables: &Dataplane, addr: IpAddr, port: u16) -> Vec<(IpAddr, u16)> {
    let (network, protocol, scope) = (NetworkId::default(), Protocol::Sctp, Scope::Inside);
    let frontend = Frontend { network, addr, protocol, port: number(port), scope };
    tables.services[&frontend].backends.iter().map(|backend| (backend.addr, backend.port.get())).collect()
}

/// A named target port with another number on one pod: that endpoint is left out, and the other frontends go on.
#[test]
fn an_sctp_port_that_cannot_be_served_leaves_the_others_alone() {
    let name = |name: &str| TargetPort::Name(name.into());
    let mut cluster = Snapshot::default();
    let service = core([name("diameter"), name("s1")]);
    let addresses = service.cluster_ips.clone();
    cluster.services.insert(service.key.clone(), service.into());
    let pods: [(Family, [&str; 2]); 2] =
        [(Family::IPv4, ["10.1.0.1", "10.1.0.2"]), (Family::IPv6, ["fd00:1::1", "fd00:1::2"])];
    for (family, [first, second]) in pods {
        for (addr, ports) in [(first, [3868, 30_412]), (second, [3869, 30_412])] {
            let slice = slice(family, addr.parse().unwrap(), ports);
            cluster.endpoint_slices.insert(slice.key.clone(), slice.into());
        }
    }
    let tables = compile(&cluster, &pools::node(), &NetworkConfig::default());
    for (cluster_address, (_, pods)) in addresses.iter().zip(pods) {
        let pods = pods.map(|pod| pod.parse::<IpAddr>().unwrap());
        let any: IpAddr = if cluster_address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        assert_eq!(backends(&tables, *cluster_address, 3868), [(pods[0], 3868)]);
        assert_eq!(backends(&tables, any, 30_868), [], "refused");
        // The target port is the node port.
        for addr in [*cluster_address, any] {
            assert_eq!(backends(&tables, addr, 30_412), pods.map(|pod| (pod, 30_412)));
        }
    }
    let messages: Vec<&str> = tables.conditions.iter().map(|condition| &*condition.message).collect();
    assert_eq!(
        messages,
        [
            "node port 30868/SCTP is not served: its endpoints have port 3868, 3869, and an SCTP packet's port cannot be \
         translated, for its checksum covers the payload; give targetPort and nodePort one number, or let clients use \
         an address of the Service at port 3868",
            "port 3868/SCTP leaves out endpoints with port 3869: an SCTP packet's port cannot be translated, for its \
         checksum covers the payload; set targetPort to 3868",
        ]
    );
}

/// Before there is an endpoint, `targetPort` says it.
#[test]
fn an_sctp_target_port_is_named_before_there_are_endpoints() {
    let mut cluster = Snapshot::default();
    let service = core([TargetPort::Number(number(3868)), TargetPort::Name("s1".into())]);
    cluster.services.insert(service.key.clone(), service.clone().into());
    let faults = |cluster: &Snapshot| {
        let tables = compile(cluster, &pools::node(), &NetworkConfig::default());
        named(&tables).into_iter().map(|fault| (fault.kind, fault.port)).collect::<Vec<_>>()
    };
    assert_eq!(faults(&cluster), [("node port", 30_868)]);
    // Without a selector nobody follows it.
    let without = Service { selector: Default::default(), ..service };
    cluster.services.insert(without.key.clone(), without.into());
    assert_eq!(faults(&cluster), []);
}
