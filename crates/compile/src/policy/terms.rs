//! Terms in force: the selectors, blocks and named ports that policies of this node's pods use.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::plan::Term;
use sheetbend_model::state::{IpBlock, LabelSelector};
use sheetbend_model::types::{DomainPattern, Port, Protocol};

use super::document::fnv;

/// Which namespaces a pod peer is looked for in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NamespaceMatch {
    /// The policy's own.
    Own(Arc<str>),
    /// Those with these labels.
    Labels(LabelSelector),
}

/// A term by its content. A named port stands for all its numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TermKey {
    /// Pods; of them those with one of these ServiceAccounts, sorted, or all where none is named.
    Selector(NamespaceMatch, LabelSelector, Vec<Arc<str>>),
    Block(IpBlock),
    /// Addresses in any of these blocks, which are sorted.
    Blocks(Arc<[IpNet]>),
    /// The addresses of nodes with these labels.
    Nodes(LabelSelector),
    /// The addresses of learnt names that match.
    Domain(DomainPattern),
    Named(Arc<str>, Protocol),
}

impl TermKey {
    fn symbol(&self, port: Option<Port>) -> Term {
        match (self, port) {
            (TermKey::Selector(namespace, pods, accounts), _) => {
                let namespace = match namespace {
                    NamespaceMatch::Own(namespace) => format!("ns={namespace}"),
                    NamespaceMatch::Labels(labels) => format!("nslabels={labels}"),
                };
                let accounts = match accounts.as_slice() {
                    [] => String::new(),
                    accounts => format!(" account={}", accounts.join("|")),
                };
                Term::Selector(format!("{namespace} pod={pods}{accounts}").into())
            }
            (TermKey::Nodes(labels), _) => Term::Selector(format!("node={labels}").into()),
            (TermKey::Domain(pattern), _) => Term::Selector(format!("domain={pattern}").into()),
            (TermKey::Block(block), _) => Term::Block(block_text(block).into()),
            (TermKey::Blocks(blocks), _) => Term::Block(blocks_text(blocks).into()),
            (TermKey::Named(name, protocol), Some(port)) => Term::NamedPort(name.clone(), *protocol, port),
            // A named port without a number is in no class; it has a text all the same.
            (TermKey::Named(name, protocol), None) => Term::Selector(format!("{name}/{protocol}").into()),
        }
    }
}

pub(crate) fn block_text(block: &IpBlock) -> String {
    let mut text = block.cidr.to_string();
    for (index, except) in block.except.iter().enumerate() {
        text.push_str(if index == 0 { " except " } else { "," });
        text.push_str(&except.to_string());
    }
    text
}

/// A text that is another for other blocks; short, since there may be thousands.
pub(crate) fn blocks_text(blocks: &[IpNet]) -> String {
    let mut all = String::new();
    for block in blocks {
        // Writing to a String does not fail.
        let _ = write!(all, "{block};");
    }
    format!("{} blocks #{:016x}", blocks.len(), fnv(all.as_bytes()))
}

/// A term in force, and for a named port the number: `index << 16 | number`, number 0 for all other terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TermId(u64);

impl TermId {
    pub(crate) fn new(index: u32) -> Self {
        Self(u64::from(index) << 16)
    }

    pub(crate) fn with_port(index: u32, port: Port) -> Self {
        Self(u64::from(index) << 16 | u64::from(port.get()))
    }

    pub(crate) fn index(self) -> u32 {
        (self.0 >> 16) as u32
    }

    pub(crate) fn port(self) -> Option<Port> {
        Port::new(self.0 as u16).ok()
    }
}

#[derive(Debug)]
struct TermInfo {
    key: Arc<TermKey>,
    symbol: Term,
    uses: usize,
}

/// The terms in force, counted by the policies that use them, and what an update adds and takes away.
#[derive(Debug, Default)]
pub(crate) struct TermTable {
    indices: BTreeMap<Arc<TermKey>, u32>,
    infos: BTreeMap<u32, TermInfo>,
    next: u32,
    added: BTreeSet<u32>,
    removed: BTreeSet<u32>,
}

impl TermTable {
    /// One more policy uses `key`.
    pub(crate) fn acquire(&mut self, key: TermKey) -> u32 {
        if let Some(&index) = self.indices.get(&key) {
            if let Some(info) = self.infos.get_mut(&index) {
                info.uses += 1;
            }
            self.removed.remove(&index);
            return index;
        }
        let index = self.next;
        self.next += 1;
        let (symbol, key) = (key.symbol(None), Arc::new(key));
        self.indices.insert(key.clone(), index);
        self.infos.insert(index, TermInfo { key, symbol, uses: 1 });
        self.added.insert(index);
        index
    }

    /// One policy less uses it. A term that nobody uses stays known until [`TermTable::settle`].
    pub(crate) fn release(&mut self, index: u32) {
        let Some(info) = self.infos.get_mut(&index) else { return };
        info.uses -= 1;
        if info.uses > 0 {
            return;
        }
        if self.added.remove(&index) {
            self.forget(index);
        } else {
            self.removed.insert(index);
        }
    }

    /// What came into force since the last [`TermTable::settle`].
    pub(crate) fn added(&self) -> &BTreeSet<u32> {
        &self.added
    }

    /// What is in force no more since then.
    pub(crate) fn removed(&self) -> &BTreeSet<u32> {
        &self.removed
    }

    pub(crate) fn key(&self, index: u32) -> Option<&Arc<TermKey>> {
        self.infos.get(&index).map(|info| &info.key)
    }

    pub(crate) fn symbol(&self, id: TermId) -> Option<Term> {
        let info = self.infos.get(&id.index())?;
        Some(match id.port() {
            None => info.symbol.clone(),
            port @ Some(_) => info.key.symbol(port),
        })
    }

    /// Ends an update: forgets what is in force no more.
    pub(crate) fn settle(&mut self) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let (added, removed) = (std::mem::take(&mut self.added), std::mem::take(&mut self.removed));
        for index in &removed {
            self.forget(*index);
        }
        (added, removed)
    }

    fn forget(&mut self, index: u32) {
        if let Some(info) = self.infos.remove(&index) {
            self.indices.remove(&info.key);
        }
    }
}
