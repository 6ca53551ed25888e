//! What a query is answered with: fixed entries first, then the cluster's zone, then what upstream servers said.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use sheetbend_model::types::DomainPattern;
use tokio::sync::mpsc;
use tracing::debug;

use crate::answer::{Answer, name};
use crate::authority::{Authority, Found};
use crate::cache::{Cache, Key};
use crate::hosts::Hosts;
use crate::metrics::{Answered, Metrics, Source, Transport};
use crate::upstream::{Forwarder, Inquiry, Routes};
use crate::wire::{self, Request, Unreadable};
use crate::witness::{Told, Wait, Witness};

/// Bytes of an answer by TCP, at most (RFC 1035 §4.2.2).
const TCP_LIMIT: u16 = u16::MAX;

/// Decides. Shared by all sockets; what it knows is swapped in whole, so no query sees half a change.
#[derive(Debug)]
pub struct Responder {
    origin: Name,
    /// `None` until the cluster is known: its names then get SERVFAIL, for "no such name" would be believed.
    authority: RwLock<Option<Arc<Authority>>>,
    hosts: Hosts,
    upstreams: RwLock<Arc<Upstreams>>,
    cache_entries: usize,
    forwarder: Forwarder,
    metrics: Arc<Metrics>,
    witness: Witness,
    told: RwLock<Option<mpsc::Receiver<Told>>>,
}

/// Whom to ask, and what they have said: another server's answers are none of a new one's.
#[derive(Debug)]
struct Upstreams {
    routes: Routes,
    cache: Arc<Cache>,
}

/// What becomes of a query.
#[derive(Debug)]
pub enum Reply {
    /// Send this.
    Now(Vec<u8>),
    /// Upstream servers must be asked: [`Responder::finish`].
    Later(Box<Forward>),
    /// Somebody must hear of it first: [`Withheld::release`].
    Withheld(Withheld),
    /// Send nothing.
    Nothing,
}

/// An answer that waits until somebody has heard of the addresses in it.
#[derive(Debug)]
pub struct Withheld {
    bytes: Vec<u8>,
    wait: Wait,
}

impl Withheld {
    /// Returns the answer once it may leave: when it was heard, or nobody hears, or that takes too long.
    pub async fn release(self) -> Vec<u8> {
        if !self.wait.over().await {
            debug!(
                "an answer leaves that nobody has heard of: policies by domain names do not know its addresses yet"
            );
        }
        self.bytes
    }
}

/// A query on its way to upstream servers.
#[derive(Debug)]
pub struct Forward {
    request: Request,
    transport: Transport,
    arrived: Instant,
    /// Aliases that led to the inquiry.
    so_far: Vec<Record>,
    inquiry: Inquiry,
}

/// Where the answer is.
enum Known {
    Answer(Answer, Source),
    Elsewhere(Vec<Record>, Inquiry),
}

impl Responder {
    /// Answers for the zone `origin` once it is [set](Self::set_authority). `cache_entries`: answers of upstream servers
    /// remembered, at most. `None` where `origin` is no domain name.
    pub fn new(origin: &str, hosts: Hosts, routes: Routes, cache_entries: usize) -> Option<Self> {
        let metrics = Arc::new(Metrics::default());
        let upstreams = Upstreams { routes, cache: Arc::new(Cache::new(cache_entries)) };
        let (witness, told) = Witness::new();
        Some(Self {
            origin: name(origin)?,
            authority: RwLock::default(),
            hosts,
            upstreams: RwLock::new(Arc::new(upstreams)),
            cache_entries,
            forwarder: Forwarder::new(Arc::clone(&metrics)),
            metrics,
            witness,
            told: RwLock::new(Some(told)),
        })
    }

    /// Addresses of names that one of `patterns` is for are told before the answer that has them leaves.
    pub fn tell_of(&self, patterns: BTreeSet<DomainPattern>) {
        self.witness.set_patterns(patterns);
    }

