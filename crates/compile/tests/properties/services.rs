//! The Service table says what Services, EndpointSlices and host ports say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use sheetbend_compile::{Compiler, compile};
use sheetbend_model::plan::{Backend, Frontend, Reach, Scope, ServiceEntry};
use sheetbend_model::state::{EndpointSlice, NetworkConfig, NodeLocalDns, Snapshot};
use sheetbend_model::types::{Family, NetworkId, Protocol};
use sheetbend_oracle::{At, Found, health_check, node_local_dns, service};
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::generators::pools;
use sheetbend_testkit::generators::services::{
    cluster_address, external_address, health_ports, node_local, node_local_address,
};

use crate::runner;

/// How often each kind was met.
#[derive(Debug, Default)]
struct Seen {
    frontends: usize,
    several_backends: usize,
    draining: usize,
    node_ports: usize,
    external: usize,
    apart: usize,
    dropped: usize,
    host_ports: usize,
    nearest: usize,
    restricted: usize,
    healthy: usize,
    unhealthy: usize,
    weighted: usize,
    all_without_weight: usize,
    own_server: usize,
    servers_elsewhere: usize,
    contested: usize,
}

/// What somebody at `at` finds at `frontend`: a node-local address is nobody's for clients elsewhere.
fn expected(
    cluster: &Snapshot,
    dns: &NodeLocalDns,
    at: At<'_>,
    frontend: &Frontend,
) -> (Option<Found>, bool) {
    let node = pools::node();
    let (addr, protocol, port) = (frontend.addr, frontend.protocol, frontend.port.get());
    match node_local_dns(cluster, &node, dns, addr, protocol, port) {
        Some(found) => (Some(found).filter(|_| frontend.scope == Scope::Inside), true),
        None => (service(cluster, at, addr, protocol, port), false),
    }
}

#[test]
fn every_frontend_has_the_backends_that_the_objects_say() {
    let mut seen = Seen::default();
    let cell = std::cell::RefCell::new(&mut seen);
    runner("services", 1200)
        .run(&(cluster(), node_local()), |(cluster, dns)| {
            let unhinted = without_hints(&cluster);
            let config = NetworkConfig { node_local_dns: dns.clone(), ..NetworkConfig::default() };
            let tables = compile(&cluster, &pools::node(), &config);
            let mut matched = 0;
            for frontend in frontends() {
                let node = pools::node();
                let at = match frontend.scope {
                    Scope::Inside => At::ClientNode(&node),
                    Scope::Outside | Scope::Names => At::Entry(&node),
                };
                let (wanted, is_node_local) = expected(&cluster, &dns, at, &frontend);
                let found = tables.services.get(&frontend);
                if frontend.scope == Scope::Outside {
                    // Without a row of its own, a client elsewhere finds what is published inside.
                    let inside = tables.services.get(&Frontend { scope: Scope::Inside, ..frontend });
                    let inside = inside.filter(|entry| entry.reach != Reach::Inside);
                    prop_assert_eq!(found.or(inside).is_some(), wanted.is_some(), "{}", frontend);
                    let apart = inside.is_some_and(|entry| entry.reach == Reach::Apart);
                    prop_assert_eq!(apart, found.is_some(), "{}", frontend);
                } else {
                    prop_assert_eq!(found.is_some(), wanted.is_some(), "{}", frontend);
                }
                let (Some(found), Some(wanted)) = (found, wanted) else { continue };
                matched += 1;
                prop_assert_eq!(&found.service, &wanted.owner);
                prop_assert_eq!(found.only_remote, wanted.is_dropped, "{}", frontend);
                let admitted = found.sources.as_ref().map(|ranges| ranges.iter().copied().collect());
                prop_assert_eq!(&admitted, &wanted.admits, "{}", frontend);
                prop_assert!(found.weights.is_empty() || found.weights.len() == found.backends.len());
                let equal = wanted.candidates.first().map_or(1, |first| first.weight);
                let weights = (0..).map(|index| found.weights.get(index).copied().unwrap_or(equal));
                let chosen = found.backends.iter().zip(weights);
                let chosen: BTreeSet<_> = chosen.map(|(b, weight)| (b.addr, b.port, weight)).collect();
                let candidates = wanted.candidates.iter();
                let candidates: BTreeSet<_> = candidates.map(|c| (c.addr, c.port, c.weight)).collect();
                prop_assert_eq!(&chosen, &candidates, "{}", frontend);
                prop_assert!(found.draining.iter().all(|backend| !found.backends.contains(backend)));
                prop_assert!(found.backends.is_sorted() && found.draining.is_sorted());
                let mut seen = cell.borrow_mut();
                seen.frontends += 1;
                seen.weighted += usize::from(!found.weights.is_empty());
                let without = found.backends.is_empty() && !found.draining.is_empty();
                seen.all_without_weight += usize::from(without && !found.only_remote);
                seen.several_backends += usize::from(chosen.len() > 1);
                seen.draining += usize::from(!found.draining.is_empty());
                seen.node_ports += usize::from(frontend.addr.is_unspecified());
                seen.external += usize::from(found.reach == Reach::EveryNode);
                seen.apart += usize::from(frontend.scope == Scope::Outside);
                seen.dropped += usize::from(found.only_remote);
                seen.host_ports += usize::from(is_host_port(&cluster, found));
                if is_node_local {
                    let is_own = |b: &&Backend| {
                        pools::pod_range(0, Family::of(b.addr)).is_some_and(|own| own.contains(&b.addr))
                    };
                    let own = found.backends.iter().filter(is_own).count();
                    seen.own_server += usize::from(own > 0 && !found.draining.is_empty());
                    seen.servers_elsewhere += usize::from(own == 0 && !found.backends.is_empty());
                    let plain = service(&cluster, at, frontend.addr, frontend.protocol, frontend.port.get());
                    seen.contested += usize::from(plain.is_some());
                    prop_assert_eq!((found.reach, found.affinity_timeout), (Reach::Inside, None));
                }
                let (anywhere, _) = expected(&unhinted, &dns, at, &frontend);
                seen.restricted += usize::from(admitted.is_some());
                seen.nearest += usize::from(anywhere != Some(wanted));
            }
            matched += check_names(&tables.services, &dns)?;
            prop_assert_eq!(matched, tables.services.len(), "a row that no Service has");
            let mut compiler = Compiler::new(pools::node(), NetworkConfig::default());
            compiler.update(&cluster);
            let told = compiler.health_checks();
            for port in health_ports() {
                let found = told.get(&port).cloned();
                let found = found.map(|check| (check.service, check.endpoints));
                let mut seen = cell.borrow_mut();
                seen.healthy += usize::from(found.as_ref().is_some_and(|(_, endpoints)| *endpoints > 0));
                seen.unhealthy += usize::from(found.as_ref().is_some_and(|(_, endpoints)| *endpoints == 0));
                prop_assert_eq!(found, health_check(&cluster, &pools::node(), port));
            }
            Ok(())
        })
        .unwrap();
    eprintln!("{seen:?}");
    let all = [
        seen.frontends,
        seen.several_backends,
        seen.draining,
        seen.node_ports,
        seen.external,
        seen.apart,
        seen.dropped,
        seen.host_ports,
        seen.weighted,
        seen.all_without_weight,
        seen.nearest,
        seen.restricted,
        seen.healthy,
        seen.unhealthy,
        seen.own_server,
        seen.servers_elsewhere,
        seen.contested,
    ];
    assert!(all.iter().all(|count| *count >= 5), "{all:?}");
}

