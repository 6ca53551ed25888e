//! By what a rule fails to match, and how near it is.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::state::{
    ClusterPeer, IpBlock, LabelSelector, Node, Operator, Peer, PolicyPort, PortMatch, Requirement, Snapshot,
};
use sheetbend_model::types::{DomainPattern, Labels, ObjectKey, Port, PortRange, Protocol};

use super::walk::Asked;
use crate::policy::addresses::addresses_of_node;
use crate::policy::matcher::NamespaceLabels;

/// One thing that a rule asks for and a packet does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Miss {
    /// A label is absent or has another value.
    Label {
        /// Whose label.
        of: Whose,
        /// What the rule asks for, as `app=web`.
        wanted: Arc<str>,
        /// The label's key.
        key: Arc<str>,
        /// The value it has; `None` = no such label.
        found: Option<Arc<str>>,
    },
    /// The peer is a pod of another namespace than the policy's, and the rule is for the policy's own.
    OtherNamespace {
        /// The policy's.
        wanted: Arc<str>,
        /// The peer's.
        found: Arc<str>,
    },
    /// The rule is for pods, and the peer is none with an address of its own.
    NoPod,
    /// The rule is for nodes, and the peer is none.
    NoNode,
    /// The address lies outside the block.
    OutsideBlock {
        /// The block.
        block: IpNet,
        /// The address.
        addr: IpAddr,
    },
    /// The pod has another ServiceAccount.
    ServiceAccount {
        /// Those that the rule is for.
        wanted: Arc<str>,
        /// The pod's.
        found: Arc<str>,
    },
    /// The address lies in none of the blocks of a NetworkSet, or is no endpoint of a Service.
    OutsideSet {
        /// Which, as `NetworkSet partners`.
        of: Arc<str>,
        /// The address.
        addr: IpAddr,
    },
    /// No learnt domain name that the rule is for has the address.
    OtherName {
        /// The names that the rule is for.
        pattern: DomainPattern,
        /// The address.
        addr: IpAddr,
    },
    /// The address lies in an exception of the block.
    Except {
        /// The block.
        block: IpNet,
        /// The exception.
        except: IpNet,
        /// The address.
        addr: IpAddr,
    },
    /// The rule has no peer that anybody could match: it fails closed.
    NoPeers,
    /// The rule is for another protocol.
    Protocol {
        /// What the rule asks for.
        wanted: Protocol,
        /// What the packet has; `None` = ICMP.
        found: Option<Protocol>,
    },
    /// The rule is for other ports.
    Port {
        /// What the rule asks for.
        wanted: PortRange,
        /// What the packet has.
        found: u16,
    },
    /// The rule is for a named port that has another number on the receiving pod, or none.
    NamedPort {
        /// Its name.
        name: Arc<str>,
        /// Its protocol.
        protocol: Protocol,
        /// The receiving pod; `None` = the receiver is none, and has no names.
        pod: Option<ObjectKey>,
        /// The numbers it has there.
        numbers: Vec<Port>,
        /// What the packet has.
        found: u16,
    },
}

/// Whose label a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// The peer pod's.
    Pod,
    /// Those of the peer pod's namespace.
    Namespace,
    /// Those of the node that has the address.
    Node,
}

impl Miss {
    /// A stable word for scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Miss::Label { of: Whose::Pod, .. } => "pod_label",
            Miss::Label { of: Whose::Namespace, .. } => "namespace_label",
            Miss::Label { of: Whose::Node, .. } => "node_label",
            Miss::OtherNamespace { .. } => "namespace",
            Miss::NoPod => "no_pod",
            Miss::NoNode => "no_node",
            Miss::OutsideBlock { .. } => "block",
            Miss::ServiceAccount { .. } => "service_account",
            Miss::OutsideSet { .. } => "set",
            Miss::OtherName { .. } => "domain_name",
            Miss::Except { .. } => "except",
            Miss::NoPeers => "no_peers",
            Miss::Protocol { .. } => "protocol",
            Miss::Port { .. } => "port",
            Miss::NamedPort { .. } => "named_port",
        }
    }

    /// How far off it is: what one edit mends costs 1, what would be another kind of rule more.
    fn distance(&self) -> u32 {
        match self {
            Miss::Label { .. }
            | Miss::OtherNamespace { .. }
            | Miss::ServiceAccount { .. }
            | Miss::Except { .. }
            | Miss::Protocol { .. }
            | Miss::Port { .. }
            | Miss::NamedPort { .. } => 1,
            Miss::OutsideBlock { .. } | Miss::OutsideSet { .. } | Miss::OtherName { .. } => 2,
            Miss::NoPod | Miss::NoNode => 3,
            Miss::NoPeers => 8,
        }
    }
}

