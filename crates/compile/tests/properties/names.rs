//! The zone says what the specification makes of Services, endpoints and Pods, whatever the way to it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use sheetbend_compile::names::{PodNames, ZoneCompiler, zone};
use sheetbend_model::plan::{Record, Zone, ZoneKey, dashed};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::Family;
use sheetbend_oracle::{pointers, records};
use sheetbend_testkit::generators::cluster::{cluster, sequence};
use sheetbend_testkit::generators::large::{self, Size};
use sheetbend_testkit::generators::pools::{NAMESPACES, PODS, SERVICES, pod_address, service_key};
use sheetbend_testkit::generators::services::cluster_address;

use crate::runner;

const ORIGIN: &str = "cluster.local";

/// Names below the apex that a random cluster may have, and some that none has.
fn candidates() -> Vec<String> {
    let mut names: Vec<String> =
        ["", "svc", "pod", "dns-version", "no", "x.svc", "x.pod"].map(str::to_owned).to_vec();
    let mut hosts = vec!["first".to_owned(), "SECOND".to_owned(), "third".to_owned()];
    for family in Family::ALL {
        for place in 0..2 {
            hosts.extend((0..PODS).map(|slot| dashed(pod_address(place, slot, family))));
        }
    }
    for namespace in NAMESPACES {
        names.extend([format!("{namespace}.svc"), format!("{namespace}.pod"), format!("no.{namespace}.svc")]);
        names.extend(hosts.iter().map(|host| format!("{host}.{namespace}.pod")));
    }
    for index in 0..SERVICES {
        let key = service_key(index);
        let service = format!("{}.{}.svc", key.name, key.namespace);
        for protocol in ["_tcp", "_udp", "_SCTP", "_icmp"] {
            let ports = ["_p0", "_p1", "_p9"].map(|port| format!("{port}.{protocol}.{service}"));
            names.extend(ports.into_iter().chain([format!("{protocol}.{service}")]));
        }
        names.extend(hosts.iter().map(|host| format!("{host}.{service}")));
        names.extend([format!("deep.first.{service}"), service]);
    }
    names
}

/// Absent, empty, with records.
type Seen = [usize; 3];

fn compare(found: &Zone, cluster: &Snapshot, seen: &mut Seen) -> Result<(), TestCaseError> {
    for relative in candidates() {
        let name = if relative.is_empty() { ORIGIN.to_owned() } else { format!("{relative}.{ORIGIN}") };
        let wanted = records(cluster, ORIGIN, &name);
        let key = ZoneKey::of(&relative).unwrap();
        let found: Option<BTreeSet<String>> =
            found.find(&key).map(|records| records.iter().map(ToString::to_string).collect());
        prop_assert_eq!(&found, &wanted, "{}", name);
        seen[wanted.map_or(0, |records| if records.is_empty() { 1 } else { 2 })] += 1;
    }
    let pods = (0..2).flat_map(|place| (0..PODS).map(move |slot| (place, slot)));
    for family in Family::ALL {
        let addresses = pods.clone().map(|(place, slot)| pod_address(place, slot, family));
        for addr in addresses.chain((0..SERVICES).map(|number| cluster_address(number, family))) {
            let names = found.names_of(addr).map_or(&[][..], |names| names);
            let found: BTreeSet<String> = names.iter().map(|name| format!("{name}.")).collect();
            prop_assert_eq!(found, pointers(cluster, ORIGIN, addr), "{}", addr);
        }
    }
    Ok(())
}

#[test]
fn every_name_has_the_records_that_the_specification_says() {
    let seen = RefCell::new(Seen::default());
    runner("names", 150)
        .run(&cluster(), |cluster| compare(&zone(&cluster, ORIGIN), &cluster, &mut seen.borrow_mut()))
        .unwrap();
    let seen = seen.into_inner();
    eprintln!("absent, empty, with records: {seen:?}");
    let all: usize = seen.iter().sum();
    assert!(seen.iter().all(|count| *count * 100 >= all), "each at least one in a hundred: {seen:?}");
}

#[test]
fn names_are_the_same_whatever_the_way_to_them() {
    runner("name sequences", 60)
        .run(&sequence(8), |states| {
            let empty = Snapshot::default();
            let ways: [Vec<&Snapshot>; 3] = [
                states.iter().collect(),
                states.iter().rev().collect(),
                states.iter().flat_map(|state| [state, &empty]).collect(),
            ];
            for way in ways {
                let mut compiler = ZoneCompiler::new(ORIGIN, PodNames::Known);
                for state in way {
                    compiler.update(state);
                    prop_assert_eq!(compiler.zone(), &zone(state, ORIGIN));
                    prop_assert!(!compiler.update(state), "the same state again");
                }
                compiler.update(&empty);
                prop_assert!(compiler.zone().is_empty(), "names left in the last, empty state");
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_changed_service_costs_its_own_names() {
    let cluster = large::services(2_000, 5);
    let mut compiler = ZoneCompiler::new(ORIGIN, PodNames::Known);
    compiler.update(&cluster);
    let before = compiler.counters();
    assert_eq!(before.services, 2_000);
    let mut next = cluster.clone();
    let (key, service) = cluster.services.iter().nth(700).unwrap();
    let mut service = (**service).clone();
    service.cluster_ips = vec!["10.97.1.2".parse().unwrap()];
    next.services.insert(key.clone(), Arc::new(service));
    assert!(compiler.update(&next));
    let after = compiler.counters();
    assert_eq!((after.services - before.services, after.pods - before.pods), (1, 0));
    assert_eq!(compiler.zone(), &zone(&next, ORIGIN));
}

#[test]
fn a_changed_pod_costs_its_own_name() {
    let size = Size { pods: 1_100, policies: 0, namespaces: 20 };
    let cluster = large::policies(size);
    let mut compiler = ZoneCompiler::new(ORIGIN, PodNames::Known);
    compiler.update(&cluster);
    let before = compiler.counters();
    let mut next = cluster.clone();
    let mut pod = large::pod(&size, 700, 1);
    pod.addresses = pod.addresses.iter().take(1).collect();
    next.pods.insert(pod.key.clone(), Arc::new(pod));
    compiler.update(&next);
    let after = compiler.counters();
    assert_eq!((after.services - before.services, after.pods - before.pods), (0, 1));
}

#[test]
fn without_pods_each_address_of_a_namespace_has_a_name() {
    let cluster = large::policies(Size { pods: 10, policies: 0, namespaces: 2 });
    let namespace = cluster.namespaces.keys().next().unwrap().clone();
    let mut compiler = ZoneCompiler::new(ORIGIN, PodNames::Any);
    compiler.update(&cluster);
    let name = |namespace: &str| ZoneKey::of(&format!("192-0-2-1.{namespace}.pod")).unwrap();
    let found = compiler.zone().find(&name(&namespace)).unwrap();
    assert_eq!(*found, [Record::A("192.0.2.1".parse().unwrap())]);
    assert_eq!(compiler.zone().find(&name("absent")), None);
    assert_eq!(compiler.counters().pods, 0);
    let mut next = cluster.clone();
    next.namespaces.remove(&namespace);
    assert!(compiler.update(&next));
    assert_eq!(compiler.zone().find(&name(&namespace)), None);
    assert!(compiler.update(&Snapshot::default()));
    assert!(compiler.zone().is_empty());
}
