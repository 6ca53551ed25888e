//! Policy sets: the rules that pods with equal policies share, spelled out for each class.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sheetbend_model::plan::{Class, Origin, PolicySet, RuleKey, Ruling};
use sheetbend_model::state::{Action, Pod, Tier};
use sheetbend_model::types::{Direction, Port, PortPrefix, Protocol};

use super::document::{Document, DocumentPort, DocumentRule};
use super::flat::{Decided, Flat, Painting, exactly};
use super::terms::TermId;
use super::tier::TierDocument;

const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A set in use, with its rules in the order of evaluation: the tiers before NetworkPolicies, NetworkPolicies in (policy,
/// direction, index) order, the tiers after them.
///
/// A direction without tiers only ever allows: its rows are the rules as they are, those for every peer written once,
/// and what has no row is denied. A direction with tiers is flattened: a class that some rule names has rows for
/// everything, and all others share the rows for every peer, which cover everything too.
#[derive(Debug)]
pub(crate) struct SetNode {
    pub(crate) symbol: PolicySet,
    rules: Vec<SetRule>,
    /// Peer term → indices in `rules` that name it.
    by_peer: HashMap<u32, Vec<u32>>,
    /// Indices of rules for every peer that need the peer's own port numbers.
    any_peer_named: Vec<u32>,
    /// What holds for every peer, of the directions with tiers: ingress, egress.
    flats: [Option<Flat>; 2],
}

#[derive(Debug)]
struct SetRule {
    stage: Stage,
    origin: Origin,
    every_peer: bool,
    ports: Vec<(Option<Protocol>, PortPrefix)>,
    /// Named ports of the peer.
    named: Vec<(Protocol, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Tier(Tier, Action),
    NetworkPolicy,
}

impl Stage {
    /// `None` = NetworkPolicies.
    fn tier(&self) -> Option<&Tier> {
        match self {
            Stage::Tier(tier, _) => Some(tier),
            Stage::NetworkPolicy => None,
        }
    }

    fn is_after_network_policies(&self) -> bool {
        self.tier().is_some_and(|tier| !tier.is_before_network_policies())
    }
}

/// The set that `pod` has when `documents`, sorted by policy, and `tiers`, sorted by reference, select it.
pub(crate) fn symbol<'a>(
    documents: impl Iterator<Item = &'a Document>,
    tiers: &[&TierDocument],
    pod: &Pod,
) -> PolicySet {
    let (mut policies, mut named_ports) = (Vec::new(), Vec::new());
    let mut names = Vec::new();
    for document in documents {
        policies.push(document.reference.clone());
        names.extend(&document.uses.ingress_names);
    }
    names.extend(tiers.iter().flat_map(|document| &document.uses.ingress_names));
    for (name, protocol) in names {
        for number in pod.named_ports(name, *protocol) {
            named_ports.push((name.clone(), *protocol, number));
        }
    }
    named_ports.sort_unstable();
    named_ports.dedup();
    let tiers = tiers.iter().map(|document| document.reference.clone()).collect();
    PolicySet { policies: policies.into(), tiers, named_ports: named_ports.into() }
}

impl SetNode {
    pub(crate) fn new<'a>(
        symbol: PolicySet,
        documents: impl Iterator<Item = &'a Document>,
        tiers: &[&TierDocument],
    ) -> Self {
        let mut node = Self {
            symbol,
            rules: Vec::new(),
            by_peer: HashMap::new(),
            any_peer_named: Vec::new(),
            flats: [None, None],
        };
        let before = tiers.partition_point(|document| document.reference.tier.is_before_network_policies());
        let (before, after) = tiers.split_at(before);
        node.tier_rules(before);
        for rule in documents.flat_map(|document| &document.rules) {
            node.rule(Stage::NetworkPolicy, rule);
        }
        node.tier_rules(after);
        for direction in DIRECTIONS {
            if node.symbol.has_tiers(direction) {
                let every_peer = node.indices(|rule| rule.every_peer && rule.origin.direction == direction);
                node.flats[direction as usize] = Some(node.flatten(direction, &every_peer, &[]));
            }
        }
        node
    }

    fn tier_rules(&mut self, tiers: &[&TierDocument]) {
        for document in tiers {
            for (action, rule) in &document.rules {
                self.rule(Stage::Tier(document.reference.tier.clone(), *action), rule);
            }
        }
    }

    fn rule(&mut self, stage: Stage, rule: &DocumentRule) {
        let (mut ports, mut named) = (Vec::new(), Vec::new());
        for port in &rule.ports {
            match port {
                DocumentPort::Prefix(protocol, prefix) => ports.push((*protocol, *prefix)),
                DocumentPort::OnPod(name, protocol) => {
                    let numbers = self.symbol.named_ports.iter().filter(|own| own.0 == *name);
                    ports.extend(
                        numbers.filter(|own| own.1 == *protocol).map(|own| (Some(*protocol), exactly(own.2))),
                    );
                }
                DocumentPort::OnPeer(protocol, term) => named.push((*protocol, *term)),
            }
        }
        let index = self.rules.len() as u32;
        for peer in rule.peers.iter().flatten() {
            self.by_peer.entry(*peer).or_default().push(index);
        }
        if rule.peers.is_none() && !named.is_empty() {
            self.any_peer_named.push(index);
        }
        let every_peer = rule.peers.is_none();
        self.rules.push(SetRule { stage, origin: rule.origin.clone(), every_peer, ports, named });
    }

    fn indices(&self, keep: impl Fn(&SetRule) -> bool) -> Vec<u32> {
        (0u32..).zip(&self.rules).filter(|(_, rule)| keep(rule)).map(|(index, _)| index).collect()
    }

    fn is_flat(&self, direction: Direction) -> bool {
        self.flats[direction as usize].is_some()
    }

    /// The rows for every peer.
    pub(crate) fn every_peer_rows(&self, set: &PolicySet, rows: &mut Vec<(RuleKey, Ruling)>) {
        let mut found: Found<'_> = BTreeMap::new();
        for rule in self.rules.iter().filter(|rule| rule.every_peer && !self.is_flat(rule.origin.direction)) {
            for (protocol, prefix) in &rule.ports {
                found.entry((rule.origin.direction, *protocol, *prefix)).or_insert(&rule.origin);
            }
        }
        push(found, set, None, rows);
        for direction in DIRECTIONS {
            if let Some(flat) = &self.flats[direction as usize] {
                self.push_flat(direction, flat, set, None, rows);
            }
        }
    }

    /// The rows of `set` for peers of the class called `class`, which match `terms`.
    pub(crate) fn class_rows(
        &self,
        set: &PolicySet,
        class: &Class,
        terms: &[TermId],
        rows: &mut Vec<(RuleKey, Ruling)>,
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
        let direction_of = |index: &u32| self.rules.get(*index as usize).map(|rule| rule.origin.direction);
        let plain = indices.iter().filter(|index| direction_of(index).is_some_and(|of| !self.is_flat(of)));
        for rule in plain.filter_map(|index| self.rules.get(*index as usize)) {
            if !rule.every_peer {
                for (protocol, prefix) in &rule.ports {
                    found.entry((rule.origin.direction, *protocol, *prefix)).or_insert(&rule.origin);
                }
            }
            for (protocol, port) in rule.named_numbers(terms) {
                let key = (rule.origin.direction, Some(protocol), exactly(port));
                found.entry(key).or_insert(&rule.origin);
            }
        }
        push(found, set, Some(class), rows);
        for direction in DIRECTIONS {
            let Some(shared) = &self.flats[direction as usize] else { continue };
            if !indices.iter().any(|index| direction_of(index) == Some(direction)) {
                continue;
            }
            let mut matching = self.indices(|rule| rule.every_peer && rule.origin.direction == direction);
            matching.extend(indices.iter().filter(|index| direction_of(index) == Some(direction)));
            matching.sort_unstable();
            matching.dedup();
            let flat = self.flatten(direction, &matching, terms);
            if flat != *shared {
                self.push_flat(direction, &flat, set, Some(class), rows);
            }
        }
    }

    /// What the rules `matching` a peer, in order, say of everything it may send; the peer has `terms`.
    fn flatten(&self, direction: Direction, matching: &[u32], terms: &[TermId]) -> Flat {
        let mut painting = Painting::new();
        let is_isolated = self.symbol.isolates(direction);
        let mut tier = None;
        for index in matching {
            let Some(rule) = self.rules.get(*index as usize) else { continue };
            if is_isolated && rule.stage.is_after_network_policies() {
                break;
            }
            if tier != rule.stage.tier() {
                painting.end_tier();
                tier = rule.stage.tier();
            }
            rule.paint(*index, terms, &mut painting);
        }
        painting.end_tier();
        painting.finish(!is_isolated)
    }

    fn push_flat(
        &self,
        direction: Direction,
        flat: &Flat,
        set: &PolicySet,
        class: Option<&Class>,
        rows: &mut Vec<(RuleKey, Ruling)>,
    ) {
        for (protocol, ports, (allows, by)) in flat.rows() {
            let origin = by.and_then(|index| self.rules.get(index as usize)).map(|rule| rule.origin.clone());
            let key = RuleKey { set: set.clone(), direction, class: class.cloned(), protocol, ports };
            rows.push((key, Ruling { allows, origin }));
        }
    }
}

