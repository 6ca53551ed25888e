#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use sheetbend_model::state::{
    AddressRange, Exposure, LabelSelector, LoadBalancerPool, Namespace, Node, Service, ServicePort,
    ServiceType, Snapshot, TargetPort, TrafficPolicy,
};
use sheetbend_model::types::{Family, Labels, NodeName, ObjectKey, Port, Protocol};

use super::twin::{self, Twin};
use super::{Allocation, allocate};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(first: &str, last: &str) -> AddressRange {
    AddressRange::new(ip(first), ip(last)).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn pool(name: &str, ranges: &[AddressRange]) -> LoadBalancerPool {
    LoadBalancerPool {
        name: name.into(),
        created: "".into(),
        ranges: ranges.to_vec(),
        service_selector: LabelSelector::default(),
        namespace_selector: LabelSelector::default(),
        disabled: false,
    }
}

fn port(number: u16) -> ServicePort {
    let port = Port::new(number).unwrap();
    ServicePort {
        name: "".into(),
        protocol: Protocol::Tcp,
        port,
        node_port: None,
        target: TargetPort::Number(port),
    }
}

fn service(name: &str, families: &[Family]) -> Service {
    let exposure = Exposure {
        created: "".into(),
        labels: Labels::new(),
        class: None,
        families: families.to_vec(),
        second_is_optional: false,
        requested: Vec::new(),
        malformed_request: None,
        sharing_key: None,
        given: Vec::new(),
        has_host_names: false,
        is_managed: false,
    };
    Service {
        service_type: ServiceType::LoadBalancer,
        ports: vec![port(80)],
        exposure: Some(Arc::new(exposure)),
        ..Service::new(ObjectKey::new("shop", name))
    }
}

fn change(service: &mut Service, with: impl FnOnce(&mut Exposure)) {
    with(Arc::make_mut(service.exposure.as_mut().unwrap()));
}

fn cluster(pools: &[LoadBalancerPool], services: &[Service]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for pool in pools {
        snapshot.load_balancer_pools.insert(Arc::clone(&pool.name), Arc::new(pool.clone()));
    }
    for service in services {
        snapshot.services.insert(service.key.clone(), Arc::new(service.clone()));
    }
    let shop = Namespace { name: "shop".into(), labels: labels(&[("team", "blue")]), audit: false };
    snapshot.namespaces.insert("shop".into(), Arc::new(shop));
    snapshot
}

/// Writes what was given into the Services, as the controller does.
fn carry_out(snapshot: &mut Snapshot, allocation: &Allocation) {
    for (key, rest) in &allocation.released {
        let mut service = Service::clone(&snapshot.services[key]);
        change(&mut service, |exposure| {
            exposure.given.clone_from(rest);
            exposure.is_managed = false;
        });
        snapshot.services.insert(key.clone(), Arc::new(service));
    }
    for (key, given) in &allocation.services {
        let mut service = Service::clone(&snapshot.services[key]);
        change(&mut service, |exposure| {
            exposure.given.clone_from(&given.addresses);
            exposure.is_managed = !given.addresses.is_empty();
        });
        snapshot.services.insert(key.clone(), Arc::new(service));
    }
}

fn of(allocation: &Allocation, name: &str) -> Vec<String> {
    allocation.services[&ObjectKey::new("shop", name)].addresses.iter().map(ToString::to_string).collect()
}

fn faults(allocation: &Allocation, name: &str) -> Vec<String> {
    allocation.services[&ObjectKey::new("shop", name)].faults.iter().map(ToString::to_string).collect()
}

const BOTH: [Family; 2] = [Family::IPv6, Family::IPv4];
const V4: [Family; 1] = [Family::IPv4];

#[test]
fn each_family_of_a_service_gets_the_lowest_free_address_and_keeps_it() {
    let pools = [pool("edge", &[range("192.0.2.1", "192.0.2.9"), range("2001:db8::1", "2001:db8::9")])];
    let mut snapshot = cluster(&pools, &[service("b", &BOTH), service("c", &V4)]);
    let first = allocate(&snapshot, true);
    assert_eq!(of(&first, "b"), ["2001:db8::1", "192.0.2.1"], "in the order of spec.ipFamilies");
    assert_eq!(of(&first, "c"), ["192.0.2.2"]);
    assert_eq!(first.pools["edge"].used, 3);
    assert_eq!(first.pools["edge"].size, 18);
    carry_out(&mut snapshot, &first);
    snapshot.services.insert(ObjectKey::new("shop", "a"), Arc::new(service("a", &V4)));
    snapshot.services.remove(&ObjectKey::new("shop", "b"));
    let second = allocate(&snapshot, true);
    assert_eq!(
        (of(&second, "a"), of(&second, "c")),
        (vec!["192.0.2.1".to_owned()], vec!["192.0.2.2".to_owned()])
    );
}

#[test]
fn what_cannot_be_had_is_named_with_pool_and_owner() {
    let pools = [pool("small", &[range("192.0.2.1", "192.0.2.2")])];
    let mut wishes = service("wishes", &V4);
    change(&mut wishes, |exposure| exposure.requested = vec![ip("192.0.2.1"), ip("2001:db8::1")]);
    let mut outside = service("outside", &V4);
    change(&mut outside, |exposure| exposure.requested = vec![ip("203.0.113.1")]);
    let mut broken = service("broken", &V4);
    change(&mut broken, |exposure| exposure.malformed_request = Some("192.0.2".into()));
    let services =
        [service("a", &V4), service("b", &V4), service("six", &BOTH), wishes.clone(), outside, broken];
    let allocation = allocate(&cluster(&pools, &services), true);
    assert_eq!(of(&allocation, "wishes"), ["192.0.2.1"], "requests come before the rest");
    assert!(
        faults(&allocation, "wishes")[0]
            .contains("2001:db8::1 is of a family that the Service does not have")
    );
    assert_eq!(of(&allocation, "a"), ["192.0.2.2"]);
    assert_eq!(
        faults(&allocation, "b"),
        ["all IPv4 addresses are in use of LoadBalancerPool small (2); add a block, or remove Services"]
    );
    assert!(
        faults(&allocation, "six")
            .iter()
            .any(|text| text.contains("no LoadBalancerPool with IPv6 addresses"))
    );
    assert!(faults(&allocation, "outside")[0].contains("203.0.113.1 is in no LoadBalancerPool"));
    assert!(faults(&allocation, "broken")[0].contains("\"192.0.2\" are no list"));
    assert!(of(&allocation, "broken").is_empty());

    let mut other = wishes;
    other.key.name = "zwei".into();
    change(&mut other, |exposure| exposure.requested = vec![ip("192.0.2.1")]);
    let mut snapshot = cluster(&pools, &[services[3].clone(), other]);
    let node = Node {
        name: NodeName::new("n"),
        labels: Labels::new(),
        addresses: vec![ip("192.0.2.2")],
        leaving: false,
        other_addresses: Vec::new(),
        pod_cidrs: Vec::new(),
    };
    snapshot.nodes.insert(node.name.clone(), Arc::new(node));
    snapshot.services.insert(ObjectKey::new("shop", "x"), Arc::new(service("x", &V4)));
    let allocation = allocate(&snapshot, true);
    assert!(faults(&allocation, "zwei")[0].contains("192.0.2.1 is Service shop/wishes's"));
    assert!(of(&allocation, "x").is_empty(), "a node's address is nobody else's");
}

#[test]
fn services_share_an_address_by_key_where_nothing_stands_in_the_way() {
    let pools = [pool("edge", &[range("192.0.2.1", "192.0.2.9")])];
    let shared = |name: &str, number: u16| {
        let mut service = service(name, &V4);
        service.ports = vec![port(number)];
        change(&mut service, |exposure| exposure.sharing_key = Some("k".into()));
        service
    };
    let mut local = shared("e", 25);
    local.external_policy = TrafficPolicy::Local;
    let mut clash = shared("c", 80);
    change(&mut clash, |exposure| exposure.requested = vec![ip("192.0.2.1")]);
    let mut elsewhere = shared("f", 99);
    elsewhere.key.namespace = "other".into();
    let services = [shared("a", 80), shared("b", 443), shared("d", 80), local, clash, elsewhere];
    let allocation = allocate(&cluster(&pools, &services), true);
    assert_eq!(
        (of(&allocation, "c"), of(&allocation, "b")),
        (vec!["192.0.2.1".into()], vec!["192.0.2.1".into()])
    );
    let other = &allocation.services[&ObjectKey::new("other", "f")];
    assert_eq!(other.addresses, [ip("192.0.2.2")], "a key means nothing in another namespace");
    assert_eq!(
        (of(&allocation, "a"), of(&allocation, "d")),
        (vec!["192.0.2.3".into()], vec!["192.0.2.4".into()])
    );
    assert_eq!(of(&allocation, "e"), ["192.0.2.5"], "Local with other pods is not shared");
}

#[test]
fn services_of_other_implementations_are_left_alone() {
    let pools = [pool("edge", &[range("192.0.2.1", "192.0.2.9")])];
    let mut others_class = service("a", &V4);
    change(&mut others_class, |exposure| exposure.class = Some("example.com/lb".into()));
    let mut served = service("b", &V4);
    change(&mut served, |exposure| exposure.given = vec![ip("198.51.100.1")]);
    let mut adopted = service("c", &V4);
    change(&mut adopted, |exposure| exposure.given = vec![ip("192.0.2.7")]);
    let mut named = service("d", &V4);
    change(&mut named, |exposure| exposure.has_host_names = true);
    let mut ours = service("e", &V4);
    change(&mut ours, |exposure| exposure.class = Some("sheetbend.dev/load-balancer".into()));
    let services = [others_class, served, adopted, named, ours, service("f", &V4)];
    let snapshot = cluster(&pools, &services);
    let names = |allocation: Allocation| {
        allocation.services.into_keys().map(|key| key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of(&allocate(&snapshot, true), "c"), ["192.0.2.7"]);
    assert_eq!(names(allocate(&snapshot, true)), ["c", "e", "f"]);
    assert_eq!(names(allocate(&snapshot, false)), ["e"]);
    assert_eq!(
        names(allocate(&cluster(&[], &services), true)),
        ["e"],
        "without pools only those that name us"
    );
}

#[test]
fn a_service_of_another_type_gives_its_address_back() {
    let pools = [pool("edge", &[range("192.0.2.1", "192.0.2.1")])];
    let mut snapshot = cluster(&pools, &[service("a", &V4)]);
    let first = allocate(&snapshot, true);
    carry_out(&mut snapshot, &first);
    let mut changed = Service::clone(&snapshot.services[&ObjectKey::new("shop", "a")]);
    changed.service_type = ServiceType::ClusterIP;
    change(&mut changed, |exposure| exposure.given.push(ip("203.0.113.9")));
    snapshot.services.insert(changed.key.clone(), Arc::new(changed));
    snapshot.services.insert(ObjectKey::new("shop", "b"), Arc::new(service("b", &V4)));
    let second = allocate(&snapshot, true);
    assert_eq!(of(&second, "b"), ["192.0.2.1"]);
    assert_eq!(second.released[&ObjectKey::new("shop", "a")], [ip("203.0.113.9")], "what is no pool's stays");
    carry_out(&mut snapshot, &second);
    assert!(allocate(&snapshot, true).released.is_empty());
}

#[test]
fn the_younger_of_two_overlapping_pools_gives_nothing_and_names_the_older() {
    let mut older = pool("z", &[range("192.0.2.1", "192.0.2.1")]);
    older.created = "2026-01-01T00:00:00Z".into();
    let mut younger = pool("a", &[range("192.0.2.0", "192.0.2.9")]);
    younger.created = "2026-01-02T00:00:00Z".into();
    let mut held = service("held", &V4);
    change(&mut held, |exposure| exposure.given = vec![ip("192.0.2.5")]);
    let allocation =
        allocate(&cluster(&[older, younger], &[service("a", &V4), service("b", &V4), held]), true);
    assert_eq!(of(&allocation, "a"), ["192.0.2.1"]);
    assert!(of(&allocation, "b").is_empty());
    assert_eq!(of(&allocation, "held"), ["192.0.2.5"], "what was given stays");
    assert_eq!(allocation.pools["z"].fault, None);
    let text = allocation.pools["a"].fault.as_ref().unwrap().to_string();
    assert!(
        text.contains("192.0.2.0-192.0.2.9 overlaps 192.0.2.1-192.0.2.1 of LoadBalancerPool z"),
        "{text}"
    );
}

fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0..12_u16).prop_map(|(v6, low)| {
        if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low]) } else { IpAddr::from([10, 0, 0, low as u8]) }
    })
}

