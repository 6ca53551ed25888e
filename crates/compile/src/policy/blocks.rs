//! The CIDR blocks in force, and the class of what each is the longest match for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sheetbend_model::state::IpBlock;
use sheetbend_model::types::{BlockKey, Family};

use super::Change;
use super::classes::{ClassNode, ClassTable};
use super::terms::{TermId, TermKey, TermTable};

/// The IPv4 addresses as the kernel sees them: one 16-byte type for both families (RFC 4291 §2.5.5.2).
const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const ALL_IPV4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// Whether any address can match `net`: addresses are never written as IPv4 mapped into IPv6.
pub(crate) fn is_usable(net: &IpNet) -> bool {
    match net {
        IpNet::V4(_) => true,
        IpNet::V6(net) => !MAPPED.contains(net),
    }
}

/// Whether the kernel's table would find `net` for an IPv4 address that no IPv4 entry covers.
fn hides_ipv4(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.contains(&MAPPED))
}

/// One prefix that some block or exception has.
#[derive(Debug, Default)]
struct Key {
    /// Blocks with this CIDR.
    covers: Vec<u32>,
    /// Blocks with this exception.
    excepts: Vec<u32>,
    /// Blocks and exceptions that need this prefix to exist.
    uses: usize,
    class: Option<Arc<ClassNode>>,
}

/// All prefixes in force.
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    keys: BTreeMap<BlockKey, Key>,
    /// Prefix lengths that exist, by family, with how many keys have each.
    lengths: [BTreeMap<u8, usize>; 2],
}