/// How far `misses` are from a match.
pub(super) fn distance(misses: &[Miss]) -> u32 {
    misses.iter().map(Miss::distance).sum()
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Label { of, wanted, key, found } => {
                let whose = match of {
                    Whose::Pod => "the peer",
                    Whose::Namespace => "its namespace",
                    Whose::Node => "the node",
                };
                match found {
                    Some(value) => write!(f, "label: {whose} has {key}={value}, the rule asks for {wanted}"),
                    None => write!(f, "label: {whose} has no label {key}, the rule asks for {wanted}"),
                }
            }
            Miss::OtherNamespace { wanted, found } => write!(
                f,
                "namespace: the peer is in {found}, and a podSelector alone looks only in the policy's own, {wanted}"
            ),
            Miss::NoPod => {
                f.write_str("peer: the rule is for pods by their labels, and the peer is no pod with an address of its own")
            }
            Miss::NoNode => f.write_str("peer: the rule is for nodes, and the peer is none"),
            Miss::ServiceAccount { wanted, found } => {
                write!(f, "service account: the peer has {found}, the rule asks for {wanted}")
            }
            Miss::OutsideSet { of, addr } => write!(f, "set: {addr} is none of the addresses of {of}"),
            Miss::OtherName { pattern, addr } => write!(
                f,
                "domainNames: {addr} is no address of {pattern} that a pod of this node has been told of and whose time is \
                 not over"
            ),
            Miss::OutsideBlock { block, addr } => write!(f, "block: {addr} is not in {block}"),
            Miss::Except { block, except, addr } => {
                write!(f, "except: {addr} is in {block}, but also in its exception {except}")
            }
            Miss::NoPeers => f.write_str("peer: the rule has no peer that anybody could match"),
            Miss::Protocol { wanted, found: Some(found) } => {
                write!(f, "protocol: the packet is {found}, the rule asks for {wanted}")
            }
            Miss::Protocol { found: None, .. } => f.write_str(
                "protocol: the packet is ICMP, which only a rule without ports allows; this one has some",
            ),
            Miss::Port { wanted, found } if wanted.first() == wanted.last() => {
                write!(f, "port: the packet is for {found}, the rule asks for {}", wanted.first())
            }
            Miss::Port { wanted, found } => {
                write!(
                    f,
                    "port: the packet is for {found}, the rule asks for {} to {}",
                    wanted.first(),
                    wanted.last()
                )
            }
            Miss::NamedPort { name, pod: None, .. } => {
                write!(f, "port: the rule asks for the port named {name}, and only pods have named ports")
            }
            Miss::NamedPort { name, protocol, pod: Some(pod), numbers, found } => {
                write!(
                    f,
                    "port: the packet is for {found}, the rule asks for the port named {name}, which {pod} "
                )?;
                match numbers.as_slice() {
                    [] => write!(f, "does not have for {protocol}"),
                    numbers => {
                        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                        write!(f, "has as {}", numbers.join(" and "))
                    }
                }
            }
        }
    }
}

/// The nearest of several ways to match, empty where one does.
fn nearest(ways: impl Iterator<Item = Vec<Miss>>) -> Option<Vec<Miss>> {
    // Of equal ones the first.
    ways.min_by_key(|misses| distance(misses))
}

/// By what `peer` of a NetworkPolicy of `namespace` is not the other end.
pub(super) fn of_peers(asked: &Asked<'_>, namespace: &Arc<str>, peers: &[Peer]) -> Vec<Miss> {
    let ways = peers.iter().map(|peer| match peer {
        Peer::Block(block) => of_block(block, asked.peer_addr),
        Peer::Pods { namespaces, pods } => {
            let Some(pod) = asked.peer else { return vec![Miss::NoPod] };
            let mut misses = match namespaces {
                Some(selector) => of_namespace(asked.snapshot, selector, &pod.key.namespace),
                None if pod.key.namespace == *namespace => Vec::new(),
                None => {
                    vec![Miss::OtherNamespace { wanted: namespace.clone(), found: pod.key.namespace.clone() }]
                }
            };
            if let Some(selector) = pods {
                of_labels(selector, &pod.labels, Whose::Pod, &mut misses);
            }
            misses
        }
    });
    // No peers are every peer.
    nearest(ways).unwrap_or_default()
}

