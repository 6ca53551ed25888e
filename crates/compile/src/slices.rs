//! Which EndpointSlices belong to which Service.

use std::collections::HashMap;
use std::sync::Arc;

use sheetbend_model::state::{EndpointSlice, Snapshot};
use sheetbend_model::types::ObjectKey;

use crate::changes::Changes;

/// Service → the names of its slices, sorted.
#[derive(Debug, Default)]
pub(crate) struct Slices(HashMap<ObjectKey, Vec<Arc<str>>>);

impl Slices {
    /// Takes in the slices that changed.
    pub(crate) fn update(&mut self, changes: &Changes<'_>) {
        for change in &changes.endpoint_slices {
            if let Some(service) = change.old.and_then(|slice| service_of(slice))
                && let Some(names) = self.0.get_mut(&service)
            {
                names.retain(|name| *name != change.key.name);
                if names.is_empty() {
                    self.0.remove(&service);
                }
            }
            if let Some(service) = change.new.and_then(|slice| service_of(slice)) {
                let names = self.0.entry(service).or_default();
                if let Err(index) = names.binary_search(&change.key.name) {
                    names.insert(index, change.key.name.clone());
                }
            }
        }
    }

    /// The slices of the Service `key` that `snapshot` has, by name.
    pub(crate) fn of<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        key: &'a ObjectKey,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        let names = self.0.get(key).map_or(&[][..], Vec::as_slice);
        names.iter().filter_map(|name| {
            let key = ObjectKey { namespace: key.namespace.clone(), name: name.clone() };
            snapshot.endpoint_slices.get(&key).map(AsRef::as_ref)
        })
    }
}

/// The Service that a slice is of, if it names one.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.service.clone()?;
    Some(ObjectKey { namespace: slice.key.namespace.clone(), name })
}
