//! Records of the ring buffer.

use std::sync::Arc;

use sheetbend_model::plan::{Origin, PolicySet};
use sheetbend_model::types::AddrKey;
use sheetbend_observe::{Lookup, decode, parse};

struct Nobody;

impl Lookup for Nobody {
    fn origin(&self, _: u32) -> Option<Origin> {
        None
    }

    fn set(&self, number: u32) -> Option<PolicySet> {
        number.is_multiple_of(2).then(PolicySet::default)
    }

    fn name(&self, _: AddrKey) -> Option<Arc<str>> {
        None
    }
}

/// A record of a newer or older program still becomes an event that can be sent.
pub(crate) fn packet(input: &[u8]) {
    let Some(event) = parse(input) else { return };
    let event = decode(&event, &"node-a".into(), &Nobody);
    serde_json::to_string(&event).unwrap_or_else(|error| panic!("{event:?}: {error}"));
}