/// The same of a ClusterNetworkPolicy, where `None` is every peer and an empty list nobody.
pub(super) fn of_cluster_peers(asked: &Asked<'_>, peers: Option<&[ClusterPeer]>) -> Vec<Miss> {
    let Some(peers) = peers else { return Vec::new() };
    let ways = peers.iter().map(|peer| match peer {
        ClusterPeer::Network(network) => {
            of_block(&IpBlock { cidr: *network, except: Vec::new() }, asked.peer_addr)
        }
        ClusterPeer::Nodes(selector) => {
            let has = |node: &&Arc<Node>| {
                addresses_of_node(node).any(|own| own.addr == asked.peer_addr.to_canonical())
            };
            let ways = asked.snapshot.nodes.values().filter(has).map(|node| {
                let mut misses = Vec::new();
                of_labels(selector, &node.labels, Whose::Node, &mut misses);
                misses
            });
            nearest(ways).unwrap_or_else(|| vec![Miss::NoNode])
        }
        ClusterPeer::Pods(by_labels) => {
            let Some(pod) = asked.peer else { return vec![Miss::NoPod] };
            let mut misses = of_namespace(asked.snapshot, &by_labels.namespaces, &pod.key.namespace);
            of_labels(&by_labels.pods, &pod.labels, Whose::Pod, &mut misses);
            if !by_labels.has_account(pod) {
                let (wanted, found) = (by_labels.accounts.join(" or ").into(), pod.service_account.clone());
                misses.push(Miss::ServiceAccount { wanted, found });
            }
            misses
        }
        ClusterPeer::Domain(pattern) => {
            let addr = asked.peer_addr.to_canonical();
            let has = names_of(asked.snapshot, addr).any(|name| pattern.matches(name));
            (!has).then(|| Miss::OtherName { pattern: pattern.clone(), addr }).into_iter().collect()
        }
        ClusterPeer::Block(block) => of_block(block, asked.peer_addr),
        ClusterPeer::Blocks(blocks) => {
            let addr = asked.peer_addr.to_canonical();
            let has = blocks.cidrs.iter().any(|cidr| cidr.contains(&addr));
            (!has).then(|| Miss::OutsideSet { of: blocks.of.clone(), addr }).into_iter().collect()
        }
    });
    nearest(ways).unwrap_or_else(|| vec![Miss::NoPeers])
}

/// By what the packet is not for one of `ports`; no ports are all of every protocol.
pub(super) fn of_ports(asked: &Asked<'_>, ports: &[PolicyPort]) -> Vec<Miss> {
    let ways = ports.iter().map(|port| {
        if asked.protocol != Some(port.protocol) {
            let mut misses = vec![Miss::Protocol { wanted: port.protocol, found: asked.protocol }];
            if asked.protocol.is_some() {
                misses.extend(of_number(asked, port));
            }
            return misses;
        }
        of_number(asked, port).into_iter().collect()
    });
    nearest(ways).unwrap_or_default()
}

fn of_number(asked: &Asked<'_>, port: &PolicyPort) -> Option<Miss> {
    let found = asked.port;
    match &port.port {
        PortMatch::All => None,
        PortMatch::Range(range) => {
            let inside = (range.first().get()..=range.last().get()).contains(&found);
            (!inside).then_some(Miss::Port { wanted: *range, found })
        }
        PortMatch::Named(name) => {
            let pod = asked.destination;
            let numbers = pod.map(|pod| pod.named_ports(name, port.protocol)).unwrap_or_default();
            let inside = numbers.iter().any(|number| number.get() == found);
            (!inside).then(|| Miss::NamedPort {
                name: name.clone(),
                protocol: port.protocol,
                pod: pod.map(|pod| pod.key.clone()),
                numbers,
                found,
            })
        }
    }
}

/// The learnt domain names that have `addr`.
fn names_of(snapshot: &Snapshot, addr: IpAddr) -> impl Iterator<Item = &str> {
    let names = snapshot.learnt_names.iter();
    names.filter(move |(_, addresses)| addresses.contains(&addr)).map(|(name, _)| &**name)
}

fn of_block(block: &IpBlock, addr: IpAddr) -> Vec<Miss> {
    let addr = addr.to_canonical();
    if !block.cidr.contains(&addr) {
        return vec![Miss::OutsideBlock { block: block.cidr, addr }];
    }
    let except = block.except.iter().find(|except| except.contains(&addr));
    except.map(|except| Miss::Except { block: block.cidr, except: *except, addr }).into_iter().collect()
}

fn of_namespace(snapshot: &Snapshot, selector: &LabelSelector, namespace: &Arc<str>) -> Vec<Miss> {
    let mut misses = Vec::new();
    of_labels(selector, NamespaceLabels::of(snapshot, namespace).get(), Whose::Namespace, &mut misses);
    misses
}

fn of_labels(selector: &LabelSelector, labels: &Labels, of: Whose, misses: &mut Vec<Miss>) {
    let equals = selector.match_labels.iter().map(|(key, value)| {
        let values = vec![value.clone()];
        (format!("{key}={value}"), Requirement { key: key.clone(), operator: Operator::In, values })
    });
    let expressions =
        selector.match_expressions.iter().map(|requirement| (requirement.to_string(), requirement.clone()));
    for (text, requirement) in equals.chain(expressions) {
        if !requirement.matches(labels) {
            let found = labels.get(&requirement.key).cloned();
            misses.push(Miss::Label { of, wanted: text.into(), key: requirement.key, found });
        }
    }
}
