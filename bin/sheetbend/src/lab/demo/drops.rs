//! The latest drops, each with the policy and rule that decided it.

use std::collections::BTreeSet;
use std::io::Write;

use sheetbend_model::events::{EventEnd, PacketEvent};

use crate::lab::status::table;

/// How many rows.
const SHOWN: usize = 12;

/// Shows the latest drops; of those that the same policy decided for the same pod, the last.
pub(super) fn show(drops: &[PacketEvent]) -> std::io::Result<()> {
    let mut seen = BTreeSet::new();
    let mut rows =
        table(&["FROM", "TO", "PROTOCOL", "NODE", "REASON", "DECIDED BY", "DIRECTION", "RULE"], None);
    let latest = drops.iter().rev().filter(|drop| {
        let policy = drop.decided_by.as_ref().map(|by| (by.policy.clone(), by.direction));
        seen.insert((drop.reason.clone(), policy, drop.source.address.is_ipv4()))
    });
    for drop in latest.take(SHOWN) {
        let decided = drop.decided_by.as_ref();
        let rule = decided.map(|by| by.rule.map_or("default deny".to_owned(), |rule| rule.to_string()));
        rows.add_row([
            end(&drop.source),
            end(&drop.destination),
            drop.protocol.to_string(),
            drop.node.to_string(),
            drop.reason.to_string(),
            decided.map(|by| by.policy.to_string()).unwrap_or_default(),
            decided.map(|by| by.direction.to_string()).unwrap_or_default(),
            rule.unwrap_or_default(),
        ]);
    }
    writeln!(std::io::stdout().lock(), "{rows}")
}

fn end(end: &EventEnd) -> String {
    let name = end.name.as_deref().map_or_else(|| end.address.to_string(), ToOwned::to_owned);
    if end.address.is_ipv6() && end.name.is_none() {
        format!("[{name}]:{}", end.port)
    } else {
        format!("{name}:{}", end.port)
    }
}
