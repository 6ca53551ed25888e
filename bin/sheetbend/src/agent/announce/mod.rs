//! Answers ARP and neighbour discovery for addresses of Services, while this node is the one that does.

mod election;
mod leases;
mod voice;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sheetbend_compile::announcements;
use sheetbend_intake::kube::Client;
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::NodeName;
use sheetbend_shell::drain::Drain;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use super::cni::NodeFacts;
use crate::source::Cluster;
use election::Election;
use leases::Leases;
use voice::Voice;

/// Between two looks at the clock while this node takes part.
const TICK: Duration = Duration::from_millis(50);

/// Where announcing nodes meet.
pub(crate) struct Meeting {
    pub(crate) client: Client,
    /// Namespace of the Leases.
    pub(crate) namespace: String,
}

/// Who decides which node answers.
enum Referee {
    Leases(Box<Leases>),
    /// Without an API server the preferred candidate, alive or not.
    Order(BTreeSet<IpAddr>),
}

/// Works until `drain` asks to end; then the addresses are another's at once.
pub(crate) async fn run(
    meeting: Option<Meeting>,
    node: NodeName,
    mut clusters: watch::Receiver<Option<Cluster>>,
    mut facts: watch::Receiver<Option<NodeFacts>>,
    drain: Drain,
) {
    let uplink = tokio::select! {
        // Before the programs are attached nobody would serve what comes.
        found = facts.wait_for(Option::is_some) => match found.as_deref() {
            Ok(Some(facts)) => facts.uplink.clone(),
            Ok(None) | Err(_) => return,
        },
        () = drain.requested() => return,
    };
    let mut referee = match meeting {
        Some(meeting) => Referee::Leases(Box::new(Leases::new(meeting, Election::new(node.clone())))),
        None => Referee::Order(BTreeSet::new()),
    };
    let mut voice = Voice::new(uplink.clone());
    let mut seen: Option<Snapshot> = None;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clusters.mark_changed();
    loop {
        let is_busy = voice.is_busy() || referee.is_busy();
        tokio::select! {
            changed = clusters.changed() => match changed {
                Ok(()) => {
                    let snapshot = clusters.borrow_and_update().as_ref().map(|cluster| Snapshot::clone(&cluster.snapshot));
                    let Some(snapshot) = snapshot.filter(|next| seen.as_ref().is_none_or(|seen| !announces_alike(seen, next)))
                    else { continue };
                    referee.want(wanted(&snapshot, &node, &uplink), &node);
                    seen = Some(snapshot);
                }
                Err(_) => break,
            },
            () = referee.hear() => {}
            () = voice.question() => voice.answer(),
            _ = ticks.tick(), if is_busy => {}
            () = drain.requested() => break,
        }
        let now = Instant::now();
        let held = referee.holds(now);
        voice.hold(&held, now);
    }
    voice.hold(&BTreeSet::new(), Instant::now());
    if let Referee::Leases(leases) = referee {
        leases.leave().await;
    }
}

impl Referee {
    fn want(&mut self, wanted: BTreeMap<IpAddr, Vec<NodeName>>, node: &NodeName) {
        match self {
            Referee::Leases(leases) => leases.want(wanted),
            Referee::Order(held) => {
                let first = |(addr, candidates): (IpAddr, Vec<NodeName>)| {
                    (candidates.first() == Some(node)).then_some(addr)
                };
                *held = wanted.into_iter().filter_map(first).collect();
            }
        }
    }

    fn is_busy(&self) -> bool {
        match self {
            Referee::Leases(leases) => leases.is_busy(),
            Referee::Order(_) => false,
        }
    }

    /// Returns when there is news.
    async fn hear(&mut self) {
        match self {
            Referee::Leases(leases) => leases.hear().await,
            Referee::Order(_) => std::future::pending().await,
        }
    }

    fn holds(&mut self, now: Instant) -> BTreeSet<IpAddr> {
        match self {
            Referee::Leases(leases) => leases.holds(now),
            Referee::Order(held) => held.clone(),
        }
    }
}

/// Address → candidates. A node whose uplink is none of the interfaces that are asked for is no candidate: packets are
/// served where the programs are.
fn wanted(snapshot: &Snapshot, node: &NodeName, uplink: &str) -> BTreeMap<IpAddr, Vec<NodeName>> {
    let mut wanted = BTreeMap::new();
    for (addr, mut announcement) in announcements(snapshot) {
        if !announcement.interfaces.is_empty() && !announcement.interfaces.contains(uplink) {
            info!(%addr, uplink, "is to be announced on {:?}, which is not this node's uplink", announcement.interfaces);
            announcement.candidates.retain(|candidate| candidate != node);
        }
        wanted.insert(addr, announcement.candidates);
    }
    wanted
}

/// Whether the parts that announcements are made of are the same.
fn announces_alike(a: &Snapshot, b: &Snapshot) -> bool {
    a.l2_announcements.ptr_eq(&b.l2_announcements)
        && a.services.ptr_eq(&b.services)
        && a.nodes.ptr_eq(&b.nodes)
        && a.endpoint_slices.ptr_eq(&b.endpoint_slices)
}