    /// Where they are told; `None` but for the first who asks.
    pub fn told(&self) -> Option<mpsc::Receiver<Told>> {
        self.told.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks other servers from now on. What the earlier ones said is forgotten.
    pub fn set_routes(&self, routes: Routes) {
        let upstreams = Upstreams { routes, cache: Arc::new(Cache::new(self.cache_entries)) };
        *self.upstreams.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(upstreams);
    }

    fn upstreams(&self) -> Arc<Upstreams> {
        Arc::clone(&self.upstreams.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers from `authority` from now on.
    pub fn set_authority(&self, authority: Authority) {
        self.metrics.zone(authority.names(), authority.serial());
        *self.authority.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(authority));
    }

    /// The counters, in the OpenMetrics text format.
    pub fn metrics(&self) -> String {
        self.metrics.cached(self.upstreams().cache.len());
        self.metrics.text()
    }

    /// How many queries wait for upstream servers.
    pub fn waiting(&self) -> usize {
        self.forwarder.under_way()
    }

    /// Answers a query that arrived at `now`.
    pub fn respond(&self, bytes: &[u8], transport: Transport, now: Instant) -> Reply {
        let request = match wire::read(bytes) {
            Ok(request) => request,
            Err(Unreadable::Silence) => {
                self.metrics.dropped("no_query");
                return Reply::Nothing;
            }
            Err(Unreadable::Answer(code, bytes)) => {
                let source = Source::Refused;
                self.metrics.answered(Answered {
                    transport,
                    query_type: None,
                    code,
                    source,
                    took: now.elapsed(),
                });
                return Reply::Now(bytes);
            }
        };
        match self.know(&request, now) {
            Known::Answer(answer, source) => self.reply(&request, transport, now, answer, source),
            Known::Elsewhere(so_far, inquiry) => {
                Reply::Later(Box::new(Forward { request, transport, arrived: now, so_far, inquiry }))
            }
        }
    }

    /// Asks upstream servers. `None`: send nothing.
    pub async fn finish(&self, forward: Forward) -> Option<Vec<u8>> {
        let Forward { request, transport, arrived, so_far, inquiry } = forward;
        let answer = behind(so_far, self.forwarder.ask(&inquiry).await);
        match self.reply(&request, transport, arrived, answer, Source::Upstream) {
            Reply::Now(bytes) => Some(bytes),
            Reply::Withheld(withheld) => Some(withheld.release().await),
            Reply::Later(_) | Reply::Nothing => None,
        }
    }

    /// The same with `message` as what an upstream server answers to question `id`; nothing where it answers another.
    pub fn finish_with(&self, forward: Forward, id: u16, message: &[u8]) -> Reply {
        let Forward { request, transport, arrived, so_far, inquiry } = forward;
        let Some((answer, _)) = wire::read_answer(message, id, &inquiry.question) else {
            return Reply::Nothing;
        };
        inquiry.cache.put(inquiry.key.clone(), &answer, arrived);
        self.reply(&request, transport, arrived, behind(so_far, answer), Source::Upstream)
    }

    fn know(&self, request: &Request, now: Instant) -> Known {
        let query_type = request.query_type();
        let refused = |code| Known::Answer(Answer::empty(code), Source::Refused);
        // Zone transfers are for name servers, of which there are none beside this one.
        let transfer = matches!(query_type, RecordType::AXFR | RecordType::IXFR);
        if request.question.query_class != DNSClass::IN || transfer {
            return refused(ResponseCode::Refused);
        }
        let asked = &request.question.name;
        if let Some(answer) = self.hosts.find(asked, query_type) {
            return Known::Answer(answer, Source::Hosts);
        }
        let authority = self.authority.read().unwrap_or_else(PoisonError::into_inner).clone();
        let found = match authority {
            Some(authority) => authority.find(asked, query_type, request.id.into()),
            None if self.origin.zone_of(asked) => {
                return Known::Answer(Answer::empty(ResponseCode::ServFail), Source::Zone);
            }
            None => Found::NotOurs,
        };
        match found {
            Found::Answer(answer) => Known::Answer(answer, Source::Zone),
            Found::NotOurs => self.elsewhere(request, Vec::new(), asked.clone(), now),
            Found::Alias { so_far, target } => match self.hosts.find(&target, query_type) {
                Some(answer) => Known::Answer(behind(so_far, answer), Source::Hosts),
                None => self.elsewhere(request, so_far, target, now),
            },
        }
    }

    fn elsewhere(&self, request: &Request, so_far: Vec<Record>, name: Name, now: Instant) -> Known {
        let (query_type, dnssec_ok) = (request.query_type(), request.dnssec_ok());
        let key = Key::new(&name, query_type, dnssec_ok, request.checking_disabled);
        let upstreams = self.upstreams();
        if let Some(answer) = upstreams.cache.get(&key, now) {
            return Known::Answer(behind(so_far, answer), Source::Cache);
        }
        if !request.recursion_desired {
            // An alias of ours is an answer, if not all of it; of other zones nothing is known.
            let code = if so_far.is_empty() { ResponseCode::Refused } else { ResponseCode::NoError };
            return Known::Answer(behind(so_far, Answer::empty(code)), Source::Refused);
        }
        let inquiry = Inquiry {
            key,
            group: Arc::clone(upstreams.routes.group(&name)),
            cache: Arc::clone(&upstreams.cache),
            question: Query::query(name, query_type),
            dnssec_ok,
            checking_disabled: request.checking_disabled,
        };
        Known::Elsewhere(so_far, inquiry)
    }

    fn reply(
        &self,
        request: &Request,
        transport: Transport,
        arrived: Instant,
        answer: Answer,
        source: Source,
    ) -> Reply {
        let limit = match transport {
            Transport::Udp => request.udp_limit(),
            Transport::Tcp => TCP_LIMIT,
        };
        let code = answer.code;
        let wait = self.witness.tell(request, &answer.answers);
        let written = wire::write(request, answer, limit)
            .or_else(|| wire::write(request, Answer::empty(ResponseCode::ServFail), limit));
        let Some(bytes) = written else {
            self.metrics.dropped("unwritable");
            return Reply::Nothing;
        };
        let query_type = Some(request.query_type());
        self.metrics.answered(Answered { transport, query_type, code, source, took: arrived.elapsed() });
        match wait {
            Some(wait) => Reply::Withheld(Withheld { bytes, wait }),
            None => Reply::Now(bytes),
        }
    }
}

/// The aliases first, then what they lead to (RFC 6604 §3: the code is that of the last).
fn behind(mut so_far: Vec<Record>, mut answer: Answer) -> Answer {
    if !so_far.is_empty() {
        // AA is about the first name (RFC 1035 §4.1.1).
        answer.authoritative = true;
        so_far.append(&mut answer.answers);
        answer.answers = so_far;
    }
    answer
}
