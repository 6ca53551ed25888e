//! Policy sets: the rules that pods with equal policies share, spelled out for each class.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sheetbend_model::plan::{Class, Origin, PolicySet, RuleKey};
use sheetbend_model::state::Pod;
use sheetbend_model::types::{Direction, Port, PortPrefix, Protocol};

use super::document::{Document, DocumentPort};
use super::terms::TermId;

/// A set in use, with its rules in (policy, direction, index) order.
#[derive(Debug)]
pub(crate) struct SetNode {
    pub(crate) symbol: PolicySet,
    rules: Vec<SetRule>,
    /// Peer term → indices in `rules` that name it.
    by_peer: HashMap<u32, Vec<u32>>,
    /// Indices of rules for every peer that need the peer's own port numbers.
    any_peer_named: Vec<u32>,
}

#[derive(Debug)]
struct SetRule {
    origin: Origin,
    every_peer: bool,
    ports: Vec<(Option<Protocol>, PortPrefix)>,
    /// Named ports of the peer.
    named: Vec<(Protocol, u32)>,
}

/// The set that `pod` has when `documents`, sorted by policy, select it.
pub(crate) fn symbol<'a>(documents: impl Iterator<Item = &'a Document>, pod: &Pod) -> PolicySet {
    let (mut policies, mut named_ports) = (Vec::new(), Vec::new());
    for document in documents {
        policies.push(document.reference.clone());
        for (name, protocol) in &document.ingress_names {
            for number in pod.named_ports(name, *protocol) {
                named_ports.push((name.clone(), *protocol, number));
            }
        }
    }
    named_ports.sort_unstable();
    named_ports.dedup();
    PolicySet { policies: policies.into(), named_ports: named_ports.into() }
}

impl SetNode {
    pub(crate) fn new<'a>(symbol: PolicySet, documents: impl Iterator<Item = &'a Document>) -> Self {
        let mut node =
            Self { symbol, rules: Vec::new(), by_peer: HashMap::new(), any_peer_named: Vec::new() };
        for document in documents {
            for rule in &document.rules {
                let (mut ports, mut named) = (Vec::new(), Vec::new());
                for port in &rule.ports {
                    match port {
                        DocumentPort::Prefix(protocol, prefix) => ports.push((*protocol, *prefix)),
                        DocumentPort::OnPod(name, protocol) => {
                            let numbers = node.symbol.named_ports.iter().filter(|own| own.0 == *name);
                            ports.extend(
                                numbers
                                    .filter(|own| own.1 == *protocol)
                                    .map(|own| (Some(*protocol), exactly(own.2))),
                            );
                        }
                        DocumentPort::OnPeer(protocol, term) => named.push((*protocol, *term)),
                    }
                }
                let index = node.rules.len() as u32;
                for peer in rule.peers.iter().flatten() {
                    node.by_peer.entry(*peer).or_default().push(index);
                }
                if rule.peers.is_none() && !named.is_empty() {
                    node.any_peer_named.push(index);
                }
                let every_peer = rule.peers.is_none();
                node.rules.push(SetRule { origin: rule.origin.clone(), every_peer, ports, named });
            }
        }
        node
    }

    /// The rows for every peer.
    pub(crate) fn every_peer_rows(&self, set: &PolicySet, rows: &mut Vec<(RuleKey, Origin)>) {
        let mut found: Found<'_> = BTreeMap::new();
        for rule in self.rules.iter().filter(|rule| rule.every_peer) {
            for (protocol, prefix) in &rule.ports {
                found.entry((rule.origin.direction, *protocol, *prefix)).or_insert(&rule.origin);
            }
        }
        push(found, set, None, rows);
    }

    /// The rows of `set` for peers of the class called `class`, which match `terms`.
    pub(crate) fn class_rows(
        &self,
        set: &PolicySet,
        class: &Class,
        terms: &[TermId],
        rows: &mut Vec<(RuleKey, Origin)>,
    ) {
        let mut indices: Vec<u32> = if terms.iter().any(|term| term.port().is_some()) {
            self.any_peer_named.clone()
        } else {
            Vec::new()
        };
        for term in terms {
            if let Some(rules) = self.by_peer.get(&term.index()) {
                indices.extend_from_slice(rules);
            }
        }
        if indices.is_empty() {
            return;
        }
        indices.sort_unstable();
        indices.dedup();
        let mut found: Found<'_> = BTreeMap::new();
        for rule in indices.into_iter().filter_map(|index| self.rules.get(index as usize)) {
            if !rule.every_peer {
                for (protocol, prefix) in &rule.ports {
                    found.entry((rule.origin.direction, *protocol, *prefix)).or_insert(&rule.origin);
                }
            }
            for (protocol, name) in &rule.named {
                for port in terms.iter().filter(|term| term.index() == *name).filter_map(|term| term.port()) {
                    let key = (rule.origin.direction, Some(*protocol), exactly(port));
                    found.entry(key).or_insert(&rule.origin);
                }
            }
        }
        push(found, set, Some(class), rows);
    }
}

type Found<'a> = BTreeMap<(Direction, Option<Protocol>, PortPrefix), &'a Origin>;

fn push(found: Found<'_>, set: &PolicySet, class: Option<&Class>, rows: &mut Vec<(RuleKey, Origin)>) {
    for ((direction, protocol, ports), origin) in found {
        let key = RuleKey { set: set.clone(), direction, class: class.cloned(), protocol, ports };
        rows.push((key, origin.clone()));
    }
}

fn exactly(port: Port) -> PortPrefix {
    PortPrefix { value: port.get(), len: 16 }
}

/// A pod's name in a set that stands for `set` until the classes have settled.
pub(crate) fn provisional(set: &PolicySet) -> PolicySet {
    let mut named_ports = set.named_ports.to_vec();
    // No container port can be called so (RFC 6335 §5.1: letters, digits and hyphens).
    named_ports.extend(Port::new(1).ok().map(|port| (Arc::from("*provisional*"), Protocol::Tcp, port)));
    PolicySet { policies: set.policies.clone(), named_ports: named_ports.into() }
}
