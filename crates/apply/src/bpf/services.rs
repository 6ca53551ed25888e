//! Services, their slots and backends.
//!
//! A Service's backends lie in a row of slots. Another list is written to another range, then the Service's one value
//! points there, and the old range goes after [`GRACE`]: a packet under way may still read it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sheetbend_ebpf_abi as abi;
use sheetbend_ebpf_abi::SymbolKind;
use sheetbend_model::plan::{Backend, Frontend, ServiceEntry};

use super::error::BpfError;
use super::kernel::{Kernel, Tables};
use super::numbers::Numbers;
use super::rows;
use super::slots::SlotRanges;
use super::symbols;

/// How long what no row names any more is kept for packets under way, ns. Programs run for microseconds; a CPU may be
/// taken from us for longer.
const GRACE: u64 = 200_000_000;

/// Something that no row names any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retired {
    /// A range of slots.
    Slots { first: u32, count: u32 },
    /// A backend; it stays if something names it again.
    Backend(u32),
}

/// What we remember of Services beyond the kernel's tables.
#[derive(Debug, Default)]
pub(super) struct Services {
    ranges: SlotRanges,
    /// Backend number → in how many slots it is.
    in_slots: Vec<u32>,
    /// Frontend → its draining backends; only where there are any.
    draining: BTreeMap<Frontend, Vec<u32>>,
    /// Oldest first, with the time it goes, ns of CLOCK_MONOTONIC.
    pub(super) retiring: VecDeque<(u64, Retired)>,
    /// Backends that no row names any more, since [`Kernel::sockets_left`] was asked.
    left: Vec<u32>,
    /// Whether rows are compared with the kernel's even where we know them.
    pub(super) checking: bool,
}

/// A Service's wanted backends in numbers.
struct Numbered {
    service: u32,
    /// Of the backends that new flows choose among.
    active: Vec<u32>,
    /// Rows of `SLOTS`.
    slots: Vec<u32>,
    draining: Vec<u32>,
}

impl Services {
    /// Reads which slots are in use, and lets the rows hold their numbers.
    pub(super) fn read_back(tables: &Tables, numbers: &mut Numbers) -> Result<Self, BpfError> {
        let mut services = Self::default();
        let mut used = Vec::new();
        tables.services.for_each(|_, entry| {
            numbers.hold(SymbolKind::Service, entry.service);
            if entry.count > 0 {
                used.push((entry.first_slot, entry.count));
            }
        })?;
        used.sort_unstable();
        let mut stray = Vec::new();
        tables.slots.for_each(|slot, row| {
            let (backend, _) = rows::slot_back(row);
            let range = used[..used.partition_point(|(first, _)| *first <= slot)].last();
            if range.is_some_and(|(first, count)| slot - first < *count) {
                numbers.hold(SymbolKind::Backend, backend);
                services.count(backend, true);
            } else {
                stray.push(slot);
            }
        })?;
        for slot in stray {
            tables.slots.delete(&slot)?;
        }
        services.ranges = SlotRanges::with_used(used);
        Ok(services)
    }

    /// One slot more or less names `backend`; returns whether it came into its first or left its last.
    fn count(&mut self, backend: u32, more: bool) -> bool {
        let at = backend as usize;
        if self.in_slots.len() <= at {
            self.in_slots.resize(at + 1, 0);
        }
        if more {
            self.in_slots[at] += 1;
            self.in_slots[at] == 1
        } else {
            self.in_slots[at] = self.in_slots[at].saturating_sub(1);
            self.in_slots[at] == 0
        }
    }

    pub(super) fn is_in_slots(&self, backend: u32) -> bool {
        self.in_slots.get(backend as usize).is_some_and(|count| *count > 0)
    }
}

impl Kernel {
    /// The frontend shall be this Service.
    pub(super) fn put_service(&mut self, frontend: &Frontend, entry: &ServiceEntry) -> Result<(), BpfError> {
        let key = rows::service_key(frontend);
        let old = self.tables.services.get(&key)?;
        let old_slots = self.read_slots(old.as_ref())?;
        let wanted = self.number_backends(frontend, entry)?;
        let kept = old.filter(|_| wanted.slots == old_slots);
        let first = match kept {
            Some(old) => old.first_slot,
            None => self.write_slots(&wanted)?,
        };
        let value = rows::service(entry, wanted.service, first, wanted.slots.len());
        let ranges = entry.sources.as_deref().unwrap_or_default();
        let written = self
            .widen_sources(wanted.service, ranges)
            .and_then(|()| if old == Some(value) { Ok(()) } else { self.tables.services.put(&key, &value) });
        if let Err(error) = written {
            if kept.is_none() {
                self.forget_slots(first, wanted.slots.len() as u32);
            }
            self.retire_unheld(&wanted);
            return Err(error);
        }
        self.numbers.hold(SymbolKind::Service, wanted.service);
        self.narrow_sources(wanted.service, ranges)?;
        self.change_over(frontend, old.as_ref(), &old_slots, wanted, kept.is_none())
    }

