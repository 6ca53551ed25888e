//! What a change of policies opens and closes: every pair of pods, nodes and the world, every protocol and port.
//!
//! Nothing is tried packet by packet. Pods, nodes and addresses that the policies before and after treat alike are one
//! party, and the rows that the kernel is given are compared as steps over all ports. So the answer is whole, and costs
//! what there are different treatments, not what there are pods.

mod index;
mod party;
mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::{Direction, Family, NetworkId, NodeName, ObjectKey, Protocol};

use super::classes::ClassNode;
use super::resolved;
use super::set::SetNode;
use super::why::Explainer;
pub use index::Index;
pub use party::Party;
use party::{Seen, parties, rows};
use verdict::Known;
pub use verdict::Verdict;

/// What differs between two clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// Pods, nodes and the world that both clusters have: pods first, the world last.
    pub parties: Vec<Party>,
    /// Pairs whose verdict changes, by source and destination.
    pub changes: Vec<Change>,
}

/// What changes between two parties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who sends: an index in [`Diff::parties`].
    pub source: usize,
    /// Who receives; may be the same party, whose pods then reach one another.
    pub destination: usize,
    /// The families in which it is so.
    pub families: Vec<Family>,
    /// Pairs of a sender and a receiver.
    pub pairs: u64,
    /// What changes, by protocol (ICMP last) and port.
    pub spans: Arc<[Span]>,
}

/// Ports on which a verdict changes in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// `None` = ICMP echo, and each other IP protocol.
    pub protocol: Option<Protocol>,
    /// The first port; 0 for ICMP.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// Whether packets pass that did not; else packets that passed do not.
    pub opens: bool,
    /// Whose policies make the difference: egress of the sender, or ingress of the receiver.
    pub direction: Direction,
    /// What that end said.
    pub before: Arc<Verdict>,
    /// What it says.
    pub after: Arc<Verdict>,
}

impl Span {
    /// Whether they differ in ports only.
    fn is_like(&self, other: &Self) -> bool {
        Self { first: 0, last: 0, ..self.clone() } == Self { first: 0, last: 0, ..other.clone() }
    }
}

/// What `after` opens and closes against `before`, of what both have. `progress` is told (pairs of parties compared, of
/// how many).
pub fn diff(before: &Snapshot, after: &Snapshot, progress: &mut dyn FnMut(u64, u64)) -> Diff {
    let mut sides = [before, after].map(|cluster| Side::new(&resolved(cluster)));
    let seen = parties(&mut sides);
    let mut comparison = Comparison { sides, known: Known::default(), steps: HashMap::new(), seen };
    let changes = comparison.changes(progress);
    let nodes = NodesOfPods::new(after);
    let parties: Vec<Party> = comparison.seen.into_iter().map(|seen| seen.party).collect();
    let counted = changes.into_iter().filter_map(|mut change| {
        let (source, destination) = (parties.get(change.source)?, parties.get(change.destination)?);
        change.pairs = nodes.pairs(source, destination, change.source == change.destination);
        (change.pairs > 0).then_some(change)
    });
    let changes = counted.collect();
    Diff { parties, changes }
}

/// A cluster and its tables, those of every pod.
struct Side {
    explainer: Explainer,
    /// With whether their pods are in audit.
    sets: Vec<(Arc<SetNode>, bool)>,
    classes: Vec<Option<Arc<ClassNode>>>,
    of_set: HashMap<(*const SetNode, bool), usize>,
    of_class: HashMap<Option<u64>, usize>,
}

impl Side {
    fn new(cluster: &Snapshot) -> Self {
        Self {
            explainer: Explainer::new(cluster, cluster.pods.keys()),
            sets: Vec::new(),
            classes: Vec::new(),
            of_set: HashMap::new(),
            of_class: HashMap::new(),
        }
    }

    fn snapshot(&self) -> &Snapshot {
        &self.explainer.snapshot
    }

    /// The number of a pod's set, which is another in audit; `None` while the pod is closed.
    fn set(&mut self, pod: &ObjectKey) -> Option<usize> {
        let tables = &self.explainer.tables;
        let set = tables.locals.of_pod(pod).iter().find_map(|id| tables.set_of(id))?;
        let in_audit = self.snapshot().audits(&pod.namespace);
        let key = (Arc::as_ptr(set), in_audit);
        let set = Arc::clone(set);
        let number = *self.of_set.entry(key).or_insert(self.sets.len());
        if number == self.sets.len() {
            self.sets.push((set, in_audit));
        }
        Some(number)
    }

    /// The number of the class of an address that somebody of the cluster has.
    fn class(&mut self, addr: IpAddr) -> Option<usize> {
        let class = self.explainer.tables.class_of(addr).cloned();
        Some(self.number(class))
    }

