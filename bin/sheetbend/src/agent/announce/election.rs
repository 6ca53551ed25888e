//! Who answers for an address: one node, by Leases (coordination.k8s.io/v1). The machine is pure; a clock and the
//! Leases come in, the next requests go out.
//!
//! Two kinds of Leases. Each node that announces renews one of its own, the heartbeat, every [`RENEW`]. Each address
//! has one that names its holder and is written only when the holder changes: a thousand addresses cost the API server
//! no more than one. A holder is dead when its heartbeat has not changed for [`EXPIRY`] by the observer's clock; it
//! stops by itself [`DEADLINE`] after the last renewal that was granted, which is earlier.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sheetbend_model::types::NodeName;

/// Between two renewals of the heartbeat.
pub(super) const RENEW: Duration = Duration::from_millis(400);
/// A node whose last granted renewal began this long ago answers for nothing.
pub(super) const DEADLINE: Duration = Duration::from_millis(1000);
/// A node whose heartbeat has not changed for this long is dead.
pub(super) const EXPIRY: Duration = Duration::from_millis(1400);
/// The second candidate waits this long for the first, the third twice as long: views of the cluster may differ.
const STEP: Duration = Duration::from_millis(250);

/// A Lease as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// `spec.holderIdentity`; `None` where nobody holds it.
    pub(super) holder: Option<NodeName>,
    /// `metadata.resourceVersion`.
    pub(super) version: String,
}

/// What to ask of the API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Request {
    /// Renew our own heartbeat.
    Renew,
    /// Write us into the address's Lease, if it still has this version, or there is none. `dead` names the holder to
    /// be looked at once more, with the version of its heartbeat that is known.
    Take { addr: IpAddr, version: Option<String>, dead: Option<(NodeName, Option<String>)> },
    /// Write nobody into it, if it still has this version.
    Release { addr: IpAddr, version: String },
    /// Remove it: nobody announces the address any more.
    Remove { addr: IpAddr, version: String },
}

/// One node's view.
#[derive(Debug)]
pub(super) struct Election {
    node: NodeName,
    /// Address → candidates, the preferred one first.
    wanted: BTreeMap<IpAddr, Vec<NodeName>>,
    /// Node → its heartbeat, and since when it has not changed.
    heartbeats: BTreeMap<NodeName, (Seen, Instant)>,
    leases: BTreeMap<IpAddr, Seen>,
    /// Since when an address has no living holder.
    orphaned: BTreeMap<IpAddr, Instant>,
    /// Addresses whose Lease we wrote, or saw ours, without a lapse since.
    confirmed: BTreeSet<IpAddr>,
    /// When the last granted renewal began.
    renewed: Option<Instant>,
    /// When the last renewal was asked for.
    asked: Option<Instant>,
    /// When all Leases were known first.
    synced: Option<Instant>,
}

impl Election {
    pub(super) fn new(node: NodeName) -> Self {
        Self {
            node,
            wanted: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            leases: BTreeMap::new(),
            orphaned: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            renewed: None,
            asked: None,
            synced: None,
        }
    }

    /// Whose view this is.
    pub(super) fn node(&self) -> &NodeName {
        &self.node
    }

    /// The addresses that are announced, each with its candidates.
    pub(super) fn want(&mut self, wanted: BTreeMap<IpAddr, Vec<NodeName>>) {
        self.wanted = wanted;
    }

    /// Whether there is anything for this node to do: it is a candidate, or holds what it must give away.
    pub(super) fn is_concerned(&self) -> bool {
        self.wanted.values().any(|candidates| candidates.contains(&self.node))
            || self.leases.values().any(|lease| lease.holder.as_ref() == Some(&self.node))
    }

    /// Every Lease is known from here on.
    pub(super) fn sync(&mut self, now: Instant) {
        self.synced.get_or_insert(now);
    }

    /// A node's heartbeat; `None`: it is gone. One that nobody holds was given away: the node has left.
    pub(super) fn heartbeat(&mut self, node: NodeName, seen: Option<Seen>, now: Instant) {
        let Some(seen) = seen else { return drop(self.heartbeats.remove(&node)) };
        match self.heartbeats.get(&node) {
            Some((known, _)) if !is_newer(&seen.version, &known.version) => {}
            Some(_) | None => drop(self.heartbeats.insert(node, (seen, now))),
        }
    }

    /// An address's Lease; `None`: it is gone.
    pub(super) fn lease(&mut self, addr: IpAddr, seen: Option<Seen>) {
        let Some(seen) = seen else {
            self.confirmed.remove(&addr);
            return drop(self.leases.remove(&addr));
        };
        // A watch may still bring what was before our own write.
        if self.leases.get(&addr).is_some_and(|known| !is_newer(&seen.version, &known.version)) {
            return;
        }
        if seen.holder.as_ref() != Some(&self.node) {
            self.confirmed.remove(&addr);
        }
        self.leases.insert(addr, seen);
    }

