//! One NetworkPolicy, ready to be used by the sets of the pods that it selects.

use std::fmt::Write;
use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::plan::{Condition, Origin, PolicyRef};
use sheetbend_model::state::{
    IpBlock, LabelSelector, NetworkPolicy, Peer, PolicyPort, PolicyRule, PortMatch, Requirement,
};
use sheetbend_model::types::{Direction, PortPrefix, Protocol};

use super::faults::unusable_blocks;
use super::terms::{NamespaceMatch, TermKey, TermTable, block_text};

/// A policy with its peers as terms.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) reference: PolicyRef,
    /// Rules of both directions, in (direction, index) order.
    pub(crate) rules: Vec<DocumentRule>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) source: Arc<NetworkPolicy>,
    pub(crate) uses: Uses,
}

/// What the rules of a policy use besides themselves.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// Named ports of ingress rules, sorted: they resolve on the selected pod.
    pub(crate) ingress_names: Vec<(Arc<str>, Protocol)>,
    /// Every use of a term, to be given back.
    terms: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct DocumentRule {
    pub(crate) origin: Origin,
    /// `None` = every peer.
    pub(crate) peers: Option<Vec<u32>>,
    pub(crate) ports: Vec<DocumentPort>,
}

#[derive(Clone, Debug)]
pub(crate) enum DocumentPort {
    /// A block of ports; `None` = every IP protocol.
    Prefix(Option<Protocol>, PortPrefix),
    /// Resolved on the selected pod.
    OnPod(Arc<str>, Protocol),
    /// A term of the peer.
    OnPeer(Protocol, u32),
}

impl Document {
    /// Takes `source`'s terms into force.
    pub(crate) fn new(source: &Arc<NetworkPolicy>, terms: &mut TermTable) -> Self {
        let mut document = Self {
            reference: PolicyRef {
                policy: source.key.clone(),
                digest: fnv(canonical(source).as_bytes()),
                ingress: source.ingress.is_some(),
                egress: source.egress.is_some(),
            },
            rules: Vec::new(),
            conditions: unusable_blocks(source),
            source: source.clone(),
            uses: Uses::default(),
        };
        for (direction, rules) in [(Direction::Ingress, &source.ingress), (Direction::Egress, &source.egress)]
        {
            for (index, rule) in (0u32..).zip(rules.iter().flatten()) {
                let compiled = document.rule(direction, index, rule, terms);
                document.rules.push(compiled);
            }
        }
        document.uses.settle();
        document
    }

    fn rule(
        &mut self,
        direction: Direction,
        index: u32,
        rule: &PolicyRule,
        terms: &mut TermTable,
    ) -> DocumentRule {
        let peers = (!rule.peers.is_empty()).then(|| {
            let mut peers = Vec::new();
            for peer in &rule.peers {
                peers.push(self.uses.term(peer_term(&self.source, peer), terms));
            }
            peers.sort_unstable();
            peers.dedup();
            peers
        });
        let ports = self.uses.ports(direction, &rule.ports, terms);
        let origin = Origin { policy: self.source.key.clone(), direction, rule: index };
        DocumentRule { origin, peers, ports }
    }
}

impl Uses {
    /// Takes a term into force.
    pub(crate) fn term(&mut self, key: TermKey, terms: &mut TermTable) -> u32 {
        let term = terms.acquire(key);
        self.terms.push(term);
        term
    }

    /// Gives all terms back.
    pub(crate) fn release(&self, terms: &mut TermTable) {
        for term in &self.terms {
            terms.release(*term);
        }
    }

    /// All rules are read.
    pub(crate) fn settle(&mut self) {
        self.ingress_names.sort_unstable();
        self.ingress_names.dedup();
    }

    /// A rule's ports; no ports are every IP protocol.
    pub(crate) fn ports(
        &mut self,
        direction: Direction,
        ports: &[PolicyPort],
        terms: &mut TermTable,
    ) -> Vec<DocumentPort> {
        let mut found = Vec::new();
        for port in ports {
            self.port(direction, port, terms, &mut found);
        }
        if ports.is_empty() {
            found.push(DocumentPort::Prefix(None, PortPrefix::ALL));
        }
        found
    }

