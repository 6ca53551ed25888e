//! Which addresses of Services are announced on the link, and by which nodes. Pure: who of them does it now is the
//! election's matter.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{Endpoint, L2Announcement, Node, Service, ServiceType, Snapshot, TrafficPolicy};
use sheetbend_model::types::{NodeName, ObjectKey};

/// Nodes with this label get no traffic from load balancers (KEP-1143).
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// One address that is announced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// Nodes that may answer for it, the preferred one first: another order for each address, so that the addresses
    /// spread over the nodes, and the same on every node.
    pub candidates: Vec<NodeName>,
    /// Where; empty for the node's uplink.
    pub interfaces: BTreeSet<Arc<str>>,
}

/// Every address that some L2Announcement selects. With `externalTrafficPolicy: Local` only nodes that have endpoints
/// may answer: another would drop what comes.
pub fn announcements(snapshot: &Snapshot) -> BTreeMap<IpAddr, Announcement> {
    let mut found: BTreeMap<IpAddr, (BTreeSet<NodeName>, BTreeSet<Arc<str>>)> = BTreeMap::new();
    if snapshot.l2_announcements.is_empty() {
        return BTreeMap::new();
    }
    let local = local_endpoints(snapshot);
    for service in snapshot.services.values().filter(|service| !service.proxied_elsewhere) {
        for object in snapshot.l2_announcements.values() {
            let addresses = addresses(service, object);
            if addresses.is_empty() {
                continue;
            }
            let may = |node: &&NodeName| {
                service.external_policy == TrafficPolicy::Cluster
                    || local.get(&service.key).is_some_and(|nodes| nodes.contains(*node))
            };
            let fits = |node: &&Arc<Node>| {
                object.node_selector.matches(&node.labels) && !node.labels.contains_key(EXCLUDED)
            };
            let nodes: BTreeSet<NodeName> =
                snapshot.nodes.values().filter(fits).map(|node| &node.name).filter(may).cloned().collect();
            for addr in addresses {
                let (candidates, interfaces) = found.entry(addr).or_default();
                candidates.extend(nodes.iter().cloned());
                interfaces.extend(object.interfaces.iter().cloned());
            }
        }
    }
    let ranked = |(addr, (candidates, interfaces))| {
        (addr, Announcement { candidates: rank(addr, candidates), interfaces })
    };
    found.into_iter().map(ranked).collect()
}

/// The addresses of `service` that `object` announces.
fn addresses(service: &Service, object: &L2Announcement) -> Vec<IpAddr> {
    let Some(exposure) = &service.exposure else { return Vec::new() };
    if !object.service_selector.matches(&exposure.labels) {
        return Vec::new();
    }
    let balanced = object.load_balancer_ips && service.service_type == ServiceType::LoadBalancer;
    let balanced = service.ingress_ips.iter().filter(|_| balanced);
    let external = service.external_ips.iter().filter(|_| object.external_ips);
    balanced.chain(external).map(|addr| addr.to_canonical()).filter(|addr| !addr.is_unspecified()).collect()
}

/// Service with externalTrafficPolicy Local → nodes with an endpoint that is ready, or still serves while it ends.
fn local_endpoints(snapshot: &Snapshot) -> BTreeMap<ObjectKey, BTreeSet<NodeName>> {
    let is_local = |service: &&Arc<Service>| {
        service.external_policy == TrafficPolicy::Local && service.exposure.is_some()
    };
    let mut nodes: BTreeMap<ObjectKey, BTreeSet<NodeName>> = snapshot
        .services
        .values()
        .filter(is_local)
        .map(|service| (service.key.clone(), BTreeSet::new()))
        .collect();
    if nodes.is_empty() {
        return nodes;
    }
    let serves = |endpoint: &&Endpoint| endpoint.ready || endpoint.serving && endpoint.terminating;
    for slice in snapshot.endpoint_slices.values() {
        let Some(name) = &slice.service else { continue };
        let key = ObjectKey { namespace: Arc::clone(&slice.key.namespace), name: Arc::clone(name) };
        if let Some(nodes) = nodes.get_mut(&key) {
            nodes.extend(slice.endpoints.iter().filter(serves).filter_map(|endpoint| endpoint.node.clone()));
        }
    }
    nodes
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): when a node goes, only its addresses move.
fn rank(addr: IpAddr, candidates: BTreeSet<NodeName>) -> Vec<NodeName> {
    let mut ranked: Vec<(u64, NodeName)> =
        candidates.into_iter().map(|node| (weight(addr, &node), node)).collect();
    ranked.sort_by(|a, b| b.cmp(a));
    ranked.into_iter().map(|(_, node)| node).collect()
}