    /// A renewal begun at `began` was granted.
    pub(super) fn renewed(&mut self, began: Instant) {
        self.renewed = Some(began);
    }

    /// The Lease that [`Request::Take`] asked for is ours.
    pub(super) fn taken(&mut self, addr: IpAddr, version: String, now: Instant) {
        self.lease(addr, Some(Seen { holder: Some(self.node.clone()), version }));
        if self.is_alive(now)
            && self.leases.get(&addr).is_some_and(|lease| lease.holder.as_ref() == Some(&self.node))
        {
            self.confirmed.insert(addr);
        }
    }

    /// The addresses that this node answers for.
    pub(super) fn holds(&self, now: Instant) -> BTreeSet<IpAddr> {
        let alive = self.is_alive(now);
        let mine = |addr: &&IpAddr| {
            alive && self.wanted.get(addr).is_some_and(|candidates| candidates.contains(&self.node))
        };
        self.confirmed.iter().filter(mine).copied().collect()
    }

    /// What is to be asked now. To be called every 50 ms or so and after each change.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Request> {
        let mut due = Vec::new();
        if self.synced.is_none() || !self.is_concerned() {
            return due;
        }
        if self.asked.is_none_or(|asked| now.duration_since(asked) >= RENEW) {
            self.asked = Some(now);
            due.push(Request::Renew);
        }
        if !self.is_alive(now) {
            // Others may have taken over: each Lease is to be written anew.
            self.confirmed.clear();
            return due;
        }
        let wanted: Vec<IpAddr> = self.wanted.keys().copied().collect();
        due.extend(wanted.into_iter().filter_map(|addr| self.due_for(addr, now)));
        for (addr, lease) in &self.leases {
            if !self.wanted.contains_key(addr)
                && lease.holder.as_ref().is_none_or(|holder| *holder == self.node)
            {
                self.confirmed.remove(addr);
                due.push(Request::Remove { addr: *addr, version: lease.version.clone() });
            }
        }
        self.orphaned.retain(|addr, _| self.wanted.contains_key(addr));
        due
    }

    fn due_for(&mut self, addr: IpAddr, now: Instant) -> Option<Request> {
        let candidates = self.wanted.get(&addr)?;
        let lease = self.leases.get(&addr);
        let holder = lease.and_then(|lease| lease.holder.clone());
        let is_candidate = candidates.contains(&self.node);
        if holder.as_ref() == Some(&self.node) {
            let version = lease.map(|lease| lease.version.clone());
            return match (is_candidate, self.confirmed.contains(&addr)) {
                (true, true) => None,
                (true, false) => Some(Request::Take { addr, version, dead: None }),
                (false, _) => {
                    // From now on it may be another's, whether we hear of it or not.
                    self.confirmed.remove(&addr);
                    version.map(|version| Request::Release { addr, version })
                }
            };
        }
        if !is_candidate || holder.as_ref().is_some_and(|holder| self.lives(holder, now)) {
            self.orphaned.remove(&addr);
            return None;
        }
        let living = candidates.iter().filter(|node| **node == self.node || self.lives(node, now));
        let place = living.take_while(|node| **node != self.node).count();
        let since = *self.orphaned.entry(addr).or_insert(now);
        let patience = STEP * u32::try_from(place).unwrap_or(u32::MAX);
        let dead = holder.map(|holder| {
            let known = self.heartbeats.get(&holder).map(|(seen, _)| seen.version.clone());
            (holder, known)
        });
        (now.duration_since(since) >= patience).then(|| Request::Take {
            addr,
            version: self.leases.get(&addr).map(|lease| lease.version.clone()),
            dead,
        })
    }

    /// Whether others may still count on this node.
    fn is_alive(&self, now: Instant) -> bool {
        self.renewed.is_some_and(|renewed| now.duration_since(renewed) < DEADLINE)
    }

    /// Whether another node may still answer for its addresses. One that was never seen may have just begun.
    fn lives(&self, node: &NodeName, now: Instant) -> bool {
        match self.heartbeats.get(node) {
            Some((seen, _)) if seen.holder.is_none() => false,
            Some((_, since)) => now.duration_since(*since) < EXPIRY,
            None => false,
        }
    }
}

/// Resource versions are numbers that grow (KEP-5504); where they are none, the later word counts.
fn is_newer(version: &str, known: &str) -> bool {
    match (version.parse::<u64>(), known.parse::<u64>()) {
        (Ok(version), Ok(known)) => version > known,
        _ => version != known,
    }
}

#[cfg(test)]
mod tests;
