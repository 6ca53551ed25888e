//! From one state of the policy tables to the next, so that at every step each pod has its old or its new verdict.
//!
//! A pod changes over by one write of its set, an address by one write of its class. Where both are under way, the
//! classes in between must serve old and new sets alike:
//!
//! - what the address matched of the old terms is unchanged → its new class serves both, and is written first;
//! - what it will match of the new terms is unchanged → its old class serves both, and is replaced last;
//! - else it gets a *mixed* class, which old sets judge by what the address was and new sets by what it is. A pod
//!   that joins a set which other pods already have is given a *provisional* copy of it, which judges as new sets do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sheetbend_model::plan::{
    Class, Entry, EntryKey, LocalPod, PolicySet, Posture, RuleKey, Ruling, Step, Term,
};
use sheetbend_model::types::BlockKey;

use super::classes::ClassNode;
use super::locals::PodChange;
use super::set::{SetNode, provisional};
use super::terms::TermId;
use super::{Change, Delta, PolicyTables};

/// Policy's part of a Plan.
#[derive(Debug, Default)]
pub(crate) struct PolicySteps {
    pub(crate) refine: Vec<Step>,
    pub(crate) swap: Vec<Step>,
    /// Pods that go: the first of the retire phase.
    pub(crate) retire_pods: Vec<Step>,
    pub(crate) retire: Vec<Step>,
    pub(crate) raise_epoch: bool,
}

/// What an address or block has between refine and retire.
enum Middle {
    Old,
    New,
    Mixed(Class),
}

struct Mixed {
    symbol: Class,
    was: Arc<ClassNode>,
    now: Arc<ClassNode>,
}

struct Transition<'a> {
    delta: &'a Delta,
    /// A pod leaves a set, so that old sets are still in use while classes change.
    leaving: bool,
    /// No pod changes its set.
    calm: bool,
    mixed: BTreeMap<(u64, u64), Mixed>,
    /// Classes that no row has in the end, but some row until then.
    kept: BTreeMap<u64, Arc<ClassNode>>,
}

pub(super) fn steps(tables: &PolicyTables, delta: &Delta) -> PolicySteps {
    let moves = || delta.locals.pods.iter().filter(|change| posture(&change.old) != posture(&change.new));
    let mut transition = Transition {
        delta,
        leaving: moves().any(|change| matches!(posture(&change.old), Some(Posture::Judged(_)))),
        calm: moves().next().is_none(),
        mixed: BTreeMap::new(),
        kept: BTreeMap::new(),
    };
    let classes = transition.rows(&delta.addresses, Entry::Class, EntryKey::Class);
    let mut blocks = transition.rows(&delta.blocks, Entry::Block, EntryKey::Block);
    longest_first(&mut blocks.refine);
    longest_first(&mut blocks.delete);
    blocks.delete.reverse();
    let pods = transition.pods();
    let (put, delete) = transition.rules(tables, &pods.provisional);

    let mut steps = PolicySteps {
        raise_epoch: !(put.is_empty()
            && delete.is_empty()
            && delta.addresses.is_empty()
            && delta.blocks.is_empty())
            || delta.locals.pods.iter().any(|change| match (&change.old, &change.new) {
                (Some(old), Some(new)) => !old.judges_as(new),
                _ => false,
            }),
        ..PolicySteps::default()
    };
    steps.refine.extend(put.into_iter().map(|(key, ruling)| Step::Put(Entry::Rule(key, ruling))));
    steps.refine.extend(classes.refine.into_iter().map(|(_, step)| step));
    steps.refine.extend(blocks.refine.into_iter().map(|(_, step)| step));
    steps.swap = pods.swap;
    steps.retire_pods = pods.delete;
    // Blocks first: an address whose own row goes falls back to what its block says.
    for rows in [blocks.put, blocks.delete.into_iter().map(|(_, step)| step).collect()] {
        steps.retire.extend(rows);
    }
    steps.retire.extend(classes.put);
    steps.retire.extend(classes.delete.into_iter().map(|(_, step)| step));
    steps.retire.extend(pods.settle);
    steps.retire.extend(delete.into_iter().map(|key| Step::Delete(EntryKey::Rule(key))));
    steps
}