/// Pods with policies by domain names are led to the servers that the node-local address of the family has, where there is
/// one. Returns how many rows say so.
fn check_names(rows: &BTreeMap<Frontend, ServiceEntry>, dns: &NodeLocalDns) -> Result<usize, TestCaseError> {
    let names = rows.iter().filter(|(frontend, _)| frontend.scope == Scope::Names);
    for (frontend, entry) in names.clone() {
        let own = dns.addresses.iter().filter(|addr| addr.is_ipv4() == frontend.addr.is_ipv4());
        let own: Vec<_> = own
            .filter_map(|addr| rows.get(&Frontend { addr: *addr, scope: Scope::Inside, ..*frontend }))
            .collect();
        // Who asks a family gets servers of this family.
        prop_assert!(own.contains(&entry) && frontend.port.get() == 53, "{}", frontend);
    }
    for frontend in rows.keys().filter(|row| row.scope == Scope::Inside && row.port.get() == 53) {
        let any = any_address(Family::of(frontend.addr));
        let led = rows.contains_key(&Frontend { addr: any, scope: Scope::Names, ..*frontend });
        let is_node_local = dns.addresses.contains(&frontend.addr) && rows[frontend].service == dns.service;
        prop_assert!(led || !is_node_local || frontend.protocol == Protocol::Sctp, "{}", frontend);
    }
    Ok(names.count())
}

fn any_address(family: Family) -> IpAddr {
    match family {
        Family::IPv4 => IpAddr::from([0; 4]),
        Family::IPv6 => IpAddr::from([0; 16]),
    }
}

fn without_hints(cluster: &Snapshot) -> Snapshot {
    let mut cluster = cluster.clone();
    for slice in cluster.endpoint_slices.clone().values() {
        let mut slice = EndpointSlice::clone(slice);
        slice.endpoints.iter_mut().for_each(|endpoint| endpoint.hints = None);
        cluster.endpoint_slices.insert(slice.key.clone(), slice.into());
    }
    cluster
}

fn is_host_port(cluster: &Snapshot, entry: &sheetbend_model::plan::ServiceEntry) -> bool {
    entry.reach == Reach::ThisNode && cluster.pods.contains_key(&entry.service)
}

fn frontends() -> Vec<Frontend> {
    let mut frontends = Vec::new();
    let mut add = |addr: IpAddr, ports: &[u16]| {
        for protocol in Protocol::ALL {
            for port in ports {
                for scope in [Scope::Inside, Scope::Outside] {
                    let (network, port) = (NetworkId::default(), pools::port(*port));
                    frontends.push(Frontend { network, addr, protocol, port, scope });
                }
            }
        }
    };
    for family in Family::ALL {
        add(any_address(family), &pools::NODE_PORTS);
        add(pools::node_address(0, family), &pools::NODE_PORTS);
        for number in 0..pools::SERVICES {
            add(cluster_address(number, family), &pools::PORTS);
        }
        for number in 0..2 + pools::SERVICES {
            add(external_address(number, family), &pools::PORTS);
        }
        for addr in
            [node_local_address(family), pools::node_address(1, family), pools::pod_address(1, 0, family)]
        {
            add(addr, &pools::PORTS);
        }
    }
    frontends
}
