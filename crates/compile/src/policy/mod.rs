//! NetworkPolicy and policies with an order by peer class: local pods and their sets, classes of addresses and blocks, rules.

mod addresses;
mod blocks;
mod claims;
mod classes;
pub mod diff;
mod document;
mod faults;
mod flat;
mod isolation;
mod judge;
pub mod lint;
mod locals;
mod matcher;
mod places;
mod set;
mod terms;
mod tier;
mod traffic;
mod transition;
pub mod why;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use sheetbend_model::plan::{Class, Condition, Dataplane, Entry, LocalPod, RuleKey, Ruling};
use sheetbend_model::state::{AttachmentId, Snapshot};
use sheetbend_model::types::{AddrKey, BlockKey, DomainPattern, ObjectKey};

use crate::changes::{Changes, in_namespace};
use crate::compiler::Counters;
use addresses::{AddressTable, View, addresses_of_name, addresses_of_node, claims_of};
use blocks::BlockTable;
use classes::{ClassNode, ClassTable};
pub use faults::{unusable_blocks, unusable_networks};
pub(crate) use isolation::Isolations;
use locals::{LocalDelta, Locals};
use matcher::Matcher;
pub use places::SharedPlaces;
use terms::TermTable;
pub use traffic::TrafficFaults;
pub(crate) use traffic::TrafficPolicies;
pub(crate) use transition::PolicySteps;

/// `cluster` with the NetworkPolicies that labels of Namespaces and Tenants stand for, and with TrafficPolicies of both
/// kinds among its ClusterNetworkPolicies. Of what this gives it gives the same.
pub fn resolved(cluster: &Snapshot) -> Snapshot {
    traffic::with_traffic(&isolation::with_isolation(cluster))
}

/// A row of `classes` or `blocks` that differs.
#[derive(Debug)]
pub(crate) struct Change<K> {
    key: K,
    /// The row before and after, if there is one.
    old: Option<Arc<ClassNode>>,
    new: Option<Arc<ClassNode>>,
    /// The class that its packets had and will have, by this row or by the block around it.
    before: Arc<ClassNode>,
    after: Arc<ClassNode>,
}

/// What an update did to the policy tables.
#[derive(Debug)]
pub(crate) struct Delta {
    locals: LocalDelta,
    blocks: Vec<Change<BlockKey>>,
    addresses: Vec<Change<AddrKey>>,
    appeared: Vec<Arc<ClassNode>>,
    vanished: Vec<Arc<ClassNode>>,
    terms_added: BTreeSet<u32>,
    terms_removed: BTreeSet<u32>,
}

/// The policy tables of one node.
#[derive(Debug, Default)]
pub(crate) struct PolicyTables {
    locals: Locals,
    terms: TermTable,
    matcher: Matcher,
    blocks: BlockTable,
    classes: ClassTable,
    addresses: AddressTable,
}

impl PolicyTables {
    /// Moves the tables from `old` to `next`.
    pub(crate) fn update(
        &mut self,
        old: &Snapshot,
        next: &Snapshot,
        changes: &Changes<'_>,
        counters: &mut Counters,
    ) -> Delta {
        let mut dirty = BTreeSet::new();
        let moved = moved_pods(changes);
        self.disclaim(old, &moved, &mut dirty);
        let locals = self.locals.update(next, changes, &mut self.terms);
        self.claim(next, &moved, &mut dirty);
        self.relabelled_namespaces(next, changes, &mut dirty);
        self.addresses.update_nodes(&changes.nodes);
        self.addresses.update_names(&changes.learnt_names);
        self.rematch(next, &moved, &mut dirty);
        self.changed_nodes(changes, &mut dirty);
        self.changed_names(changes, &mut dirty);

        let empty = self.classes.intern(Vec::new(), &self.terms);
        let mut before = HashMap::new();
        self.addresses.before(&dirty, &self.blocks, &empty, &mut before);
        let (blocks, ranges) = self.blocks.update(&self.terms, &mut self.classes);
        self.addresses.inside(&ranges, &mut dirty);
        let mut view = View {
            snapshot: next,
            locals: &self.locals,
            matcher: &self.matcher,
            terms: &self.terms,
            blocks: &self.blocks,
            classes: &mut self.classes,
            before: &before,
            empty: &empty,
        };
        let addresses = self.addresses.reclass(&mut view, &dirty);
        drop(empty);

        counters.local_pods += locals.recompiled.0;
        counters.policies += locals.recompiled.1;
        counters.addresses += dirty.len() as u64;
        counters.blocks += blocks.len() as u64;
        let (appeared, vanished) = self.classes.settle();
        let (terms_added, terms_removed) = self.terms.settle();
        Delta { locals, blocks, addresses, appeared, vanished, terms_added, terms_removed }
    }

    /// Ends an update whose [`Delta`] is not needed any more.
    pub(crate) fn sweep(&mut self) {
        self.classes.sweep();
    }

    /// The steps of `delta`.
    pub(crate) fn steps(&self, delta: &Delta) -> PolicySteps {
        transition::steps(self, delta)
    }

    /// Writes the tables out whole.
    pub(crate) fn write(&self, dataplane: &mut Dataplane) {
        dataplane.pods = self.locals.rows().map(|(id, row)| (id.clone(), row.clone())).collect();
        dataplane.classes = self.addresses.iter().map(|(addr, node)| (*addr, node.symbol.clone())).collect();
        dataplane.blocks = self.blocks.iter().map(|(key, node)| (*key, node.symbol.clone())).collect();
        dataplane.rules = self.rules();
    }