fn a_range() -> impl Strategy<Value = AddressRange> {
    (any::<bool>(), 0..12_u16, 0..5_u16).prop_map(|(v6, first, more)| {
        let at = |low: u16| {
            if v6 {
                IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low])
            } else {
                IpAddr::from([10, 0, 0, low as u8])
            }
        };
        AddressRange::new(at(first), at(first + more)).unwrap()
    })
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    prop_oneof![4 => Just(None), 1 => Just(Some("blue")), 1 => Just(Some("red"))].prop_map(|team| {
        LabelSelector {
            match_labels: team.into_iter().map(|team| ("team".into(), team.into())).collect(),
            match_expressions: Vec::new(),
        }
    })
}

fn a_pool() -> impl Strategy<Value = LoadBalancerPool> {
    let ranges = prop::collection::vec(a_range(), 1..3);
    (0..4_u8, 0..2_u8, ranges, selector(), selector(), prop::bool::weighted(0.1)).prop_map(
        |(name, created, ranges, service_selector, namespace_selector, disabled)| LoadBalancerPool {
            name: format!("pool-{name}").into(),
            created: format!("2026-01-0{}T00:00:00Z", created + 1).into(),
            ranges,
            service_selector,
            namespace_selector,
            disabled,
        },
    )
}

fn a_service() -> impl Strategy<Value = Service> {
    let families = prop_oneof![Just(vec![Family::IPv4]), Just(vec![Family::IPv6]), Just(BOTH.to_vec())];
    let facts = (0..6_u8, 0..2_u8, families, prop::bool::weighted(0.9), 0..3_u8, any::<bool>());
    let wishes = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(address(), 1..3)];
    let key = prop_oneof![Just(None), Just(Some("k"))];
    let external = prop_oneof![6 => Just(Vec::new()), 1 => address().prop_map(|addr| vec![addr])];
    (facts, wishes, key, 1..4_u16, any::<bool>(), external).prop_map(
        |((name, created, families, balanced, class, red), requested, key, number, local, external_ips)| {
            let mut service = service(&format!("s-{name}"), &families);
            service.key.namespace = if name % 3 == 0 { "shop".into() } else { "bare".into() };
            service.ports = vec![port(number)];
            service.external_ips = external_ips;
            service.service_type = if balanced { ServiceType::LoadBalancer } else { ServiceType::ClusterIP };
            service.external_policy = if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
            service.selector = labels(&[("app", if name % 2 == 0 { "a" } else { "b" })]);
            change(&mut service, |exposure| {
                exposure.created = format!("2026-01-0{}T00:00:00Z", created + 1).into();
                exposure.labels = labels(&[("team", if red { "red" } else { "blue" })]);
                exposure.class = [None, Some("sheetbend.dev/load-balancer"), Some("example.com/lb")]
                    [usize::from(class)]
                .map(Arc::from);
                exposure.requested = requested;
                exposure.sharing_key = key.map(Arc::from);
            });
            service
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Pool(LoadBalancerPool),
    NoPool(u8),
    Service(Service),
    NoService(u8),
    Status(u8, IpAddr),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => a_pool().prop_map(Step::Pool),
        1 => (0..4_u8).prop_map(Step::NoPool),
        6 => a_service().prop_map(Step::Service),
        2 => (0..6_u8).prop_map(Step::NoService),
        1 => (0..6_u8, address()).prop_map(|(name, addr)| Step::Status(name, addr)),
    ]
}

