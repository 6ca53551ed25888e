//! Numbers back to names, for events.

use std::collections::BTreeMap;

use sheetbend_model::plan::{Class, Origin, PolicySet};

/// What the numbers in events mean. Shared, and cheap to keep: the symbols are those of the Dataplane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Origin number → which rule of which policy.
    pub origins: BTreeMap<u32, Origin>,
    /// Policy set number → its policies.
    pub sets: BTreeMap<u32, PolicySet>,
    /// Class number → what its addresses match.
    pub classes: BTreeMap<u32, Class>,
}
