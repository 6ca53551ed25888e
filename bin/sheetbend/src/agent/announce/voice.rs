//! The uplink: questions that come there, and unasked words when an address has come to this node.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use sheetbend_apply::netlink::NetlinkError;
use sheetbend_apply::netlink::announce::Announcer;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{error, info, warn};

/// Unasked words are said at once and again, in case they are lost, or a neighbour does not yet believe them (Linux
/// believes no second change within a second).
const AGAIN: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(1100), Duration::from_millis(3000)];
/// Between two tries to open the interface.
const RETRY: Duration = Duration::from_secs(1);

struct Open {
    announcer: Announcer,
    /// The announcer's sockets once more, to wait for.
    ready: Vec<AsyncFd<OwnedFd>>,
}

/// What this node says on its uplink.
pub(super) struct Voice {
    interface: String,
    open: Option<Open>,
    tried: Option<Instant>,
    held: BTreeSet<IpAddr>,
    /// When which address is to be announced again.
    due: Vec<(Instant, IpAddr)>,
}

impl Voice {
    pub(super) fn new(interface: String) -> Self {
        Self { interface, open: None, tried: None, held: BTreeSet::new(), due: Vec::new() }
    }

    /// Whether time matters now.
    pub(super) fn is_busy(&self) -> bool {
        !self.due.is_empty() || (self.open.is_none() && !self.held.is_empty())
    }

    /// Returns when there may be a question.
    pub(super) async fn question(&self) {
        let ready = self.open.as_ref().map(|open| open.ready.as_slice()).unwrap_or_default();
        match ready {
            [] => std::future::pending().await,
            [one] => readable(one).await,
            [one, other, ..] => tokio::select! {
                () = readable(one) => {}
                () = readable(other) => {}
            },
        }
    }

    /// Answers what waits.
    pub(super) fn answer(&mut self) {
        if let Some(open) = &self.open
            && let Err(error) = open.announcer.answer()
        {
            warn!(
                interface = self.interface,
                "cannot answer for addresses of Services, trying again: {error}"
            );
            self.open = None;
        }
    }

    /// Answers for `held` and nothing else from here on.
    pub(super) fn hold(&mut self, held: &BTreeSet<IpAddr>, now: Instant) {
        if *held != self.held {
            for addr in held.difference(&self.held) {
                info!(%addr, interface = self.interface, "this node answers for it");
                self.due.extend(AGAIN.iter().map(|wait| (now + *wait, *addr)));
            }
            for addr in self.held.difference(held) {
                info!(%addr, interface = self.interface, "this node no longer answers for it");
            }
            self.due.retain(|(_, addr)| held.contains(addr));
            self.held.clone_from(held);
        }
        if self.held.is_empty() {
            // Whoever has nothing to say needs no socket.
            self.open = None;
            return;
        }
        if self.open.is_none() && self.tried.is_none_or(|tried| now.duration_since(tried) >= RETRY) {
            self.tried = Some(now);
            match open(&self.interface) {
                Ok(open) => self.open = Some(open),
                Err(error) => error!("addresses of Services are not announced: {error}"),
            }
        }
        self.speak(now);
    }

    fn speak(&mut self, now: Instant) {
        let Some(open) = &mut self.open else { return };
        if *open.announcer.addresses() != self.held
            && let Err(error) = open.announcer.set(&self.held)
        {
            error!(interface = self.interface, "some addresses cannot be answered for: {error}");
        }
        let (due, later): (Vec<_>, Vec<_>) = self.due.drain(..).partition(|(at, _)| *at <= now);
        self.due = later;
        for (_, addr) in due {
            if let Err(error) = open.announcer.announce(addr) {
                warn!(%addr, interface = self.interface, "cannot announce: {error}");
            }
        }
    }
}

fn open(interface: &str) -> Result<Open, NetlinkError> {
    let announcer = Announcer::open(interface)?;
    let mut ready = Vec::new();
    for socket in announcer.sockets() {
        ready.push(readiness(socket.try_clone_to_owned()?)?);
    }
    Ok(Open { announcer, ready })
}

#[expect(
    deprecated,
    reason = "an OwnedFd keeps its descriptor; the successor is unsafe, which stands at the kernel border only"
)]
fn readiness(socket: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// The socket is then read until nothing is left, as readiness is told once.
async fn readable(socket: &AsyncFd<OwnedFd>) {
    match socket.readable().await {
        Ok(mut guard) => guard.clear_ready(),
        Err(_) => std::future::pending().await,
    }
}
