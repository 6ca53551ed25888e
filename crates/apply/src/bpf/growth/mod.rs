//! Tables of flows that grow while packets use them, with no loss.
//!
//! ```text
//! v<LAYOUT_VERSION>/CT        the table; while it grows the older map, which the programs then call CT_OLD
//! v<LAYOUT_VERSION>/CT_NEXT   only while it grows: the newer map, which the programs then call CT
//! v<LAYOUT_VERSION>/GROWTH    which of the two programs write to
//! ```
//! 1. The newer map is made, and programs that read both are put everywhere. Some hooks still run programs that know the
//!    older one only, so new entries go there.
//! 2. New entries go to the newer map (for SNAT by way of a step in which a port is taken in both).
//! 3. Entries move (`drain`).
//! 4. Programs that know the newer map only are put everywhere; it takes the older one's name, in one rename.
//!
//! The pins and `GROWTH` tell an agent that starts where the last one ended; `decide` says how to go on.

mod decide;
mod drain;
#[cfg(test)]
mod model;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sheetbend_ebpf_abi::WRITES_OLD;

use super::error::BpfError;
use super::kernel::Kernel;
use super::loader::{self, Pins, Version};
use super::object::PINNED;
use super::plain::Plain;
use super::sys;
use super::table::Table;
use crate::store::fail_point;
use decide::{Fill, Seen, Step};
pub(super) use decide::{FlowTable, FlowTables};

/// Entries of an LRU table that each CPU sets aside, and that are freed at once (`LOCAL_FREE_TARGET` of the kernel's
/// `bpf_lru_list.c`).
const LRU_TARGET: u32 = 128;

/// How full a table of flows is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowTableState {
    /// The map.
    pub table: &'static str,
    /// About how many entries it has.
    pub used: u64,
    /// How many it has room for.
    pub size: u32,
    /// How many it may have room for.
    pub ceiling: u32,
    /// Whether its entries move to a larger map now.
    pub growing: bool,
}

/// What a call of [`Kernel::grow`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Nothing: the tables are large enough.
    Rest,
    /// A step: call again soon.
    Step,
    /// The same, and other programs run now: [`Kernel::pod_programs`] has changed.
    Replaced,
}

/// Which maps a set of programs uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Maps {
    /// Tables whose newer map is the programs' table.
    pub(super) newer: FlowTables,
    /// Whether the programs read the older ones too.
    pub(super) reads_both: bool,
}

impl Maps {
    /// Those that programs use by what is pinned.
    pub(super) fn pinned(pins: &Pins) -> Self {
        let newer = FlowTable::ALL.into_iter().filter(|table| pins.map(table.next()).exists()).collect();
        Self { newer, reads_both: true }
    }

    /// What the loader writes to `GROWING`.
    pub(super) fn growing(&self) -> u32 {
        if self.reads_both { self.newer.iter().map(|table| table.bit()).sum() } else { 0 }
    }

    /// The programs' name of a map → its pin.
    pub(super) fn places(&self, pins: &Pins) -> BTreeMap<&'static str, PathBuf> {
        let mut places: BTreeMap<_, _> = PINNED.iter().map(|(name, _)| (*name, pins.map(name))).collect();
        for table in &self.newer {
            places.insert(table.name(), pins.map(table.next()));
            if self.reads_both {
                places.insert(table.old(), pins.map(table.name()));
            }
        }
        places
    }
}

/// What of growth is not in the pins.
#[derive(Debug, Default)]
pub(super) struct GrowthState {
    /// What programs in use read beside their tables.
    pub(super) read_both: FlowTables,
    /// As of the last call.
    pub(super) tables: Vec<FlowTableState>,
}

