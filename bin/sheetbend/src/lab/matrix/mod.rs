//! `sheetbend lab matrix`.

use sheetbend_model::state::Snapshot;
use sheetbend_model::types::Protocol;

/// Every (protocol, port) that some pod, policy or Service names.
pub(crate) fn named_ports(_snapshot: &Snapshot) -> Vec<(Protocol, u16)> {
    Vec::new()
}
