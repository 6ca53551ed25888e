//! Kernel events and counters, on their way to people.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use aya::maps::{Map, MapData, PerCpuHashMap, RingBuf};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sheetbend_ebpf_abi::CounterKey;
use sheetbend_model::plan::{Origin, PolicySet};
use sheetbend_model::types::{AddrKey, NodeName};
use sheetbend_observe::{Count, Hub, Lookup, by_reason, decode, parse};
use tokio::sync::watch;
use tracing::{error, warn};

use super::flow_log::FlowLog;
use super::policy_log::PolicyLog;
use super::view::View;

/// New flows do not wake the reader (that would cost each of them microseconds): it looks by itself this often, ms.
const LOOK: u8 = 50;

/// Reads the ring buffer for as long as the agent runs, and serves its events at `path`.
pub(crate) fn spawn(
    path: &Path,
    node: NodeName,
    ring: RingBuf<MapData>,
    views: watch::Receiver<Arc<View>>,
    flows: FlowLog,
    log: PolicyLog,
) -> anyhow::Result<()> {
    let hub = Hub::default();
    let server = hub.clone();
    let path = path.to_owned();
    tokio::spawn(async move {
        if let Err(error) = server.serve(&path).await {
            error!("nobody can listen to events at {}: {error}", path.display());
        }
    });
    std::thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || pump(ring, &hub, &node, &views, flows, log))?;
    Ok(())
}

fn pump(
    mut ring: RingBuf<MapData>,
    hub: &Hub,
    node: &NodeName,
    views: &watch::Receiver<Arc<View>>,
    mut flows: FlowLog,
    mut log: PolicyLog,
) {
    loop {
        let mut waiting = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(LOOK)) {
            Ok(_) | Err(Errno::EINTR) => (),
            Err(error) => return error!("no more events: {error}"),
        }
        let view = Arc::clone(&views.borrow());
        while let Some(record) = ring.next() {
            let is_heard = hub.has_listeners();
            if !is_heard && view.logged().is_empty() && !log.is_on() && !flows.records() {
                continue; // freed unread, so that the kernel never finds the buffer full
            }
            match parse(&record) {
                Some(event) => {
                    flows.take(&event);
                    let is_logged = log.wants(&event) || view.logged().contains(&event.origin);
                    if !is_heard && !is_logged {
                        continue;
                    }
                    let event = decode(&event, &node.0, &*view);
                    if is_logged {
                        log.tell(&event, Instant::now());
                    }
                    if is_heard {
                        hub.publish(&event);
                    }
                }
                None => warn!(
                    length = record.len(),
                    "an event of unknown length; is another version's program loaded?"
                ),
            }
        }
        flows.flush();
        log.settle(Instant::now());
    }
}

impl Lookup for View {
    fn origin(&self, number: u32) -> Option<Origin> {
        self.names.origins.get(&number).cloned()
    }

    fn set(&self, number: u32) -> Option<PolicySet> {
        self.names.sets.get(&number).cloned()
    }

    fn name(&self, addr: AddrKey) -> Option<Arc<str>> {
        self.owner(addr)
    }
}

/// Reads (reason → packets) whenever called.
pub(crate) fn counters(map: MapData) -> impl Fn() -> BTreeMap<&'static str, u64> + Send + Sync {
    let map = PerCpuHashMap::<_, [u8; 8], [u64; 2]>::try_from(Map::PerCpuHashMap(map));
    move || match &map {
        Ok(map) => by_reason(map.iter().filter_map(Result::ok).map(|(key, values)| Count {
            key: CounterKey {
                ifindex: u32::from_ne_bytes([key[0], key[1], key[2], key[3]]),
                hook: u16::from_ne_bytes([key[4], key[5]]),
                reason: u16::from_ne_bytes([key[6], key[7]]),
            },
            packets: values.iter().map(|value| value[0]).sum(),
            bytes: values.iter().map(|value| value[1]).sum(),
        })),
        Err(_) => BTreeMap::new(),
    }
}
