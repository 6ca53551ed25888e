//! Names of other zones: who is asked for them.

mod exchange;
mod group;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::sync::{OnceCell, Semaphore};
use tracing::debug;

use crate::answer::{Answer, name};
use crate::cache::{Cache, Key};
use crate::metrics::Metrics;
pub use group::Group;

/// How long one server is waited for.
const TRY: Duration = Duration::from_secs(2);
/// How long a query may take in all. Stub resolvers ask anew after five seconds (resolv.conf(5), `timeout`).
const DEADLINE: Duration = Duration::from_millis(4_900);
/// Servers tried for one query, at most.
const MAX_TRIES: usize = 3;
/// Queries under way to upstream servers, at most; more are answered with SERVFAIL.
const MAX_CONCURRENT: usize = 2_000;

/// Zone → the group of servers that is asked for names in it.
#[derive(Debug)]
pub struct Routes {
    default: Arc<Group>,
    /// Stub domains, the longest first.
    stubs: Vec<(Name, Arc<Group>)>,
}

impl Routes {
    /// `stubs`: a domain and its servers; a domain that is no domain name is left out.
    pub fn new<'a>(
        default: Vec<SocketAddr>,
        stubs: impl IntoIterator<Item = (&'a str, Vec<SocketAddr>)>,
    ) -> Self {
        let stubs = stubs.into_iter().filter_map(|(zone, servers)| {
            Some((name(zone.trim_end_matches('.'))?, Arc::new(Group::new(servers))))
        });
        let mut stubs: Vec<_> = stubs.collect();
        stubs.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.num_labels()));
        Self { default: Arc::new(Group::new(default)), stubs }
    }

    pub(crate) fn group(&self, name: &Name) -> &Arc<Group> {
        let stub = self.stubs.iter().find(|(zone, _)| zone.zone_of(name));
        stub.map_or(&self.default, |(_, group)| group)
    }
}

/// A question for upstream servers.
#[derive(Clone, Debug)]
pub(crate) struct Inquiry {
    pub(crate) key: Key,
    pub(crate) question: Query,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
    pub(crate) group: Arc<Group>,
    /// Where their answer is remembered.
    pub(crate) cache: Arc<Cache>,
}

/// Asks upstream servers, and remembers what they say.
#[derive(Debug)]
pub struct Forwarder {
    metrics: Arc<Metrics>,
    slots: Semaphore,
    /// Questions under way: who asks the same waits for the same answer (RFC 5452 §5: no birthday attacks).
    pending: Mutex<HashMap<Key, Arc<OnceCell<Answer>>>>,
}

impl Forwarder {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, slots: Semaphore::new(MAX_CONCURRENT), pending: Mutex::default() }
    }

    /// How many questions are under way.
    pub(crate) fn under_way(&self) -> usize {
        MAX_CONCURRENT - self.slots.available_permits()
    }

    /// The answer of the first server that gives one, else SERVFAIL.
    pub(crate) async fn ask(&self, inquiry: &Inquiry) -> Answer {
        let cell = Arc::clone(self.lock().entry(inquiry.key.clone()).or_default());
        let answer = cell.get_or_init(|| self.ask_once(inquiry)).await.clone();
        let mut pending = self.lock();
        if pending.get(&inquiry.key).is_some_and(|other| Arc::ptr_eq(other, &cell)) {
            pending.remove(&inquiry.key);
        }
        answer
    }

    async fn ask_once(&self, inquiry: &Inquiry) -> Answer {
        let Ok(_slot) = self.slots.try_acquire() else {
            self.metrics.dropped("too_many_forwards");
            return Answer::empty(ResponseCode::ServFail);
        };
        let asked = tokio::time::timeout(DEADLINE, self.try_servers(inquiry)).await;
        let answer = asked.ok().flatten().unwrap_or_else(|| Answer::empty(ResponseCode::ServFail));
        inquiry.cache.put(inquiry.key.clone(), &answer, Instant::now());
        answer
    }

    async fn try_servers(&self, inquiry: &Inquiry) -> Option<Answer> {
        let servers = inquiry.group.order(Instant::now());
        let mut refused = None;
        // One server alone is asked again: a datagram may be lost.
        for server in servers.iter().cycle().take(MAX_TRIES.min(servers.len() + 1)) {
            let start = Instant::now();
            match self.try_server(*server, inquiry).await {
                Ok(answer) => {
                    self.metrics.forwarded(*server, start.elapsed());
                    inquiry.group.answered(*server);
                    // Another server may be better off (RFC 2308 §7).
                    if !matches!(answer.code, ResponseCode::ServFail | ResponseCode::Refused) {
                        return Some(answer);
                    }
                    refused = Some(answer);
                }
                Err(error) => {
                    debug!(%server, %error, "no answer");
                    self.metrics.forward_failed(*server);
                    inquiry.group.failed(*server, Instant::now());
                }
            }
        }
        refused
    }

    async fn try_server(&self, server: SocketAddr, inquiry: &Inquiry) -> io::Result<Answer> {
        let Inquiry { question, dnssec_ok, checking_disabled, .. } = inquiry;
        tokio::time::timeout(TRY, exchange::ask(server, question, *dnssec_ok, *checking_disabled))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<OnceCell<Answer>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
