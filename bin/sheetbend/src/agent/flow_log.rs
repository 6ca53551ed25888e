//! The newest flows of this node, kept for `sheetbend policy diff`: recorded from kernel events, told as keys.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sheetbend_ebpf_abi::Event;
use sheetbend_observe::{FlowRecord, FlowRing, recorded_flows};
use sheetbend_shell::admin::DocumentFn;
use tracing::warn;

use crate::ask::Answer;
use crate::policy::flows::RecordedFlow;

/// Name of the file in the state directory.
const FILE: &str = "flows.ring";
/// IANA numbers of ICMP and ICMPv6.
const ICMP: [u8; 2] = [1, 58];

/// Where the flows of the agent with this state directory are.
pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// Writes flows into the file, some at once.
pub(super) struct FlowLog {
    /// `None`: nothing is recorded.
    ring: Option<FlowRing>,
    waiting: Vec<FlowRecord>,
    last: Option<Flow>,
}

/// What one flow's events have in common: each end that judged it has an event of its own.
#[derive(PartialEq, Eq)]
struct Flow {
    ends: [[u8; 16]; 2],
    ports: [u16; 2],
    network: u32,
    protocol: u8,
    denied: bool,
}

impl FlowLog {
    /// For the newest `records` flows; 0 records nothing, and forgets what was recorded. A file that cannot be had is named
    /// in the log, and costs nothing else.
    pub(super) fn open(path: &Path, records: u32) -> Self {
        let opened = match records {
            0 => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(None),
            },
            records => FlowRing::open(path, records).map(Some),
        };
        let ring = opened.unwrap_or_else(|error| {
            warn!(path = %path.display(), "flows are not recorded: {error}");
            None
        });
        Self { ring, waiting: Vec::new(), last: None }
    }

    /// Whether anything is recorded.
    pub(super) fn records(&self) -> bool {
        self.ring.is_some()
    }

    /// Records what `event` says, with the next [`flush`](Self::flush).
    pub(super) fn take(&mut self, event: &Event) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let Some(record) = FlowRecord::of(event, time).filter(|_| self.records()) else { return };
        let flow = Flow {
            ends: [event.src, event.dst],
            ports: [event.src_port, event.dst_port],
            network: event.network,
            protocol: event.protocol,
            denied: record.denied,
        };
        if self.last.as_ref() != Some(&flow) {
            self.last = Some(flow);
            self.waiting.push(record);
        }
    }

    /// Writes what waits. The first failure ends the recording.
    pub(super) fn flush(&mut self) {
        let written = match &mut self.ring {
            Some(ring) if !self.waiting.is_empty() => ring.write(&self.waiting),
            _ => Ok(()),
        };
        self.waiting.clear();
        if let Err(error) = written {
            warn!("flows are not recorded any more: {error}");
            self.ring = None;
        }
    }
}

/// `/flows`: the keys of what is recorded at `path`, and how often each came.
pub(super) fn document(path: PathBuf) -> DocumentFn {
    Arc::new(move |_query| {
        let path = path.clone();
        Box::pin(async move {
            let made = tokio::task::spawn_blocking(move || match recorded_flows(&path) {
                Ok(flows) => Answer::Found(keys(&flows)),
                Err(error) => Answer::Error(format!("{}: {error}", path.display())),
            });
            let answer = made.await.unwrap_or_else(|error| Answer::Error(error.to_string()));
            serde_json::to_value(answer).unwrap_or(Value::Null)
        })
    })
}

fn keys(flows: &[FlowRecord]) -> Vec<RecordedFlow> {
    let mut counted: BTreeMap<(IpAddr, IpAddr, u8, u16, bool), u64> = BTreeMap::new();
    // Policies know pods of the default network only, so far.
    for flow in flows.iter().filter(|flow| flow.network == 0) {
        let port = if ICMP.contains(&flow.protocol) { 0 } else { flow.port };
        *counted.entry((flow.source, flow.destination, flow.protocol, port, flow.denied)).or_default() += 1;
    }
    let key = |((source, destination, protocol, port, denied), flows)| RecordedFlow {
        source,
        destination,
        protocol,
        port,
        denied,
        flows,
    };
    counted.into_iter().map(key).collect()
}
