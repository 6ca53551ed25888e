//! What an update did to the tables of Services.

use std::collections::BTreeMap;

use sheetbend_model::plan::{AddressHolder, Entry, EntryKey, Frontend, ServiceEntry, Step};
use sheetbend_model::types::AddrKey;

/// Rows before and after, of what was touched.
#[derive(Debug, Default)]
pub(crate) struct Delta {
    pub(super) old: BTreeMap<Frontend, ServiceEntry>,
    pub(super) new: BTreeMap<Frontend, ServiceEntry>,
    pub(super) addresses: BTreeMap<AddrKey, (Option<AddressHolder>, Option<AddressHolder>)>,
}

impl Delta {
    /// The writes of the swap phase, and the deletes. An address comes after its frontends and goes after them: a new
    /// Service refuses nobody.
    pub(crate) fn steps(&self) -> (Vec<Step>, Vec<Step>) {
        let put = self.new.iter().filter(|(frontend, entry)| self.old.get(*frontend) != Some(*entry));
        let put = put.map(|(frontend, entry)| Step::Put(Entry::Service(*frontend, entry.clone())));
        let gone = self.old.keys().filter(|frontend| !self.new.contains_key(*frontend));
        let gone = gone.map(|frontend| Step::Delete(EntryKey::Service(*frontend)));
        let moved = self.addresses.iter().filter(|(_, (old, new))| old != new);
        let put_addresses = moved.clone().filter_map(|(key, (_, new))| {
            let holder = (*new)?;
            Some(Step::Put(Entry::ServiceAddress(*key, holder)))
        });
        let gone_addresses = moved.filter(|(_, (_, new))| new.is_none());
        let gone_addresses = gone_addresses.map(|(key, _)| Step::Delete(EntryKey::ServiceAddress(*key)));
        (put.chain(put_addresses).collect(), gone.chain(gone_addresses).collect())
    }
}
