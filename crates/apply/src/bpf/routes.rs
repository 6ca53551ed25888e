//! Routes, and what the node is.

use sheetbend_ebpf_abi as abi;
use sheetbend_model::plan::{Overlay, Route};
use sheetbend_model::types::BlockKey;

use super::error::BpfError;
use super::kernel::Kernel;
use super::policy::{ipv4_guard, surrounds};
use super::rows;

/// A row that says what no row says: the world.
const WORLD: abi::RouteEntry = abi::RouteEntry { kind: 0, mac: [0; 6], flags: 0, via: abi::NO_ADDR };

impl Kernel {
    /// Mode and addresses of the node shall be these. Another mode changes every route to a node.
    pub(super) fn put_overlay(&mut self, overlay: &Overlay) -> Result<(), BpfError> {
        self.config = rows::config(&self.config, overlay);
        self.mode = overlay.mode;
        self.write_config()?;
        let range = rows::pod_range(overlay);
        if self.tables.pod_range.get(&0)? != Some(range) {
            self.tables.pod_range.put(&0, &range)?;
        }
        let mode = self.mode;
        let changed: Vec<(BlockKey, abi::RouteEntry)> = self
            .routes
            .iter()
            .map(|(key, entry)| (*key, abi::RouteEntry { mac: rows::route_mac(entry, mode), ..*entry }))
            .collect();
        changed.into_iter().try_for_each(|(key, entry)| self.write_route(&key, entry))
    }

    /// The range shall be there.
    pub(super) fn put_route(&mut self, key: &BlockKey, route: &Route) -> Result<(), BpfError> {
        let guard = ipv4_guard(key);
        if surrounds(key, &guard) && !self.routes.contains_key(&guard) {
            self.write_route(&guard, WORLD)?;
        }
        self.write_route(key, rows::route(route, self.mode))
    }

    /// The range shall have no route of its own.
    pub(super) fn delete_route(&mut self, key: &BlockKey) -> Result<(), BpfError> {
        let guard = ipv4_guard(key);
        if *key == guard && self.routes.keys().any(|range| surrounds(range, &guard)) {
            return self.write_route(&guard, WORLD);
        }
        if self.routes.contains_key(key) {
            self.tables.routes.delete(&rows::prefix_key(key))?;
            self.routes.remove(key);
        }
        let is_last = surrounds(key, &guard) && !self.routes.keys().any(|range| surrounds(range, &guard));
        if is_last && self.is_route_guard(&guard) { self.delete_route(&guard) } else { Ok(()) }
    }

    fn write_route(&mut self, key: &BlockKey, entry: abi::RouteEntry) -> Result<(), BpfError> {
        if self.routes.get(key) == Some(&entry) {
            return Ok(());
        }
        self.tables.routes.put(&rows::prefix_key(key), &entry)?;
        self.routes.insert(*key, entry);
        Ok(())
    }

    /// Whether `key` is the row that keeps a short IPv6 range from matching IPv4 addresses.
    pub(super) fn is_route_guard(&self, key: &BlockKey) -> bool {
        *key == ipv4_guard(key) && self.routes.get(key).is_some_and(|row| *row == WORLD)
    }
}