impl SetRule {
    /// The numbers of its named ports on a peer with `terms`.
    fn named_numbers(&self, terms: &[TermId]) -> impl Iterator<Item = (Protocol, Port)> {
        self.named.iter().flat_map(move |(protocol, name)| {
            let own = terms.iter().filter(move |term| term.index() == *name);
            own.filter_map(|term| term.port()).map(move |port| (*protocol, port))
        })
    }

    /// Decides what is open of what it matches; it is the rule number `index`.
    fn paint(&self, index: u32, terms: &[TermId], painting: &mut Painting) {
        let named = self.named_numbers(terms).map(|(protocol, port)| (Some(protocol), exactly(port)));
        for (protocol, ports) in self.ports.iter().copied().chain(named) {
            let decided: Decided = match &self.stage {
                Stage::Tier(_, Action::Pass) => {
                    painting.pass(protocol, ports);
                    continue;
                }
                Stage::Tier(_, Action::Deny) => (false, Some(index)),
                Stage::Tier(_, Action::Accept) | Stage::NetworkPolicy => (true, Some(index)),
            };
            painting.decide(protocol, ports, decided);
        }
    }
}

type Found<'a> = BTreeMap<(Direction, Option<Protocol>, PortPrefix), &'a Origin>;

fn push(found: Found<'_>, set: &PolicySet, class: Option<&Class>, rows: &mut Vec<(RuleKey, Ruling)>) {
    for ((direction, protocol, ports), origin) in found {
        let key = RuleKey { set: set.clone(), direction, class: class.cloned(), protocol, ports };
        rows.push((key, Ruling::allow(origin.clone())));
    }
}

/// A pod's name in a set that stands for `set` until the classes have settled.
pub(crate) fn provisional(set: &PolicySet) -> PolicySet {
    let mut named_ports = set.named_ports.to_vec();
    // No container port can be called so (RFC 6335 §5.1: letters, digits and hyphens).
    named_ports.extend(Port::new(1).ok().map(|port| (Arc::from("*provisional*"), Protocol::Tcp, port)));
    PolicySet { named_ports: named_ports.into(), ..set.clone() }
}
