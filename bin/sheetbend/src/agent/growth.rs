//! Room for more flows: the core's part of it, and what `status` says of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sheetbend_apply::bpf::{FlowTableState, Growth};
use tokio::time::Instant;
use tracing::{info, warn};

use super::core::Core;

/// Between two looks at how full the tables are.
const LOOK: Duration = Duration::from_secs(1);
/// Between two steps of growth: others want the core too.
const STEP: Duration = Duration::from_millis(5);
/// After a step that failed.
const RETRY: Duration = Duration::from_secs(30);
/// From so many tenths of its ceiling on a table is called full.
const FULL: u64 = 9;

/// When to look next, and what has been said.
#[derive(Debug)]
pub(super) struct Growing {
    at: Instant,
    /// Table → its size when last seen, and whether it was full.
    said: BTreeMap<&'static str, (u32, bool)>,
}

impl Default for Growing {
    fn default() -> Self {
        Self { at: Instant::now() + LOOK, said: BTreeMap::new() }
    }
}

impl Growing {
    /// Ends when the tables shall be looked at.
    pub(super) fn next(&self) -> impl Future<Output = ()> + use<> {
        tokio::time::sleep_until(self.at)
    }

    /// Says what has changed.
    fn say(&mut self, tables: &[FlowTableState]) {
        for state in tables {
            let FlowTableState { table, used, size, ceiling, growing } = state;
            let is_full = is_full(state);
            let (before, was_full) = self.said.insert(table, (*size, is_full)).unwrap_or((*size, false));
            if *growing && *size > before {
                info!("table {table} holds about {used} flows and grows from {before} to {size}");
            }
            if is_full && !was_full {
                warn!(
                    "table {table} holds about {used} flows of at most {ceiling}; beyond that each new flow takes the \
                     place of the one that was silent longest; raise conntrack.maxEntries"
                );
            }
        }
    }
}

/// Whether it cannot grow, and soon each new flow takes the place of another.
fn is_full(state: &FlowTableState) -> bool {
    state.used * 10 >= u64::from(state.ceiling) * FULL
}

impl Core {
    /// Looks how full the tables of flows are, and takes a step of growth.
    pub(super) fn grow(&mut self) {
        let wait = match self.kernel.grow() {
            Ok(Growth::Rest) => LOOK,
            Ok(Growth::Step) => STEP,
            Ok(Growth::Replaced) => {
                let programs = self.kernel.pod_programs();
                self.outputs.facts.send_modify(|facts| {
                    if let Some(facts) = facts {
                        facts.programs = programs;
                    }
                });
                STEP
            }
            Err(error) => {
                warn!("the tables of flows stay as they are, trying again in {} s: {error}", RETRY.as_secs());
                RETRY
            }
        };
        self.growing.at = Instant::now() + wait;
        let tables = self.kernel.flow_tables();
        self.growing.say(tables);
        self.outputs.flows.send_replace(tables.to_vec());
    }
}

/// What `status` says of the tables.
pub(super) fn document(tables: &[FlowTableState]) -> Value {
    let tables = tables.iter().map(|state| {
        let entry = json!({
            "entries": state.used,
            "size": state.size,
            "maxSize": state.ceiling,
            "growing": state.growing,
            "full": is_full(state),
        });
        (state.table.to_owned(), entry)
    });
    Value::Object(tables.collect())
}