    /// The number of the class of an address outside.
    fn block_class(&mut self, addr: IpAddr) -> Option<usize> {
        let class = self.explainer.tables.blocks.lookup(addr).cloned();
        Some(self.number(class))
    }

    fn number(&mut self, class: Option<Arc<ClassNode>>) -> usize {
        let id = class.as_ref().map(|class| class.id);
        let number = *self.of_class.entry(id).or_insert(self.classes.len());
        if number == self.classes.len() {
            self.classes.push(class);
        }
        number
    }

    /// The blocks that policies name.
    fn blocks(&self) -> impl Iterator<Item = IpNet> {
        let blocks = self.explainer.tables.blocks.iter();
        blocks.filter(|(key, _)| key.network == NetworkId::default()).map(|(key, _)| key.block)
    }
}

/// All pairs of parties, compared.
struct Comparison {
    sides: [Side; 2],
    known: Known,
    /// (side, set, class, direction) → steps.
    steps: HashMap<(usize, usize, usize, Direction), usize>,
    seen: Vec<Seen>,
}

impl Comparison {
    fn changes(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Vec<Change> {
        let marks: Vec<_> = self.seen.iter().map(|seen| (seen.sets, seen.classes)).collect();
        let total = (marks.len() as u64).pow(2);
        let mut changes = Vec::new();
        for (source, from) in marks.iter().enumerate() {
            progress((source * marks.len()) as u64, total);
            for (destination, to) in marks.iter().enumerate() {
                if from.0.is_none() && to.0.is_none() {
                    continue;
                }
                let mut found: Vec<(Arc<[Span]>, Vec<Family>)> = Vec::new();
                for (index, family) in Family::ALL.into_iter().enumerate() {
                    let (Some(own), Some(peer)) = (from.1[index], to.1[index]) else { continue };
                    let egress = self.end(from.0, peer, Direction::Egress);
                    let ingress = self.end(to.0, own, Direction::Ingress);
                    let spans = self.known.compare(egress, ingress);
                    if spans.is_empty() {
                        continue;
                    }
                    match found.iter_mut().find(|(known, _)| *known == spans) {
                        Some((_, families)) => families.push(family),
                        None => found.push((spans, vec![family])),
                    }
                }
                let of = |(spans, families)| Change { source, destination, families, pairs: 0, spans };
                changes.extend(found.into_iter().map(of));
            }
        }
        progress(total, total);
        changes
    }

    /// The steps of one end, before and after.
    fn end(&mut self, sets: Option<[usize; 2]>, classes: [usize; 2], direction: Direction) -> [usize; 2] {
        let Some(sets) = sets else {
            let none = self.known.not_judged();
            return [none, none];
        };
        [0, 1].map(|side| {
            let key = (side, sets[side], classes[side], direction);
            if let Some(known) = self.steps.get(&key) {
                return *known;
            }
            let of = &self.sides[side];
            let in_audit = of.sets.get(sets[side]).is_some_and(|(_, in_audit)| *in_audit);
            let symbol = of.sets.get(sets[side]).map(|(set, _)| &set.symbol);
            let isolated_by =
                symbol.into_iter().flat_map(|set| set.isolated_by(direction)).cloned().collect();
            let number = match rows(of, sets[side], classes[side]) {
                Some(rows) => self.known.steps(&rows, direction, &isolated_by, in_audit),
                None => self.known.not_judged(),
            };
            self.steps.insert(key, number);
            number
        })
    }
}

/// Where pods are: a node always reaches its own.
struct NodesOfPods(BTreeMap<ObjectKey, NodeName>);

impl NodesOfPods {
    fn new(cluster: &Snapshot) -> Self {
        let pods = cluster.pods.iter();
        Self(pods.filter_map(|(key, pod)| Some((key.clone(), pod.node.clone()?))).collect())
    }

    /// How many senders and receivers there are together.
    fn pairs(&self, source: &Party, destination: &Party, is_same: bool) -> u64 {
        match (source, destination) {
            (Party::Pods(pods), _) if is_same => (pods.len() * pods.len().saturating_sub(1)) as u64,
            (Party::Nodes(nodes), Party::Pods(pods)) => {
                let nodes: BTreeSet<&NodeName> = nodes.iter().collect();
                let own = pods.iter().filter_map(|pod| self.0.get(pod)).filter(|node| nodes.contains(node));
                (nodes.len() * pods.len() - own.count()) as u64
            }
            _ => (source.len() * destination.len()) as u64,
        }
    }
}

impl Party {
    /// How many pods, nodes, or blocks of the world it has.
    #[allow(clippy::len_without_is_empty, reason = "a party is never empty")]
    pub fn len(&self) -> usize {
        match self {
            Party::Pods(pods) => pods.len(),
            Party::Nodes(nodes) => nodes.len(),
            Party::World(blocks) => blocks.len(),
        }
    }
}
