//! Addresses of Services: what tells one that a Service has from one that none has.

use sheetbend_model::plan::{AddressHolder, Wanted};
use sheetbend_model::types::AddrKey;

use super::error::BpfError;
use super::kernel::Kernel;
use super::rows;

impl Kernel {
    /// The address shall be held so.
    pub(super) fn put_service_address(
        &mut self,
        key: &AddrKey,
        holder: AddressHolder,
    ) -> Result<(), BpfError> {
        let (row, value) = (rows::class_key(key), rows::address_holder(holder));
        if self.tables.service_addresses.get(&row)? == Some(value) {
            return Ok(());
        }
        self.tables.service_addresses.put(&row, &value)
    }

    /// No Service shall have the address.
    pub(super) fn delete_service_address(&mut self, key: &AddrKey) -> Result<(), BpfError> {
        self.tables.service_addresses.delete(&rows::class_key(key)).map(drop)
    }

    /// Addresses that `want` does not have go.
    pub(super) fn remove_unwanted_service_addresses(&mut self, want: &dyn Wanted) -> Result<(), BpfError> {
        let mut unwanted = Vec::new();
        self.tables.service_addresses.for_each(|key, _| {
            let key = rows::class_key_back(&key);
            if !want.has_service_address(&key) {
                unwanted.push(key);
            }
        })?;
        unwanted.iter().try_for_each(|key| self.delete_service_address(key))
    }
}
