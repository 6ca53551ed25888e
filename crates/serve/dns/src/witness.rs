//! Who hears of addresses before the answer that has them leaves: what policies by domain names are made true with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::rr::{Name, RData, Record};
use sheetbend_model::types::DomainPattern;
use tokio::sync::{mpsc, oneshot};

use crate::wire::Request;

/// How long an answer waits for who hears of it. Clients ask again after 5 s (resolv.conf(5)), and others wait behind it.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is told and not heard yet, at most.
const UNHEARD: usize = 1_024;

/// Addresses that an answer gives to names.
#[derive(Debug)]
pub struct Told {
    /// The name that was asked for, and those that its aliases lead to (RFC 1034 §3.6.2); lower case, no dot at the end.
    pub names: Vec<String>,
    /// What A and AAAA records at the end say.
    pub addresses: BTreeSet<IpAddr>,
    /// The least TTL on the way, seconds.
    pub ttl: u32,
    /// Taken once whoever hears has done what it must; dropped where nobody does.
    pub heard: oneshot::Sender<()>,
}

/// The side of the name server: knows which names are asked about, and holds answers back until they are heard.
#[derive(Debug)]
pub(crate) struct Witness {
    patterns: RwLock<Arc<BTreeSet<DomainPattern>>>,
    told: mpsc::Sender<Told>,
}

impl Witness {
    /// Whatever the other end is told comes out there.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Told>) {
        let (told, heard) = mpsc::channel(UNHEARD);
        (Self { patterns: RwLock::default(), told }, heard)
    }

    /// Only addresses of names that one of these is for are told from now on.
    pub(crate) fn set_patterns(&self, patterns: BTreeSet<DomainPattern>) {
        *self.patterns.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(patterns);
    }

    /// Tells of `answers` to `request`, if somebody asks about a name in it. The answer shall wait for what comes back.
    pub(crate) fn tell(&self, request: &Request, answers: &[Record]) -> Option<Wait> {
        let patterns = Arc::clone(&self.patterns.read().unwrap_or_else(PoisonError::into_inner));
        if patterns.is_empty() || answers.is_empty() {
            return None;
        }
        let (names, addresses, ttl) = read(&request.question.name, answers);
        let is_asked_about = |name: &String| patterns.iter().any(|pattern| pattern.matches(name));
        if addresses.is_empty() || !names.iter().any(is_asked_about) {
            return None;
        }
        let (heard, wait) = oneshot::channel();
        // Where too much is unheard nothing is learnt, and what is not learnt stays closed.
        self.told.try_send(Told { names, addresses, ttl, heard }).ok()?;
        Some(Wait(wait))
    }
}

/// Ends when what was told is heard, when nobody hears, or when it has lasted too long.
#[derive(Debug)]
pub(crate) struct Wait(oneshot::Receiver<()>);

impl Wait {
    /// Whether it was heard.
    pub(crate) async fn over(self) -> bool {
        matches!(tokio::time::timeout(PATIENCE, self.0).await, Ok(Ok(())))
    }
}

/// The names from `asked` along its aliases, the addresses at their end, and the least TTL.
fn read(asked: &Name, answers: &[Record]) -> (Vec<String>, BTreeSet<IpAddr>, u32) {
    let mut by_name: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in answers {
        by_name.entry(text(&record.name)).or_default().push(record);
    }
    let (mut names, mut addresses, mut ttl) = (Vec::new(), BTreeSet::new(), u32::MAX);
    let mut next = Some(text(asked));
    // Aliases may go in circles.
    while let Some(name) = next.take().filter(|name| !names.contains(name)) {
        let records = by_name.get(&name).map(Vec::as_slice).unwrap_or_default();
        // Beside an alias there is nothing else (RFC 1034 §3.6.2): addresses there would be given to the alias's target.
        let is_alias = records.iter().any(|record| matches!(record.data, RData::CNAME(_)));
        for record in records {
            if is_alias && !matches!(record.data, RData::CNAME(_)) {
                continue;
            }
            if let RData::A(addr) = &record.data {
                addresses.insert(IpAddr::V4(addr.0));
            } else if let RData::AAAA(addr) = &record.data {
                addresses.insert(IpAddr::V6(addr.0));
            } else if let RData::CNAME(target) = &record.data {
                next = Some(text(&target.0));
            } else {
                continue;
            }
            ttl = ttl.min(record.ttl);
        }
        names.push(name);
    }
    (names, addresses, ttl)
}

fn text(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use hickory_proto::rr::rdata;

    use super::*;
    use crate::answer::name;

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner).unwrap(), ttl, data)
    }

    #[test]
    fn every_name_of_a_chain_has_the_addresses_at_its_end() {
        let answers = [
            record("www.example.com", 300, RData::CNAME(rdata::CNAME(name("Edge.example.net").unwrap()))),
            record("edge.example.net", 20, RData::A(rdata::A([192, 0, 2, 1].into()))),
            record("edge.example.net", 60, RData::A(rdata::A([192, 0, 2, 2].into()))),
            // An alias has no addresses of its own.
            record("www.example.com", 5, RData::A(rdata::A([192, 0, 2, 4].into()))),
            // Nobody asked for this one.
            record("other.example.net", 1, RData::A(rdata::A([192, 0, 2, 3].into()))),
        ];
        let (names, addresses, ttl) = read(&name("WWW.example.com").unwrap(), &answers);
        assert_eq!(names, ["www.example.com", "edge.example.net"]);
        assert_eq!(addresses.len(), 2);
        assert_eq!(ttl, 20);
    }

    #[test]
    fn a_circle_of_aliases_ends() {
        let alias = |from: &str, to: &str| record(from, 1, RData::CNAME(rdata::CNAME(name(to).unwrap())));
        let (names, addresses, _) =
            read(&name("a.test").unwrap(), &[alias("a.test", "b.test"), alias("b.test", "a.test")]);
        assert_eq!((names.len(), addresses.len()), (2, 0));
    }
}