    /// The frontend shall be no Service.
    pub(super) fn delete_service(&mut self, frontend: &Frontend) -> Result<(), BpfError> {
        let key = rows::service_key(frontend);
        let Some(old) = self.tables.services.get(&key)? else { return Ok(()) };
        let old_slots = self.read_slots(Some(&old))?;
        self.tables.services.delete(&key)?;
        self.narrow_sources(old.service, &[])?;
        let nothing = Numbered { service: 0, active: Vec::new(), slots: Vec::new(), draining: Vec::new() };
        self.change_over(frontend, Some(&old), &old_slots, nothing, true)
    }

    fn read_slots(&self, entry: Option<&abi::ServiceEntry>) -> Result<Vec<u32>, BpfError> {
        let Some(entry) = entry else { return Ok(Vec::new()) };
        let range = entry.first_slot..entry.first_slot.saturating_add(entry.count);
        range.map(|slot| Ok(self.tables.slots.get(&slot)?.unwrap_or(0))).collect()
    }

    /// Gives the Service and its backends their numbers, and the backends their rows.
    fn number_backends(&mut self, frontend: &Frontend, entry: &ServiceEntry) -> Result<Numbered, BpfError> {
        let service = self.numbers.number(SymbolKind::Service, symbols::service(frontend, entry))?;
        let mut wanted = Numbered {
            service,
            active: Vec::with_capacity(entry.backends.len()),
            slots: Vec::new(),
            draining: Vec::with_capacity(entry.draining.len()),
        };
        let result = entry.backends.iter().try_for_each(|backend| {
            let number = self.put_backend(backend, 0)?;
            wanted.active.push(number);
            Ok(())
        });
        let result = result.and_then(|()| {
            entry.draining.iter().try_for_each(|backend| {
                let number = self.put_backend(backend, abi::BACKEND_DRAINING)?;
                wanted.draining.push(number);
                Ok(())
            })
        });
        match result {
            Ok(()) => {
                let slots = entry.slots().into_iter();
                wanted.slots =
                    slots.map(|slot| rows::slot(slot, wanted.active[slot.backend as usize])).collect();
                Ok(wanted)
            }
            Err(error) => {
                self.retire_unheld(&wanted);
                Err(error)
            }
        }
    }

    /// Its row is there; `flags` are those of a new one.
    fn put_backend(&mut self, backend: &Backend, flags: u8) -> Result<u32, BpfError> {
        let (number, is_new) = self.numbers.number_or_new(SymbolKind::Backend, symbols::backend(backend))?;
        if !is_new && !self.services.checking && self.numbers.is_held(SymbolKind::Backend, number) {
            return Ok(number);
        }
        let row = rows::backend(backend);
        let old = if is_new { None } else { self.tables.backends.get(&number)? };
        let flags = if self.services.is_in_slots(number) { 0 } else { flags };
        // Flags of a backend that is in use change after the swap.
        let flags_matter = !self.numbers.is_held(SymbolKind::Backend, number);
        let is_right = old.is_some_and(|old| {
            abi::BackendEntry { flags: 0, ..old } == row && (old.flags == flags || !flags_matter)
        });
        if !is_right {
            self.tables.backends.put(&number, &abi::BackendEntry { flags, ..row })?;
        }
        Ok(number)
    }

    fn write_slots(&mut self, wanted: &Numbered) -> Result<u32, BpfError> {
        let count = wanted.slots.len() as u32;
        let first = self.services.ranges.take(count);
        for (slot, row) in (first..).zip(&wanted.slots) {
            if let Err(error) = self.tables.slots.put(&slot, row) {
                self.forget_slots(first, count);
                self.retire_unheld(wanted);
                return Err(error);
            }
        }
        Ok(first)
    }

    /// Undoes [`Self::write_slots`] before anything named the range.
    fn forget_slots(&mut self, first: u32, count: u32) {
        self.services.retiring.push_back((self.numbers.now, Retired::Slots { first, count }));
    }

    fn retire_unheld(&mut self, wanted: &Numbered) {
        for number in wanted.active.iter().chain(&wanted.draining) {
            if !self.numbers.is_held(SymbolKind::Backend, *number) {
                self.services.retiring.push_back((self.numbers.now, Retired::Backend(*number)));
            }
        }
    }

