//! Who acts: one of several controllers, by a Lease (coordination.k8s.io/v1). The machine is pure; a clock and the
//! Lease come in, the next request goes out.

use std::time::{Duration, Instant};

/// How long a Lease holds that nobody renews.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// Between two renewals.
pub(super) const RENEW: Duration = Duration::from_secs(5);
/// A leader that could not renew for this long stops acting: before others may take over.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// `spec.holderIdentity`; empty when it was released.
    pub(super) holder: String,
    /// `metadata.resourceVersion`: changes with every renewal.
    pub(super) version: String,
    /// `spec.leaseDurationSeconds`.
    pub(super) duration: Duration,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// There is no Lease: make one.
    Create,
    /// Write us into it, if it still has this version.
    Take(String),
    /// Renew ours, if it still has this version.
    Renew(String),
    /// Somebody else leads.
    Wait,
}

/// One candidate.
#[derive(Debug)]
pub(super) struct Election {
    identity: String,
    /// The other holder's Lease, and since when it has not changed by our own clock: clocks of two machines are never
    /// compared.
    other: Option<(Observed, Instant)>,
    /// When we last wrote the Lease.
    renewed: Option<Instant>,
}

impl Election {
    /// A candidate under a name that nobody else has.
    pub(super) fn new(identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), other: None, renewed: None }
    }

    /// What the Lease read just now asks for.
    pub(super) fn observe(&mut self, lease: Option<Observed>, now: Instant) -> Action {
        let Some(lease) = lease else {
            self.other = None;
            return Action::Create;
        };
        if lease.holder == self.identity {
            self.other = None;
            return Action::Renew(lease.version);
        }
        self.renewed = None;
        if lease.holder.is_empty() {
            return Action::Take(lease.version);
        }
        match &self.other {
            Some((seen, since)) if *seen == lease => {
                if now.duration_since(*since) > lease.duration {
                    return Action::Take(lease.version);
                }
            }
            Some(_) | None => self.other = Some((lease, now)),
        }
        Action::Wait
    }

    /// The request that [`Election::observe`] asked for, begun at `began`, was granted.
    pub(super) fn granted(&mut self, began: Instant) {
        self.renewed = Some(began);
    }

    /// Whether we may act.
    pub(super) fn leads(&self, now: Instant) -> bool {
        self.renewed.is_some_and(|renewed| now.duration_since(renewed) < DEADLINE)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    /// A Lease as the API server keeps it.
    #[derive(Default)]
    struct Server {
        lease: Option<Observed>,
        writes: u32,
    }

    impl Server {
        fn write(&mut self, holder: &str, version: Option<&str>) -> bool {
            if self.lease.as_ref().map(|lease| lease.version.as_str()) != version {
                return false;
            }
            self.writes += 1;
            self.lease = Some(Observed {
                holder: holder.into(),
                version: self.writes.to_string(),
                duration: DURATION,
            });
            true
        }

        fn turn(&mut self, candidate: &mut Election, now: Instant) {
            let granted = match candidate.observe(self.lease.clone(), now) {
                Action::Create => self.write(&candidate.identity.clone(), None),
                Action::Take(version) | Action::Renew(version) => {
                    self.write(&candidate.identity.clone(), Some(&version))
                }
                Action::Wait => false,
            };
            if granted {
                candidate.granted(now);
            }
        }
    }

    #[test]
    fn there_is_never_more_than_one_leader_and_soon_another_when_it_dies() {
        let (mut server, mut a, mut b) = (Server::default(), Election::new("a"), Election::new("b"));
        let start = Instant::now();
        for second in 0..30 {
            let now = start + Duration::from_secs(second);
            server.turn(&mut a, now);
            server.turn(&mut b, now);
            assert!(a.leads(now) && !b.leads(now), "at {second} s");
        }
        // `a` dies, or is cut off: it stops by itself before `b` takes over.
        let mut taken = None;
        for second in 30..60 {
            let now = start + Duration::from_secs(second);
            server.turn(&mut b, now);
            assert!(!(a.leads(now) && b.leads(now)), "two leaders at {second} s");
            if b.leads(now) {
                taken.get_or_insert(second);
            }
        }
        assert!((44..=47).contains(&taken.unwrap()), "{taken:?}");
        // `a` comes back and waits.
        let now = start + Duration::from_secs(60);
        server.turn(&mut a, now);
        assert!(!a.leads(now) && b.leads(now));
    }

    #[test]
    fn a_released_lease_is_taken_at_once_and_a_lost_write_is_no_leadership() {
        let (mut server, mut a, mut b) = (Server::default(), Election::new("a"), Election::new("b"));
        let now = Instant::now();
        server.turn(&mut a, now);
        let version = server.lease.clone().unwrap().version;
        assert!(server.write("", Some(&version)));
        let stale = b.observe(server.lease.clone(), now);
        server.turn(&mut a, now);
        assert!(a.leads(now));
        let Action::Take(version) = stale else { panic!("{stale:?}") };
        assert!(!server.write("b", Some(&version)), "the API server refuses it");
        assert!(!b.leads(now));
    }
}
