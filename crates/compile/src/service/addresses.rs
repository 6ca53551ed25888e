//! Which cluster addresses Services have.

use std::collections::{BTreeMap, BTreeSet};

use sheetbend_model::plan::AddressHolder;
use sheetbend_model::state::{Service, ServiceType, Snapshot};
use sheetbend_model::types::{AddrKey, ObjectKey};

/// Address → how many Services have it: of ours, and of those that somebody else serves.
#[derive(Debug, Default)]
pub(super) struct Addresses(BTreeMap<AddrKey, (u32, u32)>);

impl Addresses {
    /// Takes in the Services that changed, and tells who held and who holds each of their addresses.
    pub(super) fn update(
        &mut self,
        (old, next): (&Snapshot, &Snapshot),
        dirty: &BTreeSet<ObjectKey>,
    ) -> BTreeMap<AddrKey, (Option<AddressHolder>, Option<AddressHolder>)> {
        let services = |snapshot: &Snapshot| -> Vec<(AddrKey, bool)> {
            let services = dirty.iter().filter_map(|key| snapshot.services.get(key));
            services.flat_map(|service| keys(service).map(|key| (key, service.proxied_elsewhere))).collect()
        };
        let (gone, come) = (services(old), services(next));
        let keys = gone.iter().chain(&come).map(|(key, _)| *key);
        let mut touched: BTreeMap<_, _> = keys.map(|key| (key, (self.holder(&key), None))).collect();
        for (key, is_others) in come {
            let (ours, others) = self.0.entry(key).or_default();
            *(if is_others { others } else { ours }) += 1;
        }
        for (key, is_others) in gone {
            if let Some((ours, others)) = self.0.get_mut(&key) {
                let count = if is_others { others } else { ours };
                *count = count.saturating_sub(1);
            }
        }
        for key in touched.keys() {
            if self.0.get(key) == Some(&(0, 0)) {
                self.0.remove(key);
            }
        }
        for (key, (_, after)) in &mut touched {
            *after = self.holder(key);
        }
        touched
    }

    /// Who holds the address; `None` = nobody. Nothing is refused on behalf of those who serve it elsewhere.
    pub(super) fn holder(&self, key: &AddrKey) -> Option<AddressHolder> {
        let (_, others) = self.0.get(key)?;
        Some(if *others > 0 { AddressHolder::Others } else { AddressHolder::Us })
    }

    /// The addresses of `service`, which was taken in.
    pub(super) fn of(&self, service: &Service) -> impl Iterator<Item = (AddrKey, AddressHolder)> {
        keys(service).filter_map(|key| Some((key, self.holder(&key)?)))
    }
}

/// The cluster addresses of `service`. The unspecified address stands for others and is nobody's own.
fn keys(service: &Service) -> impl Iterator<Item = AddrKey> {
    let has_some = service.service_type != ServiceType::ExternalName;
    let addresses = service.cluster_ips.iter().filter(move |addr| has_some && !addr.is_unspecified());
    addresses.map(|addr| AddrKey::new(addr.to_canonical()))
}