    /// The Service's value is written: who holds what changes, and the old is to go.
    fn change_over(
        &mut self,
        frontend: &Frontend,
        old: Option<&abi::ServiceEntry>,
        old_slots: &[u32],
        wanted: Numbered,
        is_moved: bool,
    ) -> Result<(), BpfError> {
        let old_draining = match wanted.draining.is_empty() {
            true => self.services.draining.remove(frontend),
            false => self.services.draining.insert(*frontend, wanted.draining.clone()),
        };
        let old_draining = old_draining.unwrap_or_default();
        let in_slots = |rows: &[u32]| rows.iter().map(|row| rows::slot_back(*row).0).collect::<Vec<u32>>();
        let (new_slots, mut old_backends) = (in_slots(&wanted.slots), in_slots(old_slots));
        let mut crossed: Vec<u32> = wanted.draining.clone();
        for number in new_slots.iter().chain(&wanted.draining) {
            self.numbers.hold(SymbolKind::Backend, *number);
        }
        crossed.extend(new_slots.iter().filter(|number| self.services.count(**number, true)));
        crossed.extend(old_backends.iter().filter(|number| self.services.count(**number, false)));
        for number in old_backends.iter().chain(&old_draining) {
            self.numbers.let_go(SymbolKind::Backend, *number);
        }
        // One backend is in many slots.
        old_backends.sort_unstable();
        old_backends.dedup();
        if let Some(old) = old {
            self.numbers.let_go(SymbolKind::Service, old.service);
        }
        let due = self.numbers.now + GRACE;
        for number in old_backends.iter().chain(&old_draining) {
            if *number != 0 && !self.numbers.is_held(SymbolKind::Backend, *number) {
                self.services.left.push(*number);
                self.services.retiring.push_back((due, Retired::Backend(*number)));
            }
        }
        if let Some(old) = old.filter(|old| is_moved && old.count > 0) {
            let range = Retired::Slots { first: old.first_slot, count: old.count };
            self.services.retiring.push_back((due, range));
        }
        crossed.into_iter().try_for_each(|number| self.flag_backend(number))
    }

    /// A backend that is held but in no slot is draining.
    fn flag_backend(&mut self, number: u32) -> Result<(), BpfError> {
        if !self.numbers.is_held(SymbolKind::Backend, number) {
            return Ok(());
        }
        let flags = if self.services.is_in_slots(number) { 0 } else { abi::BACKEND_DRAINING };
        match self.tables.backends.get(&number)? {
            Some(row) if row.flags != flags => {
                self.tables.backends.put(&number, &abi::BackendEntry { flags, ..row })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Removes what has been out of use for [`GRACE`].
    pub(super) fn retire_due(&mut self) -> Result<(), BpfError> {
        while let Some((due, retired)) = self.services.retiring.front().copied() {
            if due > self.numbers.now {
                break;
            }
            match retired {
                Retired::Slots { first, count } => {
                    for slot in first..first + count {
                        self.tables.slots.delete(&slot)?;
                    }
                    self.services.ranges.give_back(first, count);
                }
                Retired::Backend(number) if !self.numbers.is_held(SymbolKind::Backend, number) => {
                    self.tables.backends.delete(&number)?;
                    self.numbers.rest_anew(SymbolKind::Backend, number);
                }
                Retired::Backend(_) => {}
            }
            self.services.retiring.pop_front();
        }
        Ok(())
    }

    /// Cookies of UDP sockets that processes have connected through a Service to a backend which has gone since the last
    /// call: no packet of theirs passes a program that could send it elsewhere.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn sockets_left(&mut self) -> Result<BTreeSet<u64>, BpfError> {
        let mut left = BTreeSet::new();
        for number in std::mem::take(&mut self.services.left) {
            // Its row stays for a grace period.
            let row = self.tables.backends.get(&number)?;
            let is_udp = row.is_some_and(|row| i32::from(row.protocol) == libc::IPPROTO_UDP);
            if is_udp && !self.numbers.is_held(SymbolKind::Backend, number) {
                left.insert(number);
            }
        }
        let mut cookies = BTreeSet::new();
        if !left.is_empty() {
            self.flows.sockets.for_each(|key, value| {
                if key.kind == abi::SOCKET_BACKEND && left.contains(&value.backend) {
                    cookies.insert(key.cookie);
                }
            })?;
        }
        Ok(cookies)
    }

    /// Rows of backends that nothing names go, once everything wanted has been put.
    pub(super) fn retire_unnamed_backends(&mut self) -> Result<(), BpfError> {
        let due = self.numbers.now + GRACE;
        let numbers = &self.numbers;
        let retiring = &mut self.services.retiring;
        self.tables.backends.for_each(|number, _| {
            let queued = || retiring.iter().any(|(_, retired)| *retired == Retired::Backend(number));
            if !numbers.is_held(SymbolKind::Backend, number) && !queued() {
                retiring.push_back((due, Retired::Backend(number)));
            }
        })
    }
}
