//! The cluster's DNS zone as a table: owner name → records, and address → names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::types::Port;

/// One resource record without owner, class and TTL, which its zone gives it. Names are absolute, in lower case,
/// without the dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// RFC 1035 §3.4.1.
    A(Ipv4Addr),
    /// RFC 3596 §2.1.
    Aaaa(Ipv6Addr),
    /// RFC 1035 §3.3.1.
    Cname(Arc<str>),
    /// RFC 2782; priority and weight are the same for all, as every target is as good.
    Srv {
        /// Where the target listens.
        port: Port,
        /// The host.
        target: Arc<str>,
    },
    /// RFC 1035 §3.3.14: one character string, up to 255 bytes.
    Txt(Arc<str>),
}

impl Record {
    /// An A or AAAA record.
    pub fn address(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Record::A(addr),
            IpAddr::V6(addr) => Record::Aaaa(addr),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Record::A(addr) => write!(f, "A {addr}"),
            Record::Aaaa(addr) => write!(f, "AAAA {addr}"),
            Record::Cname(name) => write!(f, "CNAME {name}."),
            Record::Srv { port, target } => write!(f, "SRV {port} {target}."),
            Record::Txt(text) => write!(f, "TXT {text:?}"),
        }
    }
}

/// The place of an owner name in a zone: its labels below the apex, the one nearest the apex first, each followed by a
/// zero byte, in lower case. So what lies below a name follows it (the canonical order of RFC 4034 §6.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZoneKey(Vec<u8>);

impl ZoneKey {
    /// The apex.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name one label below; `false`, and nothing is added, where no name of a zone has such a label.
    pub fn push(&mut self, label: &[u8]) -> bool {
        let fits = !label.is_empty() && label.len() <= 63 && !label.contains(&0);
        if fits {
            self.0.extend(label.iter().map(u8::to_ascii_lowercase));
            self.0.push(0);
        }
        fits
    }

    /// `_http._tcp.web.shop.svc` as written, from the label farthest from the apex; `None` where it is no name.
    pub fn of(relative: &str) -> Option<Self> {
        let mut key = Self::new();
        let mut labels = relative.rsplit('.').filter(|label| !label.is_empty());
        labels.all(|label| key.push(label.as_bytes())).then_some(key)
    }

    /// The labels, the one nearest the apex first.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == 0).filter(|label| !label.is_empty())
    }
}

impl fmt::Display for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<&[u8]> = self.labels().collect();
        for (index, label) in labels.iter().rev().enumerate() {
            let dot = if index > 0 { "." } else { "" };
            write!(f, "{dot}{}", String::from_utf8_lossy(label))?;
        }
        Ok(())
    }
}

/// The zone of one cluster. Cloning is O(1), a change costs one path of a tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Zone {
    /// Owner name → its records, sorted. A name that only has names below it has no entry.
    names: OrdMap<Arc<[u8]>, Arc<[Record]>>,
    /// Address → the names it stands for, sorted: PTR records.
    reverse: OrdMap<IpAddr, Arc<[Arc<str>]>>,
    /// (Namespace, address) → how many Pods have it: the `pod` names, of which there may be many.
    pods: OrdMap<(Arc<str>, IpAddr), u32>,
    /// Namespaces in which every address has a `pod` name.
    open: OrdSet<Arc<str>>,
}

impl Zone {
    /// What a name has: `None` where neither it nor a name below it exists (NXDOMAIN), an empty list where it exists
    /// without records (NODATA). O(log n).
    pub fn find(&self, key: &ZoneKey) -> Option<Arc<[Record]>> {
        let bytes = key.0.as_slice();
        if let Some(records) = self.names.get(bytes) {
            return Some(Arc::clone(records));
        }
        if bytes.is_empty() || self.has_below(bytes) {
            return Some(Arc::default());
        }
        self.find_pod(key)
    }

    /// The names that `addr` stands for, sorted.
    pub fn names_of(&self, addr: IpAddr) -> Option<&Arc<[Arc<str>]>> {
        self.reverse.get(&addr)
    }

    /// How many names have records.
    pub fn len(&self) -> usize {
        self.names.len() + self.pods.len()
    }

