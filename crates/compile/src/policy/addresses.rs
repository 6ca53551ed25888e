//! Which pod has which address, and the class of every address that has one of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::state::{AttachmentId, Node, Pod, Snapshot};
use sheetbend_model::types::{AddrKey, NetworkId, NodeName, ObjectKey};

use super::Change;
use super::blocks::BlockTable;
use super::claims::Claims;
use super::classes::{ClassNode, ClassTable};
use super::locals::{Locals, known_pod};
use super::matcher::Matcher;
use super::terms::{TermId, TermTable};

#[derive(Debug)]
struct Entry {
    /// What the address matches besides blocks; never empty.
    own: Arc<ClassNode>,
    class: Arc<ClassNode>,
}

/// Claims and classes of addresses.
#[derive(Debug, Default)]
pub(crate) struct AddressTable {
    claims: Claims,
    entries: BTreeMap<AddrKey, Entry>,
    /// Whose address it is, of the nodes: nearly always one.
    nodes: BTreeMap<AddrKey, BTreeSet<NodeName>>,
    /// The learnt domain names that have it: nearly always one.
    names: BTreeMap<AddrKey, BTreeSet<Arc<str>>>,
}

impl AddressTable {
    /// The rows of `Dataplane::classes`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&AddrKey, &Arc<ClassNode>)> {
        self.from(Bound::Unbounded)
    }

    /// Those from `from` on.
    pub(crate) fn from(&self, from: Bound<AddrKey>) -> impl Iterator<Item = (&AddrKey, &Arc<ClassNode>)> {
        self.entries.range((from, Bound::Unbounded)).map(|(key, entry)| (key, &entry.class))
    }

    pub(crate) fn has(&self, addr: &AddrKey) -> bool {
        self.entries.contains_key(addr)
    }

    /// The class of an address that has one of its own.
    pub(crate) fn class(&self, addr: &AddrKey) -> Option<&Arc<ClassNode>> {
        self.entries.get(addr).map(|entry| &entry.class)
    }

    /// Follows the nodes.
    pub(crate) fn update_nodes(&mut self, changes: &[crate::changes::Change<'_, NodeName, Node>]) {
        for change in changes {
            for addr in change.old.into_iter().flat_map(|node| addresses_of_node(node)) {
                if let Some(names) = self.nodes.get_mut(&addr) {
                    names.remove(change.key);
                    if names.is_empty() {
                        self.nodes.remove(&addr);
                    }
                }
            }
            for addr in change.new.into_iter().flat_map(|node| addresses_of_node(node)) {
                self.nodes.entry(addr).or_default().insert(change.key.clone());
            }
        }
    }

    /// The terms that `addr` matches as a node's.
    fn node_terms(&self, view: &View<'_>, addr: AddrKey) -> Vec<TermId> {
        if !view.matcher.has_nodes() {
            return Vec::new();
        }
        let names = self.nodes.get(&addr).into_iter().flatten();
        let nodes = names.filter_map(|name| view.snapshot.nodes.get(name));
        nodes.flat_map(|node| view.matcher.terms_of_node(node)).collect()
    }

    /// Follows the learnt domain names.
    pub(crate) fn update_names(
        &mut self,
        changes: &[crate::changes::Change<'_, Arc<str>, BTreeSet<IpAddr>>],
    ) {
        for change in changes {
            for addr in change.old.into_iter().flat_map(|addresses| addresses_of_name(addresses)) {
                if let Some(names) = self.names.get_mut(&addr) {
                    names.remove(change.key);
                    if names.is_empty() {
                        self.names.remove(&addr);
                    }
                }
            }
            for addr in change.new.into_iter().flat_map(|addresses| addresses_of_name(addresses)) {
                self.names.entry(addr).or_default().insert(change.key.clone());
            }
        }
    }

    /// The terms that `addr` matches as that of domain names.
    fn name_terms(&self, view: &View<'_>, addr: AddrKey) -> Vec<TermId> {
        if !view.matcher.has_domains() {
            return Vec::new();
        }
        let names = self.names.get(&addr).into_iter().flatten();
        names.flat_map(|name| view.matcher.terms_of_name(name)).collect()
    }

    /// `pod`, which claims nothing, claims `addresses`.
    pub(crate) fn claim(&mut self, pod: &ObjectKey, addresses: &[AddrKey]) {
        self.claims.insert(pod, addresses);
    }

    /// `pod`, which claims `addresses`, claims nothing.
    pub(crate) fn disclaim(&mut self, pod: &ObjectKey, addresses: &[AddrKey]) {
        self.claims.remove(pod, addresses);
    }

    /// The pod that counts as having `addr`: one attached here with it, then one that is not terminating, then the least
    /// key.
    pub(crate) fn owner<'a>(
        &self,
        snapshot: &'a Snapshot,
        locals: &Locals,
        addr: AddrKey,
    ) -> Option<&'a Arc<Pod>> {
        let pods = self.claims.of(&addr).filter_map(|key| snapshot.pods.get(key));
        let has_here =
            |pod: &Pod| attached_addresses(snapshot, locals.of_pod(&pod.key), pod).any(|own| own == addr);
        let claiming = pods
            .filter(|pod| pod.is_peer() && (status_addresses(pod).any(|own| own == addr) || has_here(pod)));
        claiming.min_by(|a, b| {
            let rank = |pod: &Pod| (!has_here(pod), pod.terminating);
            rank(a).cmp(&rank(b)).then_with(|| a.key.cmp(&b.key))
        })
    }

    /// Addresses whose own terms hold one of `removed`.
    pub(crate) fn holding(&self, removed: &BTreeSet<u32>, dirty: &mut BTreeSet<AddrKey>) {
        let mut known: HashMap<u64, bool> = HashMap::new();
        for (addr, entry) in &self.entries {
            let holds = *known
                .entry(entry.own.id)
                .or_insert_with(|| entry.own.terms.iter().any(|term| removed.contains(&term.index())));
            if holds {
                dirty.insert(*addr);
            }
        }
    }

    /// Addresses of `ranges` that have an entry.
    pub(crate) fn inside(&self, ranges: &[IpNet], dirty: &mut BTreeSet<AddrKey>) {
        for range in ranges {
            let network = NetworkId::default();
            let first = AddrKey { network, addr: range.network() };
            let last = AddrKey { network, addr: range.broadcast() };
            dirty.extend(self.entries.range(first..=last).map(|(addr, _)| *addr));
        }
    }

    /// The classes that hold before the blocks change, for [`AddressTable::reclass`].
    pub(crate) fn before(
        &self,
        dirty: &BTreeSet<AddrKey>,
        blocks: &BlockTable,
        empty: &Arc<ClassNode>,
        before: &mut HashMap<AddrKey, Arc<ClassNode>>,
    ) {
        for addr in dirty {
            if !self.entries.contains_key(addr) && !before.contains_key(addr) {
                before.insert(*addr, region(blocks, *addr).unwrap_or(empty).clone());
            }
        }
    }

    /// Computes the class of each dirty address anew.
    pub(crate) fn reclass(&mut self, view: &mut View<'_>, dirty: &BTreeSet<AddrKey>) -> Vec<Change<AddrKey>> {
        let mut changes = Vec::new();
        let mut last: Option<(ObjectKey, Arc<ClassNode>)> = None;
        for addr in dirty {
            let own = self.owner(view.snapshot, view.locals, *addr).map(|pod| match &last {
                Some((key, own)) if *key == pod.key => own.clone(),
                _ => {
                    let terms = view.matcher.terms_of(view.snapshot, pod);
                    let own = view.classes.intern(terms, view.terms);
                    last = Some((pod.key.clone(), own.clone()));
                    own
                }
            });
            let mut terms = self.node_terms(view, *addr);
            terms.extend(self.name_terms(view, *addr));
            let own = if terms.is_empty() {
                own
            } else {
                terms.extend(own.iter().flat_map(|own| own.terms.iter().copied()));
                terms.sort_unstable();
                terms.dedup();
                Some(view.classes.intern(terms, view.terms))
            };
            let own = own.filter(|own| !own.terms.is_empty());
            let region = region(view.blocks, *addr).unwrap_or(view.empty).clone();
            let old = self.entries.get(addr).map(|entry| entry.class.clone());
            let new = own.as_ref().map(|own| view.classes.union(own, &region, view.terms));
            match (own, &new) {
                (Some(own), Some(class)) => {
                    self.entries.insert(*addr, Entry { own, class: class.clone() });
                }
                _ => drop(self.entries.remove(addr)),
            }
            if old.as_ref().map(|node| node.id) == new.as_ref().map(|node| node.id) {
                continue;
            }
            view.classes.row(old.as_ref(), new.as_ref());
            let before = old.as_ref().or_else(|| view.before.get(addr)).unwrap_or(view.empty).clone();
            let after = new.as_ref().unwrap_or(&region).clone();
            changes.push(Change { key: *addr, old, new, before, after });
        }
        changes
    }
}