impl Kernel {
    /// Looks how full the tables of flows are, and takes at most one step of growth. Only after the first
    /// [`Kernel::sync`].
    ///
    /// # Errors
    /// When the kernel has no memory for a larger table, or refuses otherwise. Nothing is lost; call again later.
    pub fn grow(&mut self) -> Result<Growth, BpfError> {
        if !self.live {
            return Ok(Growth::Rest);
        }
        let seen = self.seen_growth()?;
        let step = decide::next(&seen);
        let done = match step {
            Step::Rest => {
                self.note_tables(seen.fills, &seen.growing);
                return Ok(Growth::Rest);
            }
            Step::Begin(sizes) => self.begin_growth(&sizes),
            Step::ReadBoth => self.read_both(),
            Step::Write(writes) => self.write_growth(writes).map(|()| Growth::Step),
            Step::Move => self.move_flows().map(|()| Growth::Step),
            Step::Finish => self.finish_growth(),
        };
        self.note_tables(self.fills()?, &Maps::pinned(&self.pins).newer);
        done
    }

    /// The tables of flows, as the last [`Kernel::grow`] saw them.
    pub fn flow_tables(&self) -> &[FlowTableState] {
        &self.growth.tables
    }

    fn seen_growth(&self) -> Result<Seen, BpfError> {
        let growing = Maps::pinned(&self.pins).newer;
        Ok(Seen {
            fills: if growing.is_empty() { self.fills()? } else { BTreeMap::new() },
            growing,
            read_both: self.growth.read_both.clone(),
            writes: self.tables.growth.get(&0)?.unwrap_or(WRITES_OLD),
            is_left: self.has_old()?,
        })
    }

    /// Whether an older map has entries. Looks through its buckets until one has.
    fn has_old(&self) -> Result<bool, BpfError> {
        Ok(!self.flows.ct.some_old(1)?.is_empty()
            || !self.flows.service_flows.some_old(1)?.is_empty()
            || !self.flows.snat.some_old(1)?.is_empty())
    }

    fn fills(&self) -> Result<BTreeMap<FlowTable, Fill>, BpfError> {
        let cpus =
            aya::util::nr_cpus().map_err(|(path, source)| loader::pin_error(Path::new(path), source))?;
        let idle = LRU_TARGET * (cpus as u32 + 1);
        let fill = |table: FlowTable| {
            let (used, size) = match table {
                FlowTable::Ct => measure(&self.flows.ct)?,
                FlowTable::ServiceFlows => measure(&self.flows.service_flows)?,
                FlowTable::Snat => measure(&self.flows.snat)?,
            };
            let floor = self.object.maps[table.name()].max_entries;
            let ceiling = self.ceilings.get(table.name()).copied().unwrap_or(floor);
            Ok((table, Fill { used, size, idle, floor, ceiling }))
        };
        FlowTable::ALL.into_iter().map(fill).collect()
    }

    fn note_tables(&mut self, fills: BTreeMap<FlowTable, Fill>, growing: &FlowTables) {
        let tables = fills.into_iter().map(|(table, fill)| FlowTableState {
            table: table.name(),
            used: fill.used,
            size: fill.size,
            ceiling: fill.ceiling.max(fill.size),
            growing: growing.contains(&table),
        });
        self.growth.tables = tables.collect();
    }

    fn begin_growth(&mut self, sizes: &BTreeMap<FlowTable, u32>) -> Result<Growth, BpfError> {
        // Before there is a newer map that anybody could write to.
        self.write_growth(WRITES_OLD)?;
        let maps = Maps { newer: sizes.keys().copied().collect(), reads_both: true };
        let sizes = sizes.iter().map(|(table, size)| (table.name().to_owned(), *size)).collect();
        let version = match self.load(&maps, &sizes) {
            Ok(version) => version,
            Err(error) => {
                self.give_up(&maps);
                return Err(error);
            }
        };
        fail_point("growth-begin");
        self.use_both(&maps, version)
    }

    /// Nobody knows of the newer maps yet: they go.
    fn give_up(&self, maps: &Maps) {
        for table in &maps.newer {
            // What stays is found at the next start, which goes on.
            let _ = fs::remove_file(self.pins.map(table.next()));
        }
        let _ = self.version.remove_others(&self.pins);
    }

