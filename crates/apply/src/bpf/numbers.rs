//! Numbers for symbols: given once, found again after a restart, and never used for another symbol while anything in
//! the kernel may still mean the old one.
//!
//! A number that no table refers to *rests*: it keeps its entry in `SYMBOLS`, and its symbol gets it back when it
//! returns. [`Numbers::release`] frees what rested through a whole sweep.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use sheetbend_ebpf_abi::{SymbolKey, SymbolKind};

use super::error::BpfError;
use super::symbols::Digest;
use super::table::Table;

/// Every kind of symbol, in the order of its number.
const KINDS: [SymbolKind; 5] =
    [SymbolKind::Class, SymbolKind::PolicySet, SymbolKind::Origin, SymbolKind::Service, SymbolKind::Backend];

/// A digest is already as good as random: its first bytes are its hash.
#[derive(Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

/// The numbers of one kind of symbol.
#[derive(Default)]
struct Kind {
    /// Digest → number, resting ones included. 20 bytes an entry.
    index: HashMap<Digest, u32, BuildHasherDefault<DigestHasher>>,
    /// Number → how many rows of the kernel refer to it.
    holders: Vec<u32>,
    /// Number without a holder → since when, ns of CLOCK_MONOTONIC.
    resting: BTreeMap<u32, u64>,
    /// Numbers below `holders.len()` that stand for nothing.
    free: Vec<u32>,
}

/// All numbers of this node.
pub(super) struct Numbers {
    table: Table<SymbolKey, Digest>,
    kinds: [Kind; KINDS.len()],
    /// Now, ns of CLOCK_MONOTONIC; set before each run.
    pub(super) now: u64,
}

impl Numbers {
    /// Finds the numbers that an earlier process gave. Nobody holds them yet.
    pub(super) fn open(table: Table<SymbolKey, Digest>, now: u64) -> Result<Self, BpfError> {
        let mut kinds: [Kind; KINDS.len()] = Default::default();
        let mut doubles = Vec::new();
        table.for_each(|key, digest| {
            let known = (key.kind as usize).checked_sub(1).and_then(|at| kinds.get_mut(at));
            let Some(kind) = known.filter(|kind| key.number != 0 && !kind.index.contains_key(&digest)) else {
                doubles.push(key);
                return;
            };
            let length = kind.holders.len().max(key.number as usize + 1);
            kind.holders.resize(length, 0);
            kind.index.insert(digest, key.number);
            kind.resting.insert(key.number, now);
        })?;
        for key in doubles {
            table.delete(&key)?;
        }
        for kind in &mut kinds {
            let Kind { holders, resting, free, .. } = kind;
            if holders.is_empty() {
                holders.push(0);
            }
            free.extend((1..holders.len() as u32).rev().filter(|number| !resting.contains_key(number)));
        }
        Ok(Self { table, kinds, now })
    }

    /// The table behind it, for reading back.
    pub(super) fn table(&self) -> &Table<SymbolKey, Digest> {
        &self.table
    }

    /// The number of the symbol with this digest, if it has one.
    pub(super) fn find(&self, kind: SymbolKind, digest: &Digest) -> Option<u32> {
        self.kind(kind).index.get(digest).copied()
    }

    /// The number of the symbol with this digest; a new one rests until it is held.
    pub(super) fn number(&mut self, kind: SymbolKind, digest: Digest) -> Result<u32, BpfError> {
        self.number_or_new(kind, digest).map(|(number, _)| number)
    }

    /// The same, and whether it was given just now.
    pub(super) fn number_or_new(
        &mut self,
        kind: SymbolKind,
        digest: Digest,
    ) -> Result<(u32, bool), BpfError> {
        if let Some(number) = self.find(kind, &digest) {
            return Ok((number, false));
        }
        let numbers = &mut self.kinds[kind as usize - 1];
        let number = numbers.free.last().copied().unwrap_or(numbers.holders.len() as u32);
        self.table.put(&SymbolKey { kind: kind as u32, number }, &digest)?;
        if numbers.free.pop().is_none() {
            numbers.holders.push(0);
        }
        numbers.index.insert(digest, number);
        numbers.resting.insert(number, self.now);
        Ok((number, true))
    }

    /// One more row refers to `number`.
    pub(super) fn hold(&mut self, kind: SymbolKind, number: u32) {
        if number == 0 {
            return;
        }
        let kind = self.kind_mut(kind);
        if kind.holders.len() <= number as usize {
            kind.holders.resize(number as usize + 1, 0);
        }
        let holders = &mut kind.holders[number as usize];
        *holders += 1;
        if *holders == 1 {
            kind.resting.remove(&number);
        }
    }

    /// One row less refers to `number`.
    pub(super) fn let_go(&mut self, kind: SymbolKind, number: u32) {
        if number == 0 {
            return;
        }
        let now = self.now;
        let kind = self.kind_mut(kind);
        let holders = &mut kind.holders[number as usize];
        debug_assert!(*holders > 0, "number {number} let go more often than held");
        *holders = holders.saturating_sub(1);
        if *holders == 0 {
            kind.resting.insert(number, now);
        }
    }

    /// Whether any row refers to `number`.
    pub(super) fn is_held(&self, kind: SymbolKind, number: u32) -> bool {
        self.kind(kind).holders.get(number as usize).is_some_and(|holders| *holders > 0)
    }

    /// Above every number of this kind.
    pub(super) fn end(&self, kind: SymbolKind) -> u32 {
        self.kind(kind).holders.len() as u32
    }

    /// Since when `number` rests, ns of CLOCK_MONOTONIC; `None` when it is held or stands for nothing.
    pub(super) fn rests_since(&self, kind: SymbolKind, number: u32) -> Option<u64> {
        self.kind(kind).resting.get(&number).copied()
    }

    /// Its rest begins now: only now its last trace has gone.
    pub(super) fn rest_anew(&mut self, kind: SymbolKind, number: u32) {
        let now = self.now;
        if let Some(since) = self.kind_mut(kind).resting.get_mut(&number) {
            *since = now;
        }
    }

    /// Frees the numbers that have rested since before `before` (ns of CLOCK_MONOTONIC) and that `keep` (kind, since when it
    /// rests) does not want kept. Returns them.
    pub(super) fn release(
        &mut self,
        before: u64,
        keep: impl Fn(SymbolKind, u64) -> bool,
    ) -> Result<Vec<(SymbolKind, u32)>, BpfError> {
        let mut released = Vec::new();
        for (kind, numbers) in KINDS.into_iter().zip(&mut self.kinds) {
            let due: Vec<u32> = numbers
                .resting
                .iter()
                .filter(|(_, since)| **since < before && !keep(kind, **since))
                .map(|(number, _)| *number)
                .collect();
            for number in due {
                let key = SymbolKey { kind: kind as u32, number };
                if let Some(digest) = self.table.get(&key)? {
                    numbers.index.remove(&digest);
                }
                self.table.delete(&key)?;
                numbers.resting.remove(&number);
                numbers.free.push(number);
                released.push((kind, number));
            }
        }
        Ok(released)
    }

    fn kind(&self, kind: SymbolKind) -> &Kind {
        &self.kinds[kind as usize - 1]
    }

    fn kind_mut(&mut self, kind: SymbolKind) -> &mut Kind {
        &mut self.kinds[kind as usize - 1]
    }
}