fn key_of(number: u8) -> ObjectKey {
    ObjectKey::new(if number.is_multiple_of(3) { "shop" } else { "bare" }, format!("s-{number}"))
}

/// Returns whose addresses the step may change by right.
fn take(snapshot: &mut Snapshot, step: Step) -> Option<ObjectKey> {
    match step {
        Step::Pool(pool) => drop(snapshot.load_balancer_pools.insert(Arc::clone(&pool.name), Arc::new(pool))),
        Step::NoPool(name) => drop(snapshot.load_balancer_pools.remove(&*format!("pool-{name}"))),
        Step::Service(mut service) => {
            let key = service.key.clone();
            if let Some(before) = snapshot.services.get(&key).and_then(|before| before.exposure.clone()) {
                change(&mut service, |exposure| {
                    exposure.given.clone_from(&before.given);
                    exposure.is_managed = before.is_managed;
                });
            }
            snapshot.services.insert(key.clone(), Arc::new(service));
            return Some(key);
        }
        Step::NoService(name) => drop(snapshot.services.remove(&key_of(name))),
        Step::Status(name, addr) => {
            let key = key_of(name);
            if let Some(mut service) = snapshot.services.get(&key).map(|service| Service::clone(service)) {
                change(&mut service, |exposure| exposure.given.push(addr));
                snapshot.services.insert(key.clone(), Arc::new(service));
            }
            return Some(key);
        }
    }
    None
}