    /// What [`Kernel::begin_growth`] could not do.
    fn read_both(&mut self) -> Result<Growth, BpfError> {
        let maps = Maps::pinned(&self.pins);
        let version = self.load(&maps, &BTreeMap::new())?;
        self.use_both(&maps, version)
    }

    fn use_both(&mut self, maps: &Maps, version: Version) -> Result<Growth, BpfError> {
        self.open_newer(maps)?;
        version.go_live(&self.pins)?;
        self.moves.renew(&version)?;
        sys::wait_for_programs();
        version.remove_others(&self.pins)?;
        self.version = version;
        self.note_read_both(maps);
        fail_point("growth-read-both");
        Ok(Growth::Replaced)
    }

    /// Every program in use is of these maps.
    pub(super) fn note_read_both(&mut self, maps: &Maps) {
        self.growth.read_both = maps.newer.clone();
    }

    fn load(&self, maps: &Maps, sizes: &BTreeMap<String, u32>) -> Result<Version, BpfError> {
        let mut limits = self.limits.clone();
        limits.extend(sizes.clone());
        loader::programs(&self.pins, &self.object, &limits, maps)
    }

    /// Lets this process read and write both maps.
    pub(super) fn open_newer(&mut self, maps: &Maps) -> Result<(), BpfError> {
        for table in &maps.newer {
            let path = self.pins.map(table.next());
            match table {
                FlowTable::Ct => open_newer(&mut self.flows.ct, &path)?,
                FlowTable::ServiceFlows => open_newer(&mut self.flows.service_flows, &path)?,
                FlowTable::Snat => open_newer(&mut self.flows.snat, &path)?,
            }
        }
        Ok(())
    }

    fn write_growth(&mut self, writes: u32) -> Result<(), BpfError> {
        self.tables.growth.put(&0, &writes)?;
        sys::wait_for_programs();
        fail_point(match writes {
            WRITES_OLD => "growth-writes-old",
            sheetbend_ebpf_abi::WRITES_BOTH => "growth-writes-both",
            _ => "growth-writes-new",
        });
        Ok(())
    }

    fn move_flows(&mut self) -> Result<(), BpfError> {
        drain::drain(&self.flows.ct)?;
        drain::drain(&self.flows.service_flows)?;
        drain::drain(&self.flows.snat)?;
        fail_point("growth-move");
        Ok(())
    }

    fn finish_growth(&mut self) -> Result<Growth, BpfError> {
        let maps = Maps { reads_both: false, ..Maps::pinned(&self.pins) };
        let version = self.load(&maps, &BTreeMap::new())?;
        fail_point("growth-finish");
        version.go_live(&self.pins)?;
        self.moves.renew(&version)?;
        sys::wait_for_programs();
        for table in &maps.newer {
            let (from, to) = (self.pins.map(table.next()), self.pins.map(table.name()));
            fs::rename(&from, &to).map_err(|source| loader::pin_error(&from, source))?;
            fail_point("growth-renamed");
        }
        version.remove_others(&self.pins)?;
        self.version = version;
        self.flows.ct.forget_old();
        self.flows.service_flows.forget_old();
        self.flows.snat.forget_old();
        self.growth.read_both.clear();
        Ok(Growth::Replaced)
    }
}

fn open_newer<K: Plain, V: Plain>(table: &mut Table<K, V>, path: &Path) -> Result<(), BpfError> {
    if table.is_growing() {
        return Ok(());
    }
    let size = loader::read_layout(table.name(), path)?.max_entries;
    let fd = sys::open_pin(path).map_err(|source| loader::pin_error(path, source))?;
    table.grow(fd, size);
    Ok(())
}

fn measure<K: Plain, V: Plain>(table: &Table<K, V>) -> Result<(u64, u32), BpfError> {
    Ok((table.estimate()?, table.limit()))
}
