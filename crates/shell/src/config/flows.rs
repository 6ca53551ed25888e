//! `flows.*`: what a node remembers of its flows.

use serde::Serialize;

use super::source::Sources;

/// The most records.
const MOST: u32 = 10_000_000;

/// `flows.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowsConfig {
    /// `flows.ring`: records, 64 bytes each; 0 = none.
    pub ring: u32,
}

impl Default for FlowsConfig {
    fn default() -> Self {
        Self { ring: 100_000 }
    }
}

impl FlowsConfig {
    pub(super) fn load(sources: &mut Sources) -> Self {
        let ring = sources.text("flows.ring", |text| {
            let records = text.parse().ok().filter(|records| *records <= MOST);
            records.ok_or_else(|| format!("{text:?} is no number from 0 to {MOST}"))
        });
        Self { ring: ring.unwrap_or(Self::default().ring) }
    }
}