    fn port(
        &mut self,
        direction: Direction,
        port: &PolicyPort,
        terms: &mut TermTable,
        ports: &mut Vec<DocumentPort>,
    ) {
        let protocol = port.protocol;
        match (&port.port, direction) {
            (PortMatch::All, _) => ports.push(DocumentPort::Prefix(Some(protocol), PortPrefix::ALL)),
            (PortMatch::Range(range), _) => ports.extend(
                range.prefixes().into_iter().map(|prefix| DocumentPort::Prefix(Some(protocol), prefix)),
            ),
            (PortMatch::Named(name), Direction::Ingress) => {
                self.ingress_names.push((name.clone(), protocol));
                ports.push(DocumentPort::OnPod(name.clone(), protocol));
            }
            (PortMatch::Named(name), Direction::Egress) => {
                let term = self.term(TermKey::Named(name.clone(), protocol), terms);
                ports.push(DocumentPort::OnPeer(protocol, term));
            }
        }
    }
}

fn peer_term(policy: &NetworkPolicy, peer: &Peer) -> TermKey {
    match peer {
        Peer::Block(block) => TermKey::Block(canonical_block(block)),
        Peer::Pods { namespaces, pods } => {
            let namespace = match namespaces {
                None => NamespaceMatch::Own(policy.key.namespace.clone()),
                Some(selector) => NamespaceMatch::Labels(canonical_selector(selector)),
            };
            TermKey::Selector(
                namespace,
                pods.as_ref().map(canonical_selector).unwrap_or_default(),
                Vec::new(),
            )
        }
    }
}

pub(crate) fn canonical_block(block: &IpBlock) -> IpBlock {
    let mut except: Vec<IpNet> = block.except.iter().map(IpNet::trunc).collect();
    except.sort_unstable();
    except.dedup();
    IpBlock { cidr: block.cidr.trunc(), except }
}

pub(crate) fn canonical_selector(selector: &LabelSelector) -> LabelSelector {
    let mut match_expressions: Vec<Requirement> = selector
        .match_expressions
        .iter()
        .map(|requirement| {
            let mut requirement = requirement.clone();
            requirement.values.sort_unstable();
            requirement.values.dedup();
            requirement
        })
        .collect();
    match_expressions.sort_unstable();
    match_expressions.dedup();
    LabelSelector { match_labels: selector.match_labels.clone(), match_expressions }
}

/// The rules as text. Two policies with equal text have equal rules.
fn canonical(policy: &NetworkPolicy) -> String {
    let mut text = String::new();
    for (direction, rules) in [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)] {
        let Some(rules) = rules else { continue };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{direction}");
        for rule in rules {
            text.push('-');
            for peer in &rule.peers {
                let _ = match peer {
                    Peer::Block(block) => write!(text, " block {};", block_text(&canonical_block(block))),
                    Peer::Pods { namespaces, pods } => write!(
                        text,
                        " pods {} in {};",
                        pods.as_ref().map(canonical_selector).unwrap_or_default(),
                        namespaces.as_ref().map_or("own".to_owned(), |labels| format!(
                            "labels {}",
                            canonical_selector(labels)
                        )),
                    ),
                };
            }
            for port in &rule.ports {
                port_text(&mut text, port);
            }
            text.push('\n');
        }
    }
    text
}

/// Adds a port's canonical text.
pub(crate) fn port_text(text: &mut String, port: &PolicyPort) {
    // Writing to a String does not fail.
    let _ = match &port.port {
        PortMatch::All => write!(text, " port all/{};", port.protocol),
        PortMatch::Range(range) => {
            write!(text, " port {}-{}/{};", range.first(), range.last(), port.protocol)
        }
        PortMatch::Named(name) => write!(text, " port name {name}/{};", port.protocol),
    };
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