/// What [`AddressTable::reclass`] looks at.
pub(crate) struct View<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) locals: &'a Locals,
    pub(crate) matcher: &'a Matcher,
    pub(crate) terms: &'a TermTable,
    pub(crate) blocks: &'a BlockTable,
    pub(crate) classes: &'a mut ClassTable,
    pub(crate) before: &'a HashMap<AddrKey, Arc<ClassNode>>,
    pub(crate) empty: &'a Arc<ClassNode>,
}

/// Every address of a node.
pub(crate) fn addresses_of_node(node: &Node) -> impl Iterator<Item = AddrKey> {
    node.addresses.iter().chain(&node.other_addresses).map(|addr| AddrKey::new(addr.to_canonical()))
}

/// Every address of a learnt domain name.
pub(crate) fn addresses_of_name(addresses: &BTreeSet<IpAddr>) -> impl Iterator<Item = AddrKey> {
    addresses.iter().map(|addr| AddrKey::new(addr.to_canonical()))
}

/// What the blocks say of an address. Blocks are of the default network.
fn region(blocks: &BlockTable, addr: AddrKey) -> Option<&Arc<ClassNode>> {
    if addr.network == NetworkId::default() { blocks.lookup(addr.addr) } else { None }
}

/// The addresses a pod claims: those of its status and of its attachments here, which know them first.
pub(crate) fn claims_of(snapshot: &Snapshot, attachments: &[AttachmentId], pod: &Pod) -> Vec<AddrKey> {
    if !pod.is_peer() {
        return Vec::new();
    }
    let mut claims: Vec<AddrKey> =
        status_addresses(pod).chain(attached_addresses(snapshot, attachments, pod)).collect();
    claims.sort_unstable();
    claims.dedup();
    claims
}

fn status_addresses(pod: &Pod) -> impl Iterator<Item = AddrKey> {
    pod.addresses.iter().map(|addr| AddrKey { network: pod.network, addr: addr.to_canonical() })
}

fn attached_addresses(
    snapshot: &Snapshot,
    attachments: &[AttachmentId],
    pod: &Pod,
) -> impl Iterator<Item = AddrKey> {
    attachments
        .iter()
        .filter_map(|id| snapshot.attachments.get(id))
        .filter(|attachment| known_pod(attachment, snapshot).is_some_and(|known| known.key == pod.key))
        .flat_map(|attachment| {
            let network = attachment.network;
            attachment.addresses.iter().map(move |addr| AddrKey { network, addr: addr.to_canonical() })
        })
}
