//! When a table of flows grows, how large it becomes, and which step follows which.

use std::collections::{BTreeMap, BTreeSet};

use sheetbend_ebpf_abi::{
    GROWS_CT, GROWS_SERVICE_FLOWS, GROWS_SNAT, WRITES_BOTH, WRITES_NEW, WRITES_OLD, names,
};

/// A table grows when so much of its room is in use, in tenths: then the rest is enough for what comes until programs
/// write to the larger one.
const GROW_AT: u64 = 7;
/// A table that is used so much, in tenths, grows with another one.
const JOIN_AT: u64 = 5;
/// A larger table has so many times the entries.
const FACTOR: u32 = 2;

/// A table that grows while it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FlowTable {
    /// Flows seen both ways.
    Ct,
    /// Flows to Services.
    ServiceFlows,
    /// Masqueraded flows.
    Snat,
}

/// Tables that grow together.
pub(crate) type FlowTables = BTreeSet<FlowTable>;

impl FlowTable {
    /// Each once.
    pub(crate) const ALL: [Self; 3] = [Self::Ct, Self::ServiceFlows, Self::Snat];

    /// Its map, whose pin has this name; while it grows that is the older one's.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ct => names::CT,
            Self::ServiceFlows => names::SERVICE_FLOWS,
            Self::Snat => names::SNAT,
        }
    }

    /// The programs' name for the older map.
    pub(crate) fn old(self) -> &'static str {
        match self {
            Self::Ct => "CT_OLD",
            Self::ServiceFlows => "SERVICE_FLOWS_OLD",
            Self::Snat => "SNAT_OLD",
        }
    }

    /// The pin of the newer map, until it takes the older one's.
    pub(crate) fn next(self) -> &'static str {
        match self {
            Self::Ct => "CT_NEXT",
            Self::ServiceFlows => "SERVICE_FLOWS_NEXT",
            Self::Snat => "SNAT_NEXT",
        }
    }

    /// What `GROWING` says of it.
    pub(crate) fn bit(self) -> u32 {
        match self {
            Self::Ct => GROWS_CT,
            Self::ServiceFlows => GROWS_SERVICE_FLOWS,
            Self::Snat => GROWS_SNAT,
        }
    }
}

/// How full a table is, and how large it may become. Entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    /// In use.
    pub(crate) used: u64,
    /// Its size; while it grows, of the newer map.
    pub(crate) size: u32,
    /// How much of its size may lie idle when old entries have to go already.
    pub(crate) idle: u32,
    /// The least that was configured.
    pub(crate) floor: u32,
    /// The most.
    pub(crate) ceiling: u32,
}

impl Fill {
    /// The size that it shall have: its own, or a larger one.
    fn wanted(&self, tenths: u64) -> u32 {
        let doubled = self.size.saturating_mul(FACTOR).min(self.ceiling);
        let room = u64::from(self.size.saturating_sub(self.idle));
        let by_use = if self.used * 10 >= room * tenths { doubled } else { self.size };
        by_use.max(self.floor).max(self.size)
    }
}

/// What there is, as an agent finds it at any moment, just started or not.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Every table.
    pub(crate) fills: BTreeMap<FlowTable, Fill>,
    /// Those with a newer map.
    pub(crate) growing: FlowTables,
    /// Those of which this agent knows that all programs in use read both maps.
    pub(crate) read_both: FlowTables,
    /// `GROWTH`.
    pub(crate) writes: u32,
    /// Whether an older map has entries left.
    pub(crate) is_left: bool,
}

/// What to do next. Between two steps every packet under way ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Rest,
    /// Make newer maps, of these sizes; new entries still go to the older ones.
    Begin(BTreeMap<FlowTable, u32>),
    /// Put programs that read both maps everywhere.
    ReadBoth,
    /// Let them write elsewhere: `WRITES_*`.
    Write(u32),
    /// Move some entries.
    Move,
    /// Put programs that know the newer maps only everywhere, and drop the older ones.
    Finish,
}

/// The next step.
pub(crate) fn next(seen: &Seen) -> Step {
    if seen.growing.is_empty() {
        let larger = |tenths| {
            let wanted = seen.fills.iter().map(move |(table, fill)| (*table, fill.wanted(tenths), fill.size));
            wanted.filter(|(_, wanted, size)| wanted > size).map(|(table, wanted, _)| (table, wanted))
        };
        return if larger(GROW_AT).next().is_none() {
            Step::Rest
        } else {
            Step::Begin(larger(JOIN_AT).collect())
        };
    }
    if seen.read_both != seen.growing {
        return Step::ReadBoth;
    }
    match seen.writes {
        WRITES_NEW if seen.is_left => Step::Move,
        WRITES_NEW => Step::Finish,
        WRITES_BOTH => Step::Write(WRITES_NEW),
        WRITES_OLD => Step::Write(WRITES_BOTH),
        // None of ours: from the start.
        _ => Step::Write(WRITES_OLD),
    }
}