/// FNV-1a over address and name, then the finisher of MurmurHash3, which spreads the last bytes over all bits.
fn weight(addr: IpAddr, node: &NodeName) -> u64 {
    let octets = match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    };
    let bytes = octets.into_iter().chain(node.0.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use sheetbend_model::state::{EndpointSlice, Exposure, LabelSelector, Weights};
    use sheetbend_model::types::{Family, Labels};

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    fn selector(pairs: &[(&str, &str)]) -> LabelSelector {
        LabelSelector { match_labels: labels(pairs).into(), match_expressions: Vec::new() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn announcement() -> L2Announcement {
        L2Announcement {
            name: "edge".into(),
            service_selector: LabelSelector::default(),
            node_selector: LabelSelector::default(),
            interfaces: Vec::new(),
            load_balancer_ips: true,
            external_ips: false,
        }
    }

    fn service(name: &str, policy: TrafficPolicy) -> Service {
        let exposure = Exposure {
            created: "".into(),
            labels: labels(&[("app", name)]),
            class: None,
            families: vec![Family::IPv4],
            second_is_optional: false,
            requested: Vec::new(),
            malformed_request: None,
            sharing_key: None,
            given: Vec::new(),
            has_host_names: false,
            is_managed: true,
        };
        Service {
            service_type: ServiceType::LoadBalancer,
            external_policy: policy,
            exposure: Some(Arc::new(exposure)),
            ..Service::new(ObjectKey::new("shop", name))
        }
    }

    fn cluster(services: &[Service], objects: &[L2Announcement]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, own) in
            [("a", &[("edge", "yes")][..]), ("b", &[]), ("c", &[("edge", "yes")]), ("d", &[(EXCLUDED, "")])]
        {
            let node = Node {
                name: NodeName::new(name),
                labels: labels(own),
                addresses: Vec::new(),
                other_addresses: Vec::new(),
                pod_cidrs: Vec::new(),
                leaving: false,
            };
            snapshot.nodes.insert(node.name.clone(), Arc::new(node));
        }
        for service in services {
            snapshot.services.insert(service.key.clone(), Arc::new(service.clone()));
        }
        for object in objects {
            snapshot.l2_announcements.insert(Arc::clone(&object.name), Arc::new(object.clone()));
        }
        snapshot
    }

    fn names(announcement: &Announcement) -> Vec<&str> {
        let mut names: Vec<&str> = announcement.candidates.iter().map(|node| &*node.0).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn selectors_and_kinds_of_addresses_decide_what_is_announced_and_by_whom() {
        let mut web = service("web", TrafficPolicy::Cluster);
        web.ingress_ips = vec![ip("192.0.2.1"), ip("2001:db8::1")];
        web.external_ips = vec![ip("192.0.2.99")];
        let mut other = service("other", TrafficPolicy::Cluster);
        other.ingress_ips = vec![ip("192.0.2.2")];
        let all = announcements(&cluster(&[web.clone(), other.clone()], &[announcement()]));
        assert_eq!(
            all.keys().copied().collect::<Vec<_>>(),
            [ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1")]
        );
        assert_eq!(names(&all[&ip("192.0.2.1")]), ["a", "b", "c"], "d is excluded by its label");

        let narrow = L2Announcement {
            service_selector: selector(&[("app", "web")]),
            node_selector: selector(&[("edge", "yes")]),
            interfaces: vec!["eth1".into()],
            external_ips: true,
            load_balancer_ips: false,
            ..announcement()
        };
        let some = announcements(&cluster(&[web.clone(), other], &[narrow]));
        assert_eq!(some.keys().copied().collect::<Vec<_>>(), [ip("192.0.2.99")]);
        assert_eq!(names(&some[&ip("192.0.2.99")]), ["a", "c"]);
        assert_eq!(some[&ip("192.0.2.99")].interfaces, BTreeSet::from(["eth1".into()]));

        web.service_type = ServiceType::NodePort;
        assert!(
            announcements(&cluster(&[web], &[announcement()])).is_empty(),
            "its addresses are served no more"
        );
        assert!(announcements(&cluster(&[service("web", TrafficPolicy::Cluster)], &[])).is_empty());
    }

    #[test]
    fn with_policy_local_only_nodes_with_endpoints_answer() {
        let mut web = service("web", TrafficPolicy::Local);
        web.ingress_ips = vec![ip("192.0.2.1")];
        let mut snapshot = cluster(&[web], &[announcement()]);
        assert!(announcements(&snapshot)[&ip("192.0.2.1")].candidates.is_empty());
        let endpoint = |node: &str, ready, serving, terminating| Endpoint {
            address: Some(ip("10.0.0.1")),
            ready,
            serving,
            terminating,
            hostname: None,
            node: Some(NodeName::new(node)),
            pod: None,
            hints: None,
        };
        let slice = EndpointSlice {
            key: ObjectKey::new("shop", "web-1"),
            service: Some("web".into()),
            family: Family::IPv4,
            ports: Vec::new(),
            weights: Weights::default(),
            endpoints: vec![
                endpoint("a", true, true, false),
                endpoint("b", false, false, false),
                endpoint("c", false, true, true),
            ],
        };
        snapshot.endpoint_slices.insert(slice.key.clone(), Arc::new(slice));
        assert_eq!(names(&announcements(&snapshot)[&ip("192.0.2.1")]), ["a", "c"]);
    }

    #[test]
    fn addresses_spread_over_nodes_and_only_those_of_a_node_that_goes_move() {
        let nodes: BTreeSet<NodeName> = (0..4).map(|index| NodeName::new(format!("node-{index}"))).collect();
        let without: BTreeSet<NodeName> = nodes.iter().skip(1).cloned().collect();
        let gone = nodes.first().unwrap();
        let mut count: BTreeMap<NodeName, u32> = BTreeMap::new();
        for index in 0..1000_u16 {
            let [high, low] = index.to_be_bytes();
            let addr = IpAddr::from([198, 51, high, low]);
            let first = rank(addr, nodes.clone()).remove(0);
            let then = rank(addr, without.clone()).remove(0);
            assert!(first == *gone || first == then, "{addr} moves from {first} to {then}");
            *count.entry(first).or_default() += 1;
        }
        // 250 each, standard deviation 14.
        assert!(count.len() == 4 && count.values().all(|count| (180..320).contains(count)), "{count:?}");
    }
}