fn check(snapshot: &Snapshot, allocation: &Allocation) -> Result<(), TestCaseError> {
    let mut holders: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
    for (key, given) in &allocation.services {
        let service = snapshot.services.get(key).unwrap();
        let families = &service.exposure.as_ref().unwrap().families;
        let of: Vec<Family> = given.addresses.iter().map(|addr| Family::of(*addr)).collect();
        let wanted: Vec<Family> = families.iter().copied().filter(|family| of.contains(family)).collect();
        prop_assert_eq!(of, wanted, "one per family, in the Service's order");
        for addr in &given.addresses {
            prop_assert!(
                snapshot
                    .load_balancer_pools
                    .values()
                    .any(|pool| pool.ranges.iter().any(|r| r.contains(*addr))),
                "{} is in no pool",
                addr
            );
            for other in holders.entry(*addr).or_default().iter() {
                prop_assert!(twin::may_share(service, other), "{} is {}'s and {}'s", addr, key, other.key);
            }
            holders.entry(*addr).or_default().push(service);
        }
        let missing = families.len() - given.addresses.len();
        prop_assert!(given.faults.len() >= missing, "what is missing has a reason");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn allocation_equals_its_twin_over_any_sequence(steps in prop::collection::vec(step(), 1..30)) {
        let mut snapshot = cluster(&[], &[]);
        for step in steps {
            let moves_pools = matches!(step, Step::Pool(_) | Step::NoPool(_));
            let before = snapshot.clone();
            let changed = take(&mut snapshot, step);
            let allocation = allocate(&snapshot, true);
            check(&snapshot, &allocation)?;

            let ours = |mut addresses: Vec<IpAddr>| { addresses.sort(); addresses };
            let given: twin::Addresses = allocation.services.iter()
                .map(|(key, given)| (key.clone(), ours(given.addresses.clone()))).collect();
            let wanted: twin::Addresses = Twin::addresses(&snapshot).into_iter()
                .map(|(key, addresses)| (key, ours(addresses))).collect();
            prop_assert_eq!(&given, &wanted);

            for (key, given) in &allocation.services {
                let Some(exposure) = before.services.get(key).and_then(|service| service.exposure.as_ref()) else {
                    continue;
                };
                if moves_pools || changed.as_ref() == Some(key) || exposure.sharing_key.is_some() || !exposure.is_managed {
                    continue;
                }
                for addr in &exposure.given {
                    // Only one whose status somebody wrote by hand can lose it.
                    let doubled = snapshot.services.values().filter(|service| {
                        service.exposure.as_ref().is_some_and(|other| other.given.contains(addr))
                    }).count() > 1;
                    prop_assert!(doubled || given.addresses.contains(addr), "{} lost {}", key, addr);
                }
            }
            carry_out(&mut snapshot, &allocation);
            let again = allocate(&snapshot, true);
            for (key, given) in &allocation.services {
                // A Service that is not ours by name and has nothing is as new.
                if let Some(kept) = again.services.get(key) {
                    prop_assert_eq!(&kept.addresses, &given.addresses, "a restart moves {}", key);
                }
            }
        }
        snapshot.services.clear();
        let end = allocate(&snapshot, true);
        prop_assert!(end.pools.values().all(|pool| pool.used == 0));
    }
}
