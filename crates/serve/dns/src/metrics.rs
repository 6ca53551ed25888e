//! What happened, counted. Everything comes from one fact per query, [`Answered`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What a query came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Transport {
    /// RFC 1035 §4.2.1.
    Udp,
    /// RFC 7766.
    Tcp,
}

/// Who knew the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Source {
    /// Fixed entries.
    Hosts,
    /// The cluster's zone.
    Zone,
    /// The cache of what upstream servers said.
    Cache,
    /// An upstream server.
    Upstream,
    /// Nobody: the query itself is refused.
    Refused,
}

/// One answered query.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// What it came by.
    pub transport: Transport,
    /// Its type; `None` where it could not be read.
    pub query_type: Option<RecordType>,
    /// RCODE of the answer.
    pub code: ResponseCode,
    /// Who knew.
    pub source: Source,
    /// From the query's arrival to the answer.
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    transport: Transport,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    source: Source,
    rcode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The counters of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    queries: Family<QueryLabels, Counter<u64, AtomicU64>>,
    answers: Family<AnswerLabels, Counter<u64, AtomicU64>>,
    durations: Histograms<SourceLabels>,
    dropped: Family<ReasonLabels, Counter<u64, AtomicU64>>,
    forwards: Histograms<UpstreamLabels>,
    forward_failures: Family<UpstreamLabels, Counter<u64, AtomicU64>>,
    names: Gauge<i64, AtomicI64>,
    serial: Gauge<i64, AtomicI64>,
    cached: Gauge<i64, AtomicI64>,
}

/// 16 µs to 4 s.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_016, 4.0, 10))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("sheetbend_dns"),
            queries: Family::default(),
            answers: Family::default(),
            durations: Family::new_with_constructor(histogram as fn() -> Histogram),
            dropped: Family::default(),
            forwards: Family::new_with_constructor(histogram as fn() -> Histogram),
            forward_failures: Family::default(),
            names: Gauge::default(),
            serial: Gauge::default(),
            cached: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("queries", "Queries, by transport and type", self.queries.clone());
        registry.register("answers", "Answers, by who knew them and RCODE", self.answers.clone());
        let help = "From a query's arrival to its answer, by who knew it";
        registry.register("answer_duration_seconds", help, self.durations.clone());
        registry.register("dropped", "Queries without an answer, and forwards refused", self.dropped.clone());
        let help = "Answer time of upstream servers";
        registry.register("forward_duration_seconds", help, self.forwards.clone());
        let help = "Upstream servers that gave no answer";
        registry.register("forward_failures", help, self.forward_failures.clone());
        registry.register("zone_names", "Names in the cluster's zone", self.names.clone());
        registry.register("zone_serial", "SOA serial of the cluster's zone", self.serial.clone());
        registry.register("cache_entries", "Answers of upstream servers remembered", self.cached.clone());
    }

    /// Everything in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    pub(crate) fn answered(&self, event: Answered) {
        let labels =
            QueryLabels { transport: event.transport, r#type: event.query_type.map_or("none", type_label) };
        self.queries.get_or_create(&labels).inc();
        let labels = AnswerLabels { source: event.source, rcode: code_label(event.code) };
        self.answers.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&SourceLabels { source: event.source })
            .observe(event.took.as_secs_f64());
    }

    pub(crate) fn dropped(&self, reason: &'static str) {
        self.dropped.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(crate) fn forwarded(&self, server: SocketAddr, took: Duration) {
        let labels = UpstreamLabels { upstream: server.to_string() };
        self.forwards.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn forward_failed(&self, server: SocketAddr) {
        self.forward_failures.get_or_create(&UpstreamLabels { upstream: server.to_string() }).inc();
    }

    pub(crate) fn zone(&self, names: usize, serial: u32) {
        self.names.set(i64::try_from(names).unwrap_or(i64::MAX));
        self.serial.set(serial.into());
    }

    pub(crate) fn cached(&self, entries: usize) {
        self.cached.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}

/// Types that pods ask for; the rest share a label, so that no client can make labels.
fn type_label(query_type: RecordType) -> &'static str {
    const KNOWN: [(RecordType, &str); 12] = [
        (RecordType::A, "A"),
        (RecordType::AAAA, "AAAA"),
        (RecordType::SRV, "SRV"),
        (RecordType::PTR, "PTR"),
        (RecordType::TXT, "TXT"),
        (RecordType::CNAME, "CNAME"),
        (RecordType::SOA, "SOA"),
        (RecordType::NS, "NS"),
        (RecordType::MX, "MX"),
        (RecordType::HTTPS, "HTTPS"),
        (RecordType::SVCB, "SVCB"),
        (RecordType::ANY, "ANY"),
    ];
    KNOWN.iter().find(|(known, _)| *known == query_type).map_or("other", |(_, label)| label)
}

fn code_label(code: ResponseCode) -> &'static str {
    const KNOWN: [(ResponseCode, &str); 7] = [
        (ResponseCode::NoError, "NOERROR"),
        (ResponseCode::NXDomain, "NXDOMAIN"),
        (ResponseCode::ServFail, "SERVFAIL"),
        (ResponseCode::Refused, "REFUSED"),
        (ResponseCode::FormErr, "FORMERR"),
        (ResponseCode::NotImp, "NOTIMP"),
        (ResponseCode::BADVERS, "BADVERS"),
    ];
    KNOWN.iter().find(|(known, _)| *known == code).map_or("other", |(_, label)| label)
}
