//! Which upstream server is asked next. Sans-IO: told what happened and what time it is.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row after which a server is asked only when all others fail too.
const FAILURES: u32 = 2;
/// How long it rests then; doubled with each failure more, up to [`MAX_REST`].
const REST: Duration = Duration::from_secs(1);
const MAX_REST: Duration = Duration::from_secs(30);

/// Servers that know the same names.
#[derive(Debug)]
pub struct Group {
    servers: Vec<SocketAddr>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    health: Vec<Health>,
    next: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Group {
    /// A group of `servers`, all thought to be well.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        let health = vec![Health::default(); servers.len()];
        Self { servers, state: Mutex::new(State { health, next: 0 }) }
    }

    /// The servers in the order in which this query shall try them: in turn, those that rest last.
    pub fn order(&self, now: Instant) -> Vec<SocketAddr> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.servers.len();
        if count == 0 {
            return Vec::new();
        }
        let first = state.next % count;
        state.next = first + 1;
        let turn = (0..count).map(|index| (first + index) % count);
        let rests = |index: &usize| state.health[*index].rests_until.is_some_and(|until| now < until);
        let (resting, well): (Vec<usize>, Vec<usize>) = turn.partition(rests);
        well.into_iter().chain(resting).map(|index| self.servers[index]).collect()
    }

    /// `server` gave an answer.
    pub fn answered(&self, server: SocketAddr) {
        self.with(server, |health| *health = Health::default());
    }

    /// `server` gave none in time, or could not be reached.
    pub fn failed(&self, server: SocketAddr, now: Instant) {
        self.with(server, |health| {
            health.failures = health.failures.saturating_add(1);
            if let Some(more) = health.failures.checked_sub(FAILURES) {
                let rest = REST.saturating_mul(1 << more.min(10)).min(MAX_REST);
                health.rests_until = Some(now + rest);
            }
        });
    }

    fn with(&self, server: SocketAddr, change: impl FnOnce(&mut Health)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = self.servers.iter().position(|other| *other == server) {
            change(&mut state.health[index]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failed test may panic")]

    use super::*;

    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 53))
    }

    #[test]
    fn servers_take_turns() {
        let group = Group::new(vec![server(1), server(2)]);
        let now = Instant::now();
        assert_eq!(group.order(now), [server(1), server(2)]);
        assert_eq!(group.order(now), [server(2), server(1)]);
        assert!(Group::new(Vec::new()).order(now).is_empty());
    }

    #[test]
    fn a_server_that_fails_rests_longer_each_time_and_is_never_given_up() {
        let group = Group::new(vec![server(1), server(2)]);
        let start = Instant::now();
        group.failed(server(1), start);
        assert_eq!(group.order(start)[0], server(1), "once is no reason");
        group.failed(server(1), start);
        for _ in 0..3 {
            assert_eq!(group.order(start), [server(2), server(1)]);
        }
        let later = start + REST;
        assert!((0..2).any(|_| group.order(later)[0] == server(1)), "it gets another chance");
        (0..20).for_each(|_| group.failed(server(1), later));
        assert!((0..4).all(|_| group.order(later + MAX_REST / 2)[0] == server(2)));
        assert!((0..2).any(|_| group.order(later + MAX_REST)[0] == server(1)));
        group.answered(server(1));
        assert!((0..2).any(|_| group.order(later)[0] == server(1)));
    }
}