fn posture(row: &Option<LocalPod>) -> Option<&Posture> {
    row.as_ref().map(|row| &row.posture)
}

/// A block's row must be there before the row of a block around it changes, and go after it.
fn longest_first(steps: &mut [(BlockKey, Step)]) {
    steps.sort_by_key(|(key, _)| std::cmp::Reverse(key.block.prefix_len()));
}

/// Writes of one table, by when they happen.
struct RowSteps<K> {
    refine: Vec<(K, Step)>,
    put: Vec<Step>,
    delete: Vec<(K, Step)>,
}

struct PodSteps {
    swap: Vec<Step>,
    delete: Vec<Step>,
    /// Provisional sets give way to the real ones.
    settle: Vec<Step>,
    provisional: BTreeSet<PolicySet>,
}

impl Transition<'_> {
    fn rows<K: Copy>(
        &mut self,
        changes: &[Change<K>],
        entry: fn(K, Class) -> Entry,
        key: fn(K) -> EntryKey,
    ) -> RowSteps<K> {
        let mut steps = RowSteps { refine: Vec::new(), put: Vec::new(), delete: Vec::new() };
        for change in changes {
            let at = change.key;
            let mut settled = false;
            match (self.middle(change), &change.old, &change.new) {
                // Nothing but this row changes: its end can wait for the retire phase.
                (Middle::New, Some(_), None) if self.calm => {}
                (Middle::New, _, new) => {
                    settled = new.is_some();
                    steps.refine.push((at, Step::Put(entry(at, change.after.symbol.clone()))));
                }
                (Middle::Old, old, _) => {
                    self.kept.insert(change.before.id, change.before.clone());
                    if old.is_none() {
                        steps.refine.push((at, Step::Put(entry(at, change.before.symbol.clone()))));
                    }
                }
                (Middle::Mixed(symbol), ..) => steps.refine.push((at, Step::Put(entry(at, symbol)))),
            }
            match &change.new {
                Some(new) if !settled => steps.put.push(Step::Put(entry(at, new.symbol.clone()))),
                Some(_) => {}
                None => steps.delete.push((at, Step::Delete(key(at)))),
            }
        }
        steps
    }

    fn middle<K>(&mut self, change: &Change<K>) -> Middle {
        let (was, now) = (&change.before, &change.after);
        let without = |node: &ClassNode, terms: &BTreeSet<u32>| -> Vec<TermId> {
            node.terms.iter().copied().filter(|term| !terms.contains(&term.index())).collect()
        };
        if !self.leaving || was.id == now.id || without(now, &self.delta.terms_added) == *was.terms {
            return Middle::New;
        }
        if without(was, &self.delta.terms_removed) == *now.terms {
            return Middle::Old;
        }
        let mixed = self.mixed.entry((was.id, now.id)).or_insert_with(|| {
            let old = was.symbol.terms().iter().map(|term| Term::Selector(format!("was {term}").into()));
            let mark = Term::Selector("mixed".into());
            let terms = now.symbol.terms().iter().cloned().chain(old).chain([mark]).collect();
            Mixed { symbol: Class::new(terms), was: was.clone(), now: now.clone() }
        });
        Middle::Mixed(mixed.symbol.clone())
    }

    fn pods(&self) -> PodSteps {
        let mut steps = PodSteps {
            swap: Vec::new(),
            delete: Vec::new(),
            settle: Vec::new(),
            provisional: BTreeSet::new(),
        };
        for change in &self.delta.locals.pods {
            let Some(new) = &change.new else {
                steps.delete.push(Step::Delete(EntryKey::Pod(change.id.clone())));
                continue;
            };
            let put = |row: LocalPod| Step::Put(Entry::Pod(change.id.clone(), row));
            match self.needs_provisional(change, new) {
                Some(set) => {
                    let posture = Posture::Judged(provisional(set));
                    steps.swap.push(put(LocalPod { posture, ..new.clone() }));
                    steps.settle.push(put(new.clone()));
                    steps.provisional.insert(set.clone());
                }
                None => steps.swap.push(put(new.clone())),
            }
        }
        steps
    }

    fn needs_provisional<'b>(&self, change: &PodChange, new: &'b LocalPod) -> Option<&'b PolicySet> {
        let Posture::Judged(set) = &new.posture else { return None };
        let joins = posture(&change.old) != Some(&new.posture);
        let came = self.delta.locals.appeared.iter().any(|node| node.symbol == *set);
        (joins && !self.mixed.is_empty() && !set.is_empty() && !came).then_some(set)
    }

    /// Rules to put before all else and to delete after it. The classes that rows have at the swap are those of the
    /// end, the kept and the mixed.
    fn rules(
        &self,
        tables: &PolicyTables,
        provisional_of: &BTreeSet<PolicySet>,
    ) -> (Vec<(RuleKey, Ruling)>, Vec<RuleKey>) {
        let (mut put, mut deleted) = (Vec::new(), Vec::new());
        let locals = &self.delta.locals;
        let vanished: BTreeSet<u64> = self.delta.vanished.iter().map(|node| node.id).collect();
        let kept = || self.kept.values().filter(|node| vanished.contains(&node.id));
        for set in &locals.appeared {
            self.new_set_rows(tables, kept(), set, &set.symbol, &mut put);
            for class in kept() {
                set.class_rows(&set.symbol, &class.symbol, &class.terms, &mut deleted);
            }
            self.mixed_rows(set, &set.symbol, |mixed| &mixed.now, &mut deleted);
        }
        for set in tables.locals.sets().filter(|set| provisional_of.contains(&set.symbol)) {
            let copy = provisional(&set.symbol);
            self.new_set_rows(tables, kept(), set, &copy, &mut put);
            self.new_set_rows(tables, kept(), set, &copy, &mut deleted);
        }
        let appeared: BTreeSet<&PolicySet> = locals.appeared.iter().map(|set| &set.symbol).collect();
        let staying = || tables.locals.sets().filter(|set| !appeared.contains(&set.symbol));
        for set in staying().chain(&locals.vanished) {
            for class in &self.delta.appeared {
                set.class_rows(&set.symbol, &class.symbol, &class.terms, &mut put);
            }
            self.mixed_rows(set, &set.symbol, |mixed| &mixed.was, &mut put);
            self.mixed_rows(set, &set.symbol, |mixed| &mixed.was, &mut deleted);
            for class in &self.delta.vanished {
                set.class_rows(&set.symbol, &class.symbol, &class.terms, &mut deleted);
            }
        }
        for set in &locals.vanished {
            set.every_peer_rows(&set.symbol, &mut deleted);
            for class in tables.classes.present() {
                set.class_rows(&set.symbol, &class.symbol, &class.terms, &mut deleted);
            }
        }
        (put, deleted.into_iter().map(|(key, _)| key).collect())
    }

    fn new_set_rows<'b>(
        &self,
        tables: &'b PolicyTables,
        kept: impl Iterator<Item = &'b Arc<ClassNode>>,
        set: &SetNode,
        symbol: &PolicySet,
        rows: &mut Vec<(RuleKey, Ruling)>,
    ) {
        set.every_peer_rows(symbol, rows);
        for class in tables.classes.present().chain(kept) {
            set.class_rows(symbol, &class.symbol, &class.terms, rows);
        }
        self.mixed_rows(set, symbol, |mixed| &mixed.now, rows);
    }

    fn mixed_rows(
        &self,
        set: &SetNode,
        symbol: &PolicySet,
        judged_by: fn(&Mixed) -> &Arc<ClassNode>,
        rows: &mut Vec<(RuleKey, Ruling)>,
    ) {
        for mixed in self.mixed.values() {
            set.class_rows(symbol, &mixed.symbol, &judged_by(mixed).terms, rows);
        }
    }
}
