//! What the cluster's zone says.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{CNAME, NS, PTR, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use sheetbend_model::plan::{self, Zone, ZoneKey};

use crate::answer::{Answer, data, name, record_type};

/// Aliases followed within the zone, at most; more make a loop.
const MAX_ALIASES: usize = 8;

/// Hosts of SRV records whose addresses are told without being asked, at most.
const MAX_ADDITIONAL_HOSTS: usize = 32;

/// The name server that the zone's NS record names: the Service that clients ask.
const NAME_SERVER: &str = "kube-dns.kube-system.svc";

/// The zone at one moment, ready to be asked.
#[derive(Clone, Debug)]
pub struct Authority {
    origin: Name,
    zone: Zone,
    /// TTL of all records, and how long a resolver may remember that a name does not exist. Seconds.
    ttl: u32,
    /// SOA serial (RFC 1035 §3.3.13): grows with each change.
    serial: u32,
}

/// What the zone makes of a question.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// The name is another zone's.
    NotOurs,
    /// All there is to say.
    Answer(Answer),
    /// The name is an alias of a name of another zone, which holds the rest.
    Alias { so_far: Vec<Record>, target: Name },
}

impl Authority {
    /// `zone` below `origin` (such as `cluster.local`). `None` where `origin` is no domain name.
    pub fn new(origin: &str, zone: Zone, ttl: u32, serial: u32) -> Option<Self> {
        Some(Self { origin: name(origin)?, zone, ttl, serial })
    }

    /// How many names have records.
    pub fn names(&self) -> usize {
        self.zone.len()
    }

    /// The zone's SOA serial.
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether a name belongs to the zone.
    pub(crate) fn covers(&self, name: &Name) -> bool {
        self.origin.zone_of(name)
    }

    /// Answers one question. `turn` chooses which of equal records comes first.
    pub(crate) fn find(&self, name: &Name, query_type: RecordType, turn: usize) -> Found {
        if self.covers(name) {
            return self.find_below(name.clone(), query_type, turn);
        }
        match address_of(name).and_then(|addr| self.zone.names_of(addr)) {
            Some(names) => Found::Answer(self.pointers(name, names, query_type)),
            None => Found::NotOurs,
        }
    }

    fn find_below(&self, asked: Name, query_type: RecordType, turn: usize) -> Found {
        let mut answers = Vec::new();
        let mut name = asked;
        for _ in 0..MAX_ALIASES {
            let Some(records) = self.key(&name).and_then(|key| self.zone.find(&key)) else {
                return Found::Answer(self.negative(ResponseCode::NXDomain, answers));
            };
            let mut aliases = records.iter().filter(|_| query_type != RecordType::CNAME);
            let alias =
                aliases.find_map(
                    |record| {
                        if let plan::Record::Cname(target) = record { Some(target) } else { None }
                    },
                );
            let Some(target) = alias else {
                return Found::Answer(self.records(&name, &records, query_type, turn, answers));
            };
            let Some(target) = crate::answer::name(target) else {
                return Found::Answer(Answer::empty(ResponseCode::ServFail));
            };
            answers.push(self.record(name, RData::CNAME(CNAME(target.clone()))));
            if query_type == RecordType::ANY {
                return Found::Answer(self.positive(answers, Vec::new()));
            }
            if !self.covers(&target) {
                return Found::Alias { so_far: answers, target };
            }
            name = target;
        }
        Found::Answer(Answer::empty(ResponseCode::ServFail))
    }

    /// The place of a name in the zone.
    fn key(&self, name: &Name) -> Option<ZoneKey> {
        let mut key = ZoneKey::new();
        let mut labels = name.iter().rev().skip(self.origin.num_labels().into());
        labels.all(|label| key.push(label)).then_some(key)
    }

