//! Isolation in one line: the NetworkPolicy that a Namespace's label, or a Tenant, stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use sheetbend_model::plan::Condition;
use sheetbend_model::state::{
    ISOLATION, IpBlock, LabelSelector, Namespace, NetworkPolicy, Peer, Pod, PolicyPort, PolicyRule,
    PortMatch, Snapshot, TENANT, Tenant,
};
use sheetbend_model::types::{ObjectKey, Port, Protocol};

use crate::changes::in_namespace;

/// Where clusters have their DNS, by custom: namespace, Service, and label of the pods.
const DNS: (&str, &str, (&str, &str)) = ("kube-system", "kube-dns", ("k8s-app", "kube-dns"));
/// Whether `pod` is one of the cluster's name servers.
pub(super) fn serves_names(pod: &Pod) -> bool {
    let (namespace, _, (key, value)) = DNS;
    *pod.key.namespace == *namespace && pod.labels.get(key).is_some_and(|own| **own == *value)
}

const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

type Policies = OrdMap<ObjectKey, Arc<NetworkPolicy>>;
type Tenants = OrdMap<Arc<str>, Arc<Tenant>>;

/// `cluster` with the NetworkPolicies that labels and Tenants stand for. Their name, `sheetbend.dev/isolation`, is none
/// that an API server takes, so that they are in nobody's way.
pub(crate) fn with_isolation(cluster: &Snapshot) -> Snapshot {
    Isolations::default().follow(cluster)
}

/// Follows the NetworkPolicies that labels and Tenants stand for.
#[derive(Debug, Default)]
pub(crate) struct Isolations {
    /// Namespace → its policy, and what is wrong with its labels.
    closed: BTreeMap<Arc<str>, (Arc<NetworkPolicy>, Option<Condition>)>,
    /// Those of users and these; empty where there are none of these.
    policies: Policies,
    /// What they were made of.
    namespaces: OrdMap<Arc<str>, Arc<Namespace>>,
    tenants: Tenants,
    users: Policies,
    servers: Servers,
}

/// Servers of the cluster's DNS that are no pods, but processes of a node, and the ports of all.
#[derive(Clone, Debug, Default, PartialEq)]
struct Servers {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<(Protocol, Port)>,
}

impl Servers {
    fn of(snapshot: &Snapshot) -> Self {
        let (namespace, service, _) = DNS;
        let mut found = Self::default();
        for (_, slice) in in_namespace(&snapshot.endpoint_slices, &namespace.into()) {
            if slice.service.as_deref() != Some(service) {
                continue;
            }
            let ports = slice.ports.iter().filter_map(|port| Some((port.protocol, port.port?)));
            found.ports.extend(ports);
            let addresses = slice.endpoints.iter().filter_map(|endpoint| endpoint.address);
            found.addresses.extend(addresses.filter(|addr| is_of_node(snapshot, *addr)));
        }
        found
    }
}

fn is_of_node(snapshot: &Snapshot, addr: IpAddr) -> bool {
    let mut nodes = snapshot.nodes.values();
    nodes.any(|node| node.addresses.iter().chain(&node.other_addresses).any(|own| *own == addr))
}

impl Isolations {
    /// `next` with them; costs what changed since the last call.
    pub(crate) fn follow(&mut self, next: &Snapshot) -> Snapshot {
        let was_empty = self.closed.is_empty();
        let touched = self.namespaces(next);
        let users = std::mem::replace(&mut self.users, next.policies.clone());
        if self.closed.is_empty() {
            self.policies = Policies::default();
            return next.clone();
        }
        if was_empty {
            self.policies = next.policies.clone();
        } else {
            self.follow_users(&users, &next.policies);
        }
        for key in touched {
            match self.closed.get(&key.namespace) {
                Some((policy, _)) => drop(self.policies.insert(key, policy.clone())),
                None => drop(self.policies.remove(&key)),
            }
        }
        Snapshot { policies: self.policies.clone(), ..next.clone() }
    }

