//! Fixed entries, as in a hosts file: they win over the zone and over upstream servers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::answer::{Answer, name};
use crate::authority::address_of;

/// Names with fixed addresses.
#[derive(Clone, Debug)]
pub struct Hosts {
    addresses: BTreeMap<Name, Vec<IpAddr>>,
    names: BTreeMap<IpAddr, Vec<Name>>,
    ttl: u32,
}

impl Hosts {
    /// `entries` and `localhost`, which never leaves the machine (RFC 6761 §6.3). `ttl` in seconds. A text that is no
    /// domain name is left out.
    pub fn new<'a>(entries: impl IntoIterator<Item = (IpAddr, &'a str)>, ttl: u32) -> Self {
        let mut hosts = Self { addresses: BTreeMap::new(), names: BTreeMap::new(), ttl };
        let local = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let local = local.into_iter().map(|addr| (addr, "localhost"));
        for (addr, text) in entries.into_iter().chain(local) {
            let Some(name) = name(text.trim_end_matches('.')).map(|name| name.to_lowercase()) else {
                continue;
            };
            hosts.addresses.entry(name.clone()).or_default().push(addr.to_canonical());
            hosts.names.entry(addr.to_canonical()).or_default().push(name);
        }
        hosts
    }

    /// The answer for a name or address that has an entry. A type that the entry lacks is NODATA, not somebody else's.
    pub(crate) fn find(&self, name: &Name, query_type: RecordType) -> Option<Answer> {
        let answers = match self.addresses.get(&name.to_lowercase()) {
            Some(addresses) => self.addresses_of(name, addresses, query_type),
            None => self.pointers(name, self.names.get(&address_of(name)?)?, query_type),
        };
        Some(Answer { authoritative: true, answers, ..Answer::empty(ResponseCode::NoError) })
    }

    fn addresses_of(&self, name: &Name, addresses: &[IpAddr], query_type: RecordType) -> Vec<Record> {
        let data = addresses.iter().filter_map(|addr| match addr {
            IpAddr::V4(addr) if query_type != RecordType::AAAA => Some(RData::A(A(*addr))),
            IpAddr::V6(addr) if query_type != RecordType::A => Some(RData::AAAA(AAAA(*addr))),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        });
        let asked = matches!(query_type, RecordType::A | RecordType::AAAA | RecordType::ANY);
        data.filter(|_| asked).map(|data| Record::from_rdata(name.clone(), self.ttl, data)).collect()
    }

    fn pointers(&self, name: &Name, names: &[Name], query_type: RecordType) -> Vec<Record> {
        let asked = matches!(query_type, RecordType::PTR | RecordType::ANY);
        let data = names.iter().filter(|_| asked).map(|target| RData::PTR(PTR(target.clone())));
        data.map(|data| Record::from_rdata(name.clone(), self.ttl, data)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn entries_answer_in_both_directions() {
        let hosts = Hosts::new([("192.0.2.1".parse().unwrap(), "DB.example.com.")], 5);
        let asked = name("db.EXAMPLE.com").unwrap();
        let found = hosts.find(&asked, RecordType::A).unwrap();
        assert_eq!(found.answers[0].data.to_string(), "192.0.2.1");
        assert_eq!(found.answers[0].name, asked);
        assert!(hosts.find(&asked, RecordType::AAAA).unwrap().answers.is_empty(), "NODATA");
        let reverse = name("1.2.0.192.in-addr.arpa").unwrap();
        assert_eq!(
            hosts.find(&reverse, RecordType::PTR).unwrap().answers[0].data.to_string(),
            "db.example.com."
        );
        assert!(hosts.find(&name("www.example.com").unwrap(), RecordType::A).is_none());
        let localhost = hosts.find(&name("localhost").unwrap(), RecordType::AAAA).unwrap();
        assert_eq!(localhost.answers[0].data.to_string(), "::1");
    }
}