    /// Whether no name has records.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.reverse.is_empty() && self.pods.is_empty() && self.open.is_empty()
    }

    /// Every name with its records, then every address, as one line each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let names = self.names.iter().flat_map(|(key, records)| {
            let name = ZoneKey(key.to_vec());
            records.iter().map(move |record| format!("{name} {record}"))
        });
        let reverse = self
            .reverse
            .iter()
            .flat_map(|(addr, names)| names.iter().map(move |name| format!("{addr} PTR {name}.")));
        let pods = self.pods.keys().map(|(namespace, addr)| format!("{addr} in pod namespace {namespace}"));
        let open = self.open.iter().map(|namespace| format!("any address in pod namespace {namespace}"));
        names.chain(reverse).chain(pods).chain(open)
    }

    /// Gives a name its records, in the place of those it had; none takes it away.
    pub fn set(&mut self, key: ZoneKey, mut records: Vec<Record>) {
        records.sort_unstable();
        records.dedup();
        if records.is_empty() {
            self.names.remove(key.0.as_slice());
        } else {
            self.names.insert(key.0.into(), records.into());
        }
    }

    /// Lets `addr` stand for `name` too.
    pub fn add_pointer(&mut self, addr: IpAddr, name: Arc<str>) {
        let mut names = self.reverse.get(&addr).map(|names| names.to_vec()).unwrap_or_default();
        if let Err(index) = names.binary_search(&name) {
            names.insert(index, name);
            self.reverse.insert(addr, names.into());
        }
    }

    /// Lets `addr` no longer stand for `name`.
    pub fn remove_pointer(&mut self, addr: IpAddr, name: &str) {
        let Some(names) = self.reverse.get(&addr) else { return };
        let left: Vec<Arc<str>> = names.iter().filter(|other| &***other != name).cloned().collect();
        if left.is_empty() {
            self.reverse.remove(&addr);
        } else {
            self.reverse.insert(addr, left.into());
        }
    }

    /// One more Pod of `namespace` has `addr`.
    pub fn add_pod(&mut self, namespace: &Arc<str>, addr: IpAddr) {
        let key = (Arc::clone(namespace), addr);
        let count = self.pods.get(&key).copied().unwrap_or_default();
        self.pods.insert(key, count + 1);
    }

    /// One Pod of `namespace` less has `addr`.
    pub fn remove_pod(&mut self, namespace: &Arc<str>, addr: IpAddr) {
        let key = (Arc::clone(namespace), addr);
        match self.pods.get(&key).copied() {
            Some(count) if count > 1 => drop(self.pods.insert(key, count - 1)),
            _ => drop(self.pods.remove(&key)),
        }
    }

    /// Whether every address has a `pod` name in `namespace`, be there such a Pod or not.
    pub fn set_open(&mut self, namespace: &Arc<str>, open: bool) {
        if open {
            self.open.insert(Arc::clone(namespace));
        } else {
            self.open.remove(namespace);
        }
    }

    fn has_below(&self, bytes: &[u8]) -> bool {
        let behind = (Bound::Excluded(bytes), Bound::Unbounded);
        self.names.range::<_, [u8]>(behind).next().is_some_and(|(next, _)| next.starts_with(bytes))
    }

    /// `10-0-0-1.<namespace>.pod`, and the two names above it.
    fn find_pod(&self, key: &ZoneKey) -> Option<Arc<[Record]>> {
        let mut labels = key.labels();
        labels.next().filter(|label| *label == b"pod")?;
        let Some(namespace) = labels.next() else {
            return (!self.pods.is_empty() || !self.open.is_empty()).then(Arc::default);
        };
        let namespace: Arc<str> = std::str::from_utf8(namespace).ok()?.into();
        let Some(label) = labels.next() else {
            if self.open.contains(&namespace) {
                return Some(Arc::default());
            }
            let from = (namespace.clone(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let next = self.pods.range(from..).next();
            return next.filter(|((other, _), _)| *other == namespace).map(|_| Arc::default());
        };
        let addr = dashed_address(std::str::from_utf8(label).ok()?)?;
        let known = labels.next().is_none()
            && (self.open.contains(&namespace) || self.pods.contains_key(&(namespace, addr)));
        known.then(|| Arc::from([Record::address(addr)]))
    }
}

/// `10-0-0-1` or `fd00--1` as an address.
fn dashed_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// `10-0-0-1` or `fd00--1`: an address as one label.
pub fn dashed(addr: IpAddr) -> String {
    addr.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn key(text: &str) -> ZoneKey {
        ZoneKey::of(text).unwrap()
    }

    #[test]
    fn names_above_records_exist_and_others_do_not() {
        let mut zone = Zone::default();
        let web: IpAddr = "10.96.0.1".parse().unwrap();
        zone.set(key("_http._tcp.web.shop.svc"), vec![Record::address(web)]);
        for exists in ["_tcp.web.shop.svc", "web.shop.svc", "SHOP.svc", "svc", ""] {
            assert_eq!(zone.find(&key(exists)).unwrap().len(), 0, "{exists}");
        }
        for absent in ["we.shop.svc", "web2.shop.svc", "x._http._tcp.web.shop.svc", "shop", "pod"] {
            assert_eq!(zone.find(&key(absent)), None, "{absent}");
        }
        assert_eq!(*zone.find(&key("_HTTP._tcp.web.shop.svc")).unwrap(), [Record::address(web)]);
        zone.set(key("_http._tcp.web.shop.svc"), Vec::new());
        assert!(zone.is_empty());
    }

    #[test]
    fn a_pod_has_a_name_as_long_as_one_pod_has_its_address() {
        let mut zone = Zone::default();
        let (shop, addr): (Arc<str>, IpAddr) = ("shop".into(), "fd00::1".parse().unwrap());
        zone.add_pod(&shop, addr);
        zone.add_pod(&shop, addr);
        zone.remove_pod(&shop, addr);
        assert_eq!(*zone.find(&key("fd00--1.shop.pod")).unwrap(), [Record::address(addr)]);
        assert_eq!(zone.find(&key("shop.pod")).map(|records| records.len()), Some(0));
        assert_eq!(zone.find(&key("fd00--2.shop.pod")), None);
        assert_eq!(zone.find(&key("fd00--1.other.pod")), None);
        assert_eq!(zone.find(&key("x.fd00--1.shop.pod")), None);
        zone.remove_pod(&shop, addr);
        assert!(zone.is_empty());
    }

    #[test]
    fn in_an_open_namespace_every_address_has_a_name() {
        let mut zone = Zone::default();
        zone.set_open(&"shop".into(), true);
        let addr: IpAddr = "fd00::2".parse().unwrap();
        assert_eq!(*zone.find(&key("fd00--2.shop.pod")).unwrap(), [Record::address(addr)]);
        for exists in ["pod", "shop.pod"] {
            assert_eq!(zone.find(&key(exists)).map(|records| records.len()), Some(0), "{exists}");
        }
        for absent in ["10-0-0-1.other.pod", "10-0-0-256.shop.pod", "x.10-0-0-1.shop.pod", "web.shop.pod"] {
            assert_eq!(zone.find(&key(absent)), None, "{absent}");
        }
        zone.set_open(&"shop".into(), false);
        assert!(zone.is_empty());
    }

    #[test]
    fn an_address_stands_for_several_names() {
        let mut zone = Zone::default();
        let addr: IpAddr = "10.0.0.1".parse().unwrap();
        zone.add_pointer(addr, "b".into());
        zone.add_pointer(addr, "a".into());
        zone.add_pointer(addr, "a".into());
        assert_eq!(zone.lines().collect::<Vec<_>>(), ["10.0.0.1 PTR a.", "10.0.0.1 PTR b."]);
        zone.remove_pointer(addr, "a");
        zone.remove_pointer(addr, "b");
        assert!(zone.is_empty());
    }

    #[test]
    fn a_label_that_no_name_has_is_refused() {
        let mut key = ZoneKey::new();
        assert!(!key.push(b"a\0b") && !key.push(b"") && !key.push(&[b'a'; 64]));
        assert_eq!(key, ZoneKey::new());
    }
}