    fn records(
        &self,
        name: &Name,
        records: &[plan::Record],
        query_type: RecordType,
        turn: usize,
        mut answers: Vec<Record>,
    ) -> Answer {
        let apex = name.num_labels() == self.origin.num_labels();
        let before = answers.len();
        // RFC 8482 §4.1: any one RRset answers ANY.
        let wanted = match (query_type, records.first()) {
            (RecordType::ANY, Some(first)) => record_type(first),
            (RecordType::ANY, None) if apex => RecordType::SOA,
            _ => query_type,
        };
        if apex && wanted == RecordType::SOA {
            answers.push(self.soa());
        } else if apex && wanted == RecordType::NS {
            answers.extend(self.name_server());
        } else {
            let found = records.iter().filter(|record| record_type(record) == wanted);
            answers.extend(found.filter_map(data).map(|data| self.record(name.clone(), data)));
        }
        if answers.len() == before {
            return self.negative(ResponseCode::NoError, answers);
        }
        let rrset = &mut answers[before..];
        rrset.rotate_left(turn % rrset.len());
        let additionals = self.hosts_of(rrset);
        self.positive(answers, additionals)
    }

    /// The addresses of the hosts that SRV and NS records name (RFC 2782, "Usage rules").
    fn hosts_of(&self, records: &[Record]) -> Vec<Record> {
        let mut hosts: Vec<&Name> = Vec::new();
        for record in records {
            let host = if let RData::SRV(srv) = &record.data {
                &srv.target
            } else if let RData::NS(NS(host)) = &record.data {
                host
            } else {
                continue;
            };
            if hosts.len() < MAX_ADDITIONAL_HOSTS && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let mut additionals = Vec::new();
        for host in hosts {
            let found = self.key(host).and_then(|key| self.zone.find(&key)).unwrap_or_default();
            let addresses = found
                .iter()
                .filter(|record| matches!(record, plan::Record::A(_) | plan::Record::Aaaa(_)))
                .filter_map(data);
            additionals.extend(addresses.map(|data| self.record(host.clone(), data)));
        }
        additionals
    }

    fn pointers(&self, name: &Name, names: &[Arc<str>], query_type: RecordType) -> Answer {
        let asked = matches!(query_type, RecordType::PTR | RecordType::ANY);
        let targets = names.iter().filter(|_| asked).filter_map(|target| crate::answer::name(target));
        let answers: Vec<Record> =
            targets.map(|target| self.record(name.clone(), RData::PTR(PTR(target)))).collect();
        if answers.is_empty() {
            self.negative(ResponseCode::NoError, answers)
        } else {
            self.positive(answers, Vec::new())
        }
    }

    fn positive(&self, answers: Vec<Record>, additionals: Vec<Record>) -> Answer {
        Answer { authoritative: true, answers, additionals, ..Answer::empty(ResponseCode::NoError) }
    }

    /// With the SOA record that says how long the answer may be remembered (RFC 2308 §3).
    fn negative(&self, code: ResponseCode, answers: Vec<Record>) -> Answer {
        Answer { authoritative: true, answers, authorities: vec![self.soa()], ..Answer::empty(code) }
    }

    fn record(&self, name: Name, data: RData) -> Record {
        Record::from_rdata(name, self.ttl, data)
    }

    fn soa(&self) -> Record {
        let below = |label: &str| self.origin.prepend_label(label).unwrap_or_else(|_| self.origin.clone());
        let server = self.name_server_name().unwrap_or_else(|| self.origin.clone());
        // Nobody transfers the zone, so refresh, retry and expire are customary values (RFC 1912 §2.2).
        let soa = SOA::new(server, below("hostmaster"), self.serial, 7200, 1800, 86_400, self.ttl);
        self.record(self.origin.clone(), RData::SOA(soa))
    }

    fn name_server(&self) -> Option<Record> {
        Some(self.record(self.origin.clone(), RData::NS(NS(self.name_server_name()?))))
    }

    fn name_server_name(&self) -> Option<Name> {
        name(NAME_SERVER)?.append_domain(&self.origin).ok()
    }
}

/// The address that a name below in-addr.arpa (RFC 1035 §3.5) or ip6.arpa (RFC 3596 §2.5) stands for.
pub(crate) fn address_of(name: &Name) -> Option<IpAddr> {
    let labels = name.num_labels();
    if labels != 6 && labels != 34 {
        return None;
    }
    let block = name.parse_arpa_name().ok()?;
    (block.prefix_len() == block.max_prefix_len()).then(|| block.addr())
}