    /// What is wrong with labels.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = Condition> {
        self.closed.values().filter_map(|(_, condition)| condition.clone())
    }

    /// Takes the namespaces in that changed, or all where a Tenant did; the keys of policies that differ.
    fn namespaces(&mut self, next: &Snapshot) -> Vec<ObjectKey> {
        let tenants = std::mem::replace(&mut self.tenants, next.tenants.clone());
        let namespaces = std::mem::replace(&mut self.namespaces, next.namespaces.clone());
        let mut touched: BTreeMap<&Arc<str>, Option<&Arc<Namespace>>> = BTreeMap::new();
        for item in namespaces.diff(&next.namespaces) {
            match item {
                DiffItem::Add(name, namespace) | DiffItem::Update { new: (name, namespace), .. } => {
                    touched.insert(name, Some(namespace));
                }
                DiffItem::Remove(name, _) => drop(touched.insert(name, None)),
            }
        }
        if self.closed.is_empty() && touched.is_empty() && tenants == next.tenants {
            // Nobody asks where names are.
            return Vec::new();
        }
        let servers = std::mem::replace(&mut self.servers, Servers::of(next));
        if tenants != next.tenants || servers != self.servers {
            touched.extend(next.namespaces.iter().map(|(name, namespace)| (name, Some(namespace))));
        }
        let touched = touched.into_iter();
        touched
            .filter_map(|(name, now)| self.namespace(name, now.map(AsRef::as_ref), &next.tenants))
            .collect()
    }

    /// Takes a namespace in; the key of its policy if that differs.
    fn namespace(
        &mut self,
        name: &Arc<str>,
        namespace: Option<&Namespace>,
        tenants: &Tenants,
    ) -> Option<ObjectKey> {
        let key = ObjectKey::new(name.clone(), ISOLATION);
        let Some((posture, wrong)) = namespace.and_then(|namespace| posture(namespace, tenants)) else {
            return self.closed.remove(name).map(|_| key);
        };
        let policy = policy(key.clone(), &posture, &self.servers);
        let condition = wrong.map(|message| Condition {
            kind: "Namespace",
            object: ObjectKey::cluster_scoped(name.clone()),
            reason: "TreatedAsStrict",
            message: message.into(),
        });
        if let Some((known, told)) = self.closed.get_mut(name)
            && **known == policy
        {
            *told = condition;
            return None;
        }
        self.closed.insert(name.clone(), (Arc::new(policy), condition));
        Some(key)
    }

    fn follow_users(&mut self, old: &Policies, next: &Policies) {
        for item in old.diff(next) {
            match item {
                DiffItem::Add(key, policy) | DiffItem::Update { new: (key, policy), .. } => {
                    drop(self.policies.insert(key.clone(), policy.clone()));
                }
                DiffItem::Remove(key, _) => drop(self.policies.remove(key)),
            }
        }
    }
}

/// How a namespace is isolated.
#[derive(Debug)]
enum Posture<'a> {
    Strict,
    /// Open to namespaces with this tenant's label, and to those of this Tenant.
    Tenant(&'a str, Option<&'a Tenant>),
}

/// `None`: not at all. With what is wrong, if its labels say something that is not followed.
fn posture<'a>(namespace: &'a Namespace, tenants: &'a Tenants) -> Option<(Posture<'a>, Option<String>)> {
    let label = |key: &str| namespace.labels.get(key).map(|value| &**value).filter(|value| !value.is_empty());
    let mut names: Vec<&str> = Vec::new();
    let selecting = tenants.values().filter(|tenant| tenant.namespaces.matches(&namespace.labels));
    names.extend(selecting.map(|tenant| &*tenant.name));
    match label(ISOLATION) {
        Some("strict") => return Some((Posture::Strict, None)),
        Some("tenant") => {}
        Some(other) => {
            let text = format!("label {ISOLATION} is neither strict nor tenant, but {other}; {STRICT}");
            return Some((Posture::Strict, Some(text)));
        }
        None if names.is_empty() => return None,
        None => {}
    }
    names.extend(label(TENANT));
    names.sort_unstable();
    names.dedup();
    let wrong = match names.as_slice() {
        [name] => return Some((Posture::Tenant(name, tenants.get(*name).map(AsRef::as_ref)), None)),
        [] => {
            format!("label {ISOLATION} is tenant, but no label {TENANT} and no Tenant names whose; {STRICT}")
        }
        names => format!(
            "is of the tenants {}; leave it to one of them, by its label {TENANT} and the selectors of Tenants; {STRICT}",
            names.join(" and ")
        ),
    };
    Some((Posture::Strict, Some(wrong)))
}

const STRICT: &str = "until then its pods send to nobody but the cluster's DNS and receive from nobody";

/// The policy of a namespace; it selects every pod.
fn policy(key: ObjectKey, posture: &Posture<'_>, servers: &Servers) -> NetworkPolicy {
    let (mut ingress, mut egress) = (Vec::new(), vec![dns(servers)]);
    if let Posture::Tenant(name, tenant) = posture {
        let labelled = labels([(ISOLATION, "tenant"), (TENANT, *name)]);
        let namespaces = std::iter::once(labelled).chain(tenant.map(|tenant| tenant.namespaces.clone()));
        let peers = namespaces.map(|namespaces| Peer::Pods { namespaces: Some(namespaces), pods: None });
        let rule = PolicyRule { peers: peers.collect(), ports: Vec::new() };
        ingress.push(rule.clone());
        egress.push(rule);
    }
    NetworkPolicy {
        key,
        pod_selector: LabelSelector::default(),
        ingress: Some(ingress),
        egress: Some(egress),
    }
}

