//! `conntrack.*`: how many flows a node follows.

use serde::Serialize;

use super::source::Sources;

/// What a table of flows may have room for.
const RANGE: std::ops::RangeInclusive<u32> = 1_024..=16_777_216;

/// `conntrack.*`. Flows, and flows to Services; of masqueraded flows half as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConntrackConfig {
    /// `conntrack.entries`: room from the start.
    pub entries: u32,
    /// `conntrack.maxEntries`: room when the tables have grown as far as they may.
    pub max_entries: u32,
}

impl Default for ConntrackConfig {
    fn default() -> Self {
        Self { entries: 262_144, max_entries: 1_048_576 }
    }
}

impl ConntrackConfig {
    pub(super) fn load(sources: &mut Sources) -> Self {
        let defaults = Self::default();
        let entries = sources.text("conntrack.entries", parse);
        let max_entries = sources.text("conntrack.maxEntries", |text| {
            let most = parse(text)?;
            let least = entries.unwrap_or(defaults.entries);
            if most < least {
                Err(format!("is {most}, less than conntrack.entries ({least}); tables do not shrink"))
            } else {
                Ok(most)
            }
        });
        let entries = entries.unwrap_or(defaults.entries);
        Self { entries, max_entries: max_entries.unwrap_or(defaults.max_entries.max(entries)) }
    }
}

fn parse(text: &str) -> Result<u32, String> {
    let entries = text.parse().ok().filter(|entries| RANGE.contains(entries));
    entries.ok_or_else(|| format!("{text:?} is no number from {} to {}", RANGE.start(), RANGE.end()))
}
