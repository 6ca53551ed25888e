//! Which probe a node's event is about: the 5-tuple tells.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sheetbend_model::events::{PacketEvent, PacketVerdict};
use tokio::sync::mpsc;

use super::Speech;

/// A probe's end of a flow: no two probes at a time share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FlowKey {
    speech: Speech,
    source: IpAddr,
    port: u16,
}

#[derive(Debug)]
struct Waiting {
    to: Vec<SocketAddr>,
    tell: mpsc::UnboundedSender<PacketEvent>,
}

/// Hands each event to the probe whose flow it names.
#[derive(Clone, Debug, Default)]
pub(crate) struct DropWatch {
    waiting: Arc<Mutex<BTreeMap<FlowKey, Waiting>>>,
}

/// A probe's claim to the events of its flow; ends when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    watch: DropWatch,
    key: FlowKey,
    events: mpsc::UnboundedReceiver<PacketEvent>,
}

impl DropWatch {
    /// Claims the events of the flow from `from` to one of `to`.
    pub(crate) fn claim(&self, speech: Speech, from: SocketAddr, to: Vec<SocketAddr>) -> Claim {
        let (tell, events) = mpsc::unbounded_channel();
        let key = FlowKey { speech, source: from.ip().to_canonical(), port: from.port() };
        self.lock().insert(key, Waiting { to, tell });
        Claim { watch: self.clone(), key, events }
    }

    /// Gives `event` to the probe it is about, if any.
    pub(crate) fn dispatch(&self, event: PacketEvent) {
        if let PacketVerdict::Forwarded | PacketVerdict::Audited = event.verdict {
            return;
        }
        let speech = match &*event.protocol {
            "TCP" => Speech::Tcp,
            "UDP" => Speech::Udp,
            "ICMP" | "ICMPv6" => Speech::Echo,
            _ => return,
        };
        let key = FlowKey { speech, source: event.source.address.to_canonical(), port: event.source.port };
        if let Some(waiting) = self.lock().get(&key)
            && waiting.to.iter().any(|to| is_about(&event, speech, *to))
        {
            // The probe may have ended between the two lines.
            let _ = waiting.tell.send(event);
        }
    }

    /// Whether no probe waits.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<FlowKey, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The flow's other end must be the one asked: the address behind a Service, or its frontend.
fn is_about(event: &PacketEvent, speech: Speech, to: SocketAddr) -> bool {
    let ends = [Some(&event.destination), event.frontend.as_ref()];
    ends.into_iter()
        .flatten()
        .any(|end| end.address.to_canonical() == to.ip() && (speech == Speech::Echo || end.port == to.port()))
}

impl Claim {
    /// The next event of the flow. Never returns when none comes.
    pub(crate) async fn next(&mut self) -> PacketEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.watch.lock().remove(&self.key);
    }
}

/// Subscriptions to the events of some nodes, on a thread of their own; end when dropped.
#[derive(Debug)]
pub(crate) struct Feed {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Feed {
    /// Subscribes to each socket and gives every event to `take`. Returns when all are subscribed.
    pub(crate) fn start(
        sockets: &[PathBuf],
        take: impl Fn(PacketEvent) + Clone + Send + 'static,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for socket in sockets {
            let mut subscription = runtime.block_on(async {
                let subscribed = sheetbend_observe::subscribe(socket);
                tokio::time::timeout(Duration::from_secs(5), subscribed).await
            })??;
            let take = take.clone();
            runtime.spawn(async move {
                while let Some(event) = subscription.next().await {
                    take(event);
                }
            });
        }
        Ok(Self { runtime: Some(runtime) })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