/// Egress to the cluster's DNS, which may have another number behind port 53 of its Service.
fn dns(servers: &Servers) -> PolicyRule {
    let (namespace, _, label) = DNS;
    let pods =
        Peer::Pods { namespaces: Some(labels([(NAMESPACE_NAME, namespace)])), pods: Some(labels([label])) };
    let blocks = servers.addresses.iter();
    let blocks = blocks.map(|addr| Peer::Block(IpBlock { cidr: IpNet::from(*addr), except: Vec::new() }));
    let number = Port::new(53).ok().map(PortMatch::number);
    let ports =
        [(Protocol::Udp, "dns"), (Protocol::Tcp, "dns-tcp")].into_iter().flat_map(|(protocol, name)| {
            let both = number.clone().into_iter().chain([PortMatch::Named(name.into())]);
            both.map(move |port| PolicyPort { protocol, port })
        });
    let served =
        servers.ports.iter().filter(|(protocol, port)| *protocol != Protocol::Sctp && port.get() != 53);
    let served =
        served.map(|(protocol, port)| PolicyPort { protocol: *protocol, port: PortMatch::number(*port) });
    PolicyRule { peers: std::iter::once(pods).chain(blocks).collect(), ports: ports.chain(served).collect() }
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> LabelSelector {
    let match_labels = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    LabelSelector { match_labels, match_expressions: Vec::new() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn cluster(namespaces: &[(&str, &[(&str, &str)])], tenants: &[(&str, (&str, &str))]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, own) in namespaces {
            let own = own.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect();
            snapshot.namespaces.insert(
                (*name).into(),
                Arc::new(Namespace { name: (*name).into(), labels: own, audit: false }),
            );
        }
        for (name, label) in tenants {
            let tenant = Tenant { name: (*name).into(), namespaces: labels([*label]) };
            snapshot.tenants.insert((*name).into(), Arc::new(tenant));
        }
        snapshot
    }

    /// Namespace → number of peers that may send to it; `None`: it is not isolated.
    fn peers(snapshot: &Snapshot, namespace: &str) -> Option<usize> {
        let derived = with_isolation(snapshot);
        let policy = derived.policies.get(&ObjectKey::new(namespace, ISOLATION))?;
        Some(policy.ingress.iter().flatten().map(|rule| rule.peers.len()).sum())
    }

    fn wrong(snapshot: &Snapshot) -> Vec<String> {
        let mut isolations = Isolations::default();
        isolations.follow(snapshot);
        isolations
            .conditions()
            .map(|condition| format!("{} {}", condition.object, condition.message))
            .collect()
    }

    #[test]
    fn labels_and_tenants_say_how_a_namespace_is_isolated() {
        let all = cluster(
            &[
                ("open", &[(TENANT, "one")]),
                ("strict", &[(ISOLATION, "strict"), (TENANT, "one")]),
                ("one", &[(ISOLATION, "tenant"), (TENANT, "one")]),
                ("two", &[(ISOLATION, "tenant"), (TENANT, "two"), ("team", "two")]),
                ("selected", &[("team", "two")]),
            ],
            &[("two", ("team", "two"))],
        );
        let found: Vec<_> = all.namespaces.keys().map(|name| peers(&all, name)).collect();
        // one, open, selected, strict, two
        assert_eq!(found, [Some(1), None, Some(2), Some(0), Some(2)]);
        assert!(wrong(&all).is_empty());
    }

    #[test]
    fn what_is_not_clear_is_strict_and_named() {
        let all = cluster(
            &[
                ("nobody's", &[(ISOLATION, "tenant")]),
                ("word", &[(ISOLATION, "Strict")]),
                ("both", &[(ISOLATION, "tenant"), (TENANT, "one"), ("team", "two")]),
            ],
            &[("two", ("team", "two"))],
        );
        assert!(all.namespaces.keys().all(|name| peers(&all, name) == Some(0)));
        let told = wrong(&all);
        assert!(told[0].starts_with("both is of the tenants one and two;"), "{told:?}");
        assert!(told[1].contains("no Tenant names whose"), "{told:?}");
        assert!(told[2].contains("neither strict nor tenant, but Strict"), "{told:?}");
    }

    #[test]
    fn changes_come_to_the_same_as_the_whole() {
        let states = [
            cluster(&[("a", &[]), ("b", &[("team", "two")])], &[]),
            cluster(&[("a", &[(ISOLATION, "strict")]), ("b", &[("team", "two")])], &[]),
            cluster(
                &[("a", &[(ISOLATION, "strict")]), ("b", &[("team", "two")])],
                &[("two", ("team", "two"))],
            ),
            cluster(&[("b", &[("team", "two")])], &[("two", ("team", "two"))]),
            cluster(&[("b", &[("team", "two")])], &[]),
        ];
        let mut isolations = Isolations::default();
        for (index, state) in states.iter().enumerate() {
            let mut state = state.clone();
            let key = ObjectKey::new("b", "own");
            let own = policy(key.clone(), &Posture::Strict, &Servers::default());
            if index != 2 {
                state.policies.insert(key, Arc::new(own));
            }
            assert_eq!(isolations.follow(&state), with_isolation(&state), "{index}");
        }
    }
}
