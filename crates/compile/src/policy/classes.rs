//! Classes by their terms, each made once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sheetbend_model::plan::Class;

use super::terms::{TermId, TermTable};

/// A class: its terms, sorted, and its symbol. Equal terms are the same node.
#[derive(Debug)]
pub(crate) struct ClassNode {
    pub(crate) id: u64,
    pub(crate) terms: Box<[TermId]>,
    pub(crate) symbol: Class,
}

/// How many rows of `classes` and `blocks` have a class.
#[derive(Debug)]
struct Presence {
    node: Arc<ClassNode>,
    rows: usize,
}

/// All classes of this node.
#[derive(Debug, Default)]
pub(crate) struct ClassTable {
    nodes: BTreeMap<Box<[TermId]>, Arc<ClassNode>>,
    next: u64,
    unions: HashMap<(u64, u64), Arc<ClassNode>>,
    present: BTreeMap<u64, Presence>,
    /// Touched in this update → rows before it.
    touched: BTreeMap<u64, (Arc<ClassNode>, usize)>,
}

impl ClassTable {
    /// The class with `terms`, which are sorted and without duplicates.
    pub(crate) fn intern(&mut self, terms: Vec<TermId>, table: &TermTable) -> Arc<ClassNode> {
        let terms = terms.into_boxed_slice();
        if let Some(node) = self.nodes.get(&terms) {
            return node.clone();
        }
        let symbol = Class::new(terms.iter().filter_map(|term| table.symbol(*term)).collect());
        let node = Arc::new(ClassNode { id: self.next, terms: terms.clone(), symbol });
        self.next += 1;
        self.nodes.insert(terms, node.clone());
        node
    }

    /// The class of what `a` and `b` have together.
    pub(crate) fn union(
        &mut self,
        a: &Arc<ClassNode>,
        b: &Arc<ClassNode>,
        table: &TermTable,
    ) -> Arc<ClassNode> {
        if b.terms.is_empty() || a.id == b.id {
            return a.clone();
        }
        if a.terms.is_empty() {
            return b.clone();
        }
        if let Some(node) = self.unions.get(&(a.id, b.id)) {
            return node.clone();
        }
        let mut terms: Vec<TermId> = a.terms.iter().chain(&*b.terms).copied().collect();
        terms.sort_unstable();
        terms.dedup();
        let node = self.intern(terms, table);
        self.unions.insert((a.id, b.id), node.clone());
        node
    }

    /// A row changed its class.
    pub(crate) fn row(&mut self, old: Option<&Arc<ClassNode>>, new: Option<&Arc<ClassNode>>) {
        if let Some(node) = old {
            self.touch(node);
            if let Some(presence) = self.present.get_mut(&node.id) {
                presence.rows -= 1;
            }
        }
        if let Some(node) = new {
            self.touch(node);
            self.present.entry(node.id).or_insert_with(|| Presence { node: node.clone(), rows: 0 }).rows += 1;
        }
    }

    fn touch(&mut self, node: &Arc<ClassNode>) {
        let rows = self.present.get(&node.id).map_or(0, |presence| presence.rows);
        self.touched.entry(node.id).or_insert_with(|| (node.clone(), rows));
    }

    /// The classes that rows have.
    pub(crate) fn present(&self) -> impl Iterator<Item = &Arc<ClassNode>> {
        self.present.values().map(|presence| &presence.node)
    }

    /// Ends an update: the classes that came, and those that went.
    pub(crate) fn settle(&mut self) -> (Vec<Arc<ClassNode>>, Vec<Arc<ClassNode>>) {
        let (mut appeared, mut vanished) = (Vec::new(), Vec::new());
        for (id, (node, before)) in std::mem::take(&mut self.touched) {
            let now = self.present.get(&id).map_or(0, |presence| presence.rows);
            match (before, now) {
                (0, 0) | (_, 0) => {
                    self.present.remove(&id);
                    if before > 0 {
                        vanished.push(node);
                    }
                }
                (0, _) => appeared.push(node),
                _ => {}
            }
        }
        (appeared, vanished)
    }

    /// Drops the nodes that nobody holds.
    pub(crate) fn sweep(&mut self) {
        self.unions = HashMap::new();
        self.nodes.retain(|_, node| Arc::strong_count(node) > 1);
    }
}