    fn rules(&self) -> BTreeMap<RuleKey, Ruling> {
        let mut rows = Vec::new();
        for set in self.locals.sets() {
            set.every_peer_rows(&set.symbol, &mut rows);
            for class in self.classes.present() {
                set.class_rows(&set.symbol, &class.symbol, &class.terms, &mut rows);
            }
        }
        rows.into_iter().collect()
    }

    /// Rules, then blocks.
    pub(crate) fn base(&self) -> impl Iterator<Item = Entry> {
        let rules = self.rules().into_iter().map(|(key, origin)| Entry::Rule(key, origin));
        rules.chain(self.blocks.iter().map(|(key, node)| Entry::Block(*key, node.symbol.clone())))
    }

    /// Addresses with a class of their own, in order.
    pub(crate) fn classes_from(&self, from: Bound<AddrKey>) -> impl Iterator<Item = (&AddrKey, &Class)> {
        self.addresses.from(from).map(|(addr, node)| (addr, &node.symbol))
    }

    pub(crate) fn has_class(&self, addr: &AddrKey) -> bool {
        self.addresses.has(addr)
    }

    pub(crate) fn has_block(&self, key: &BlockKey) -> bool {
        self.blocks.has(key)
    }

    /// The patterns of domain names that policies of this node's pods ask for.
    pub(crate) fn domains(&self) -> impl Iterator<Item = &DomainPattern> {
        self.matcher.domains()
    }

    /// The pods of this node.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&AttachmentId, &LocalPod)> {
        self.locals.rows()
    }

    /// What is wrong with the policies in force.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = Condition> {
        self.locals.conditions()
    }

    fn disclaim(&mut self, old: &Snapshot, moved: &BTreeSet<&ObjectKey>, dirty: &mut BTreeSet<AddrKey>) {
        for key in moved {
            let Some(pod) = old.pods.get(*key) else { continue };
            let addresses = claims_of(old, self.locals.of_pod(key), pod);
            self.addresses.disclaim(key, &addresses);
            dirty.extend(addresses);
        }
    }

    fn claim(&mut self, next: &Snapshot, moved: &BTreeSet<&ObjectKey>, dirty: &mut BTreeSet<AddrKey>) {
        for key in moved {
            let Some(pod) = next.pods.get(*key) else { continue };
            let addresses = claims_of(next, self.locals.of_pod(key), pod);
            self.addresses.claim(key, &addresses);
        }
        // Not in the same pass: what is kept for long and what is not would lie between one another in memory.
        for pod in moved.iter().filter_map(|key| next.pods.get(*key)) {
            dirty.extend(claims_of(next, self.locals.of_pod(&pod.key), pod));
        }
    }

    fn relabelled_namespaces(&self, next: &Snapshot, changes: &Changes<'_>, dirty: &mut BTreeSet<AddrKey>) {
        for change in &changes.namespaces {
            for (key, pod) in in_namespace(&next.pods, change.key) {
                dirty.extend(claims_of(next, self.locals.of_pod(key), pod));
            }
        }
    }

    /// The addresses of nodes that changed, where policies look at nodes at all.
    fn changed_nodes(&self, changes: &Changes<'_>, dirty: &mut BTreeSet<AddrKey>) {
        if self.matcher.has_nodes() {
            let nodes = changes.nodes.iter().flat_map(|change| [change.old, change.new]).flatten();
            dirty.extend(nodes.flat_map(|node| addresses_of_node(node)));
        }
    }

    /// The addresses that came to domain names, or went from them.
    fn changed_names(&self, changes: &Changes<'_>, dirty: &mut BTreeSet<AddrKey>) {
        if !self.matcher.has_domains() {
            return;
        }
        for change in &changes.learnt_names {
            let (old, new) = (change.old.map(AsRef::as_ref), change.new.map(AsRef::as_ref));
            let none = BTreeSet::new();
            let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
            dirty.extend(addresses_of_name(&old.symmetric_difference(new).copied().collect()));
        }
    }

    /// Takes terms into and out of the matcher, and finds the addresses that match them.
    fn rematch(&mut self, next: &Snapshot, moved: &BTreeSet<&ObjectKey>, dirty: &mut BTreeSet<AddrKey>) {
        let added = Matcher::of(&self.terms, self.terms.added().iter().copied());
        for index in self.terms.added() {
            self.matcher.insert(&self.terms, *index);
        }
        for index in self.terms.removed() {
            self.matcher.remove(&self.terms, *index);
        }
        if !self.terms.removed().is_empty() {
            self.addresses.holding(self.terms.removed(), dirty);
        }
        if added.has_nodes() {
            let nodes = next.nodes.values().filter(|node| added.terms_of_node(node).next().is_some());
            dirty.extend(nodes.flat_map(|node| addresses_of_node(node)));
        }
        if added.has_domains() {
            let names =
                next.learnt_names.iter().filter(|(name, _)| added.terms_of_name(name).next().is_some());
            dirty.extend(names.flat_map(|(_, addresses)| addresses_of_name(addresses)));
        }
        if added.is_empty() {
            return;
        }
        for (key, pod) in &next.pods {
            if !moved.contains(key) && pod.is_peer() && !added.terms_of(next, pod).is_empty() {
                dirty.extend(claims_of(next, self.locals.of_pod(key), pod));
            }
        }
    }
}

/// Pods that changed, and pods whose attachments did.
fn moved_pods<'a>(changes: &Changes<'a>) -> BTreeSet<&'a ObjectKey> {
    let attached = changes.attachments.iter().flat_map(|change| [change.old, change.new]).flatten();
    let attached = attached.filter_map(|attachment| attachment.pod.as_ref());
    changes.pods.iter().map(|change| change.key).chain(attached).collect()
}