impl BlockTable {
    /// Every prefix and its class.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&BlockKey, &Arc<ClassNode>)> {
        self.keys.iter().filter_map(|(key, value)| value.class.as_ref().map(|class| (key, class)))
    }

    pub(crate) fn has(&self, key: &BlockKey) -> bool {
        self.keys.get(key).is_some_and(|value| value.class.is_some())
    }

    /// The class that the longest match gives `addr`, if there is one.
    pub(crate) fn lookup(&self, addr: IpAddr) -> Option<&Arc<ClassNode>> {
        self.longest(IpNet::from(addr))
    }

    fn longest(&self, net: IpNet) -> Option<&Arc<ClassNode>> {
        self.ancestors(net).find_map(|key| key.class.as_ref())
    }

    /// The keys that contain `net`, itself included, longest first.
    fn ancestors(&self, net: IpNet) -> impl Iterator<Item = &Key> {
        let lengths = &self.lengths[family_index(&net)];
        lengths.range(..=net.prefix_len()).rev().filter_map(move |(length, _)| {
            let ancestor = IpNet::new(net.addr(), *length).ok()?;
            self.keys.get(&BlockKey::new(ancestor))
        })
    }

    fn terms_of(&self, net: IpNet) -> Vec<TermId> {
        let (mut covers, mut excepts) = (Vec::new(), Vec::new());
        for key in self.ancestors(net) {
            covers.extend_from_slice(&key.covers);
            excepts.extend_from_slice(&key.excepts);
        }
        covers.retain(|term| !excepts.contains(term));
        covers.sort_unstable();
        covers.dedup();
        covers.into_iter().map(TermId::new).collect()
    }

    /// Takes in what `terms` added and removed. Returns the keys whose class changed, and the ranges in which addresses
    /// may have another class.
    pub(crate) fn update(
        &mut self,
        terms: &TermTable,
        classes: &mut ClassTable,
    ) -> (Vec<Change<BlockKey>>, Vec<IpNet>) {
        let added = blocks(terms, terms.added().iter());
        let removed = blocks(terms, terms.removed().iter());
        let ranges: Vec<IpNet> = added.iter().chain(&removed).map(|(_, block)| block.cidr).collect();
        let ranges = IpNet::aggregate(&ranges);
        if ranges.is_empty() {
            return (Vec::new(), ranges);
        }
        let empty = classes.intern(Vec::new(), terms);
        let mut touched: BTreeMap<BlockKey, (Option<Arc<ClassNode>>, Arc<ClassNode>)> = BTreeMap::new();
        let coming = added.iter().flat_map(|(_, block)| prefixes(block)).map(|(net, _)| BlockKey::new(net));
        let there = ranges.iter().flat_map(|range| self.inside(*range));
        let implied =
            added.iter().chain(&removed).any(|(_, block)| prefixes(block).any(|(net, _)| hides_ipv4(&net)));
        let implied = implied.then(|| BlockKey::new(ALL_IPV4.into()));
        for key in coming.chain(there).chain(implied) {
            let old = self.keys.get(&key).and_then(|key| key.class.clone());
            let before = self.longest(key.block).unwrap_or(&empty).clone();
            touched.insert(key, (old, before));
        }
        for (term, block) in &added {
            self.add(*term, block);
        }
        for (term, block) in &removed {
            self.remove(*term, block);
        }
        self.reclass(touched, &empty, terms, classes)
            .map_or((Vec::new(), Vec::new()), |changes| (changes, ranges))
    }

    fn reclass(
        &mut self,
        touched: BTreeMap<BlockKey, (Option<Arc<ClassNode>>, Arc<ClassNode>)>,
        empty: &Arc<ClassNode>,
        terms: &TermTable,
        classes: &mut ClassTable,
    ) -> Option<Vec<Change<BlockKey>>> {
        for key in touched.keys() {
            if self.keys.contains_key(key) {
                let class = classes.intern(self.terms_of(key.block), terms);
                self.keys.get_mut(key)?.class = Some(class);
            }
        }
        let mut changes = Vec::new();
        for (key, (old, before)) in touched {
            let new = self.keys.get(&key).and_then(|key| key.class.clone());
            let after = self.longest(key.block).unwrap_or(empty).clone();
            if old.as_ref().map(|node| node.id) != new.as_ref().map(|node| node.id) {
                classes.row(old.as_ref(), new.as_ref());
                changes.push(Change { key, old, new, before, after });
            }
        }
        Some(changes)
    }

    fn inside(&self, range: IpNet) -> Vec<BlockKey> {
        let first = BlockKey::new(range);
        self.keys
            .range(first..)
            .map(|(key, _)| *key)
            .take_while(|key| range.contains(&key.block.addr()))
            .filter(|key| range.contains(&key.block))
            .collect()
    }

    fn add(&mut self, term: u32, block: &IpBlock) {
        for (net, role) in prefixes(block) {
            let key = self.use_key(net);
            match role {
                Role::Cidr => key.covers.push(term),
                Role::Except => key.excepts.push(term),
            }
            if hides_ipv4(&net) {
                self.use_key(ALL_IPV4.into());
            }
        }
    }

    fn remove(&mut self, term: u32, block: &IpBlock) {
        for (net, role) in prefixes(block) {
            if let Some(key) = self.keys.get_mut(&BlockKey::new(net)) {
                let list = match role {
                    Role::Cidr => &mut key.covers,
                    Role::Except => &mut key.excepts,
                };
                list.retain(|other| *other != term);
            }
            self.unuse_key(net);
            if hides_ipv4(&net) {
                self.unuse_key(ALL_IPV4.into());
            }
        }
    }

    fn use_key(&mut self, net: IpNet) -> &mut Key {
        let key = self.keys.entry(BlockKey::new(net)).or_default();
        if key.uses == 0 {
            *self.lengths[family_index(&net)].entry(net.prefix_len()).or_default() += 1;
        }
        key.uses += 1;
        key
    }

    fn unuse_key(&mut self, net: IpNet) {
        let Some(key) = self.keys.get_mut(&BlockKey::new(net)) else { return };
        key.uses -= 1;
        if key.uses > 0 {
            return;
        }
        self.keys.remove(&BlockKey::new(net));
        let lengths = &mut self.lengths[family_index(&net)];
        if let Some(count) = lengths.get_mut(&net.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&net.prefix_len());
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Role {
    Cidr,
    Except,
}

/// A block's own prefix and those of its exceptions that lie inside it.
fn prefixes(block: &IpBlock) -> impl Iterator<Item = (IpNet, Role)> {
    let excepts = block.except.iter().filter(|except| block.cidr.contains(*except));
    std::iter::once((block.cidr, Role::Cidr))
        .chain(excepts.map(|except| (*except, Role::Except)))
        .filter(|(net, _)| is_usable(net))
}

fn blocks<'a>(terms: &TermTable, indices: impl Iterator<Item = &'a u32>) -> Vec<(u32, IpBlock)> {
    indices
        .flat_map(|index| {
            let blocks = match terms.key(*index).map(|key| &**key) {
                Some(TermKey::Block(block)) => vec![block.clone()],
                Some(TermKey::Blocks(cidrs)) => {
                    cidrs.iter().map(|cidr| IpBlock { cidr: *cidr, except: Vec::new() }).collect()
                }
                Some(TermKey::Selector(..) | TermKey::Nodes(_) | TermKey::Domain(_) | TermKey::Named(..))
                | None => Vec::new(),
            };
            blocks.into_iter().filter(|block| is_usable(&block.cidr)).map(|block| (*index, block))
        })
        .collect()
}

fn family_index(net: &IpNet) -> usize {
    match Family::of(net.addr()) {
        Family::IPv4 => 0,
        Family::IPv6 => 1,
    }
}
