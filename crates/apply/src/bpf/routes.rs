//! Routes, and what the node is.

use sheetbend_ebpf_abi as abi;
use sheetbend_model::plan::{Overlay, Route};
use sheetbend_model::types::BlockKey;

use super::error::BpfError;
use super::kernel::Kernel;
use super::policy::ipv4_guard;
use super::rows;

/// `RouteEntry::kind` of a row that says what no row says: the world.
const ROUTE_WORLD: u32 = 0;

impl Kernel {
    /// Mode and addresses of the node shall be these. Another mode changes every route to a node.
    pub(super) fn put_overlay(&mut self, overlay: &Overlay) -> Result<(), BpfError> {
        self.config = rows::config(&self.config, overlay);
        self.mode = overlay.mode;
        self.write_config()?;
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
        self.write_route(key, rows::route(route, self.mode))?;
        self.guard_routes(key)
    }

    /// The range shall have no route of its own.
    pub(super) fn delete_route(&mut self, key: &BlockKey) -> Result<(), BpfError> {
        if self.routes.contains_key(key) {
            self.tables.routes.delete(&rows::prefix_key(key))?;
            self.routes.remove(key);
        }
        self.guard_routes(key)
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
        *key == ipv4_guard(key) && self.routes.get(key).is_some_and(|row| row.kind == ROUTE_WORLD)
    }

    fn guard_routes(&mut self, changed: &BlockKey) -> Result<(), BpfError> {
        let guard = ipv4_guard(changed);
        let inner = rows::prefix_key(&guard);
        if *changed != guard && !rows::encloses(&rows::prefix_key(changed), &inner) {
            return Ok(());
        }
        let around = self.routes.keys().any(|key| rows::encloses(&rows::prefix_key(key), &inner));
        match (around, self.is_route_guard(&guard)) {
            (true, false) if !self.routes.contains_key(&guard) => {
                let world =
                    abi::RouteEntry { kind: ROUTE_WORLD, mac: [0; 6], pad: [0; 2], via: abi::NO_ADDR };
                self.write_route(&guard, world)
            }
            (false, true) => self.delete_route(&guard),
            _ => Ok(()),
        }
    }
}
