//! Clients that Services admit.
//!
//! Ranges come before the Service's value that asks for them and go after it, so that a client of the old and of the new
//! ranges is admitted throughout, and one of neither never.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sheetbend_ebpf_abi as abi;

use super::error::BpfError;
use super::kernel::{Kernel, Tables};
use super::plain::Lpm;
use super::rows;

/// Bits, client.
type Range = (u32, abi::Addr);

/// Number of a Service → the ranges that the kernel holds for it.
#[derive(Debug, Default)]
pub(super) struct Sources(BTreeMap<u32, BTreeSet<Range>>);

fn key(service: u32, (len, client): Range) -> Lpm<abi::SourceKey> {
    Lpm { len, data: abi::SourceKey { service: service.to_be_bytes(), client } }
}

impl Sources {
    pub(super) fn read_back(tables: &Tables) -> Result<Self, BpfError> {
        let mut sources = Self::default();
        tables.sources.for_each(|key, _| {
            let service = u32::from_be_bytes(key.data.service);
            sources.0.entry(service).or_default().insert((key.len, key.data.client));
        })?;
        Ok(sources)
    }
}

impl Kernel {
    /// Ranges that are not there yet come.
    pub(super) fn widen_sources(&mut self, service: u32, ranges: &[IpNet]) -> Result<(), BpfError> {
        for range in ranges {
            let row = rows::source_key(service, *range);
            let held = self.sources.0.entry(service).or_default();
            if held.insert((row.len, row.data.client))
                && let Err(error) = self.tables.sources.put(&row, &1)
            {
                held.remove(&(row.len, row.data.client));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ranges that are not among these go.
    pub(super) fn narrow_sources(&mut self, service: u32, ranges: &[IpNet]) -> Result<(), BpfError> {
        let Some(held) = self.sources.0.get_mut(&service) else { return Ok(()) };
        let wanted: BTreeSet<Range> = ranges
            .iter()
            .map(|range| rows::source_key(service, *range))
            .map(|row| (row.len, row.data.client))
            .collect();
        for range in held.difference(&wanted).copied().collect::<Vec<_>>() {
            self.tables.sources.delete(&key(service, range))?;
            held.remove(&range);
        }
        if held.is_empty() {
            self.sources.0.remove(&service);
        }
        Ok(())
    }

    /// Ranges of Services that no row names go.
    pub(super) fn retire_unnamed_sources(&mut self) -> Result<(), BpfError> {
        let mut named = BTreeSet::new();
        self.tables.services.for_each(|_, row| named.extend([row.service]))?;
        let strays: Vec<u32> =
            self.sources.0.keys().filter(|service| !named.contains(service)).copied().collect();
        strays.into_iter().try_for_each(|service| self.narrow_sources(service, &[]))
    }
}
