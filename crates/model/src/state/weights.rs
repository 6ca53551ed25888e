//! Weights of endpoints (annotation `sheetbend.dev/weights`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Endpoint;

/// The greatest weight.
const MOST: u8 = 100;

/// What an annotation `sheetbend.dev/weights` gives endpoints: `NAME=WEIGHT` for each, separated by commas, where NAME is
/// a Pod's name or an endpoint's address and WEIGHT is 0 to 100.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Pod name, or address in its canonical spelling → weight.
    given: BTreeMap<Arc<str>, u8>,
    /// Why the text says nothing; then `given` is empty.
    fault: Option<Arc<str>>,
}

impl Weights {
    /// Reads the annotation's text. What is wrong anywhere leaves the whole of it out: see [`Weights::fault`].
    pub fn read(text: &str) -> Self {
        match parse(text) {
            Ok(given) => Self { given, fault: None },
            Err(fault) => Self { given: BTreeMap::new(), fault: Some(fault.into()) },
        }
    }

    /// The endpoint's weight, by its Pod's name or else by its first address; `None` where nothing is said of it.
    pub fn of(&self, endpoint: &Endpoint) -> Option<u8> {
        if self.given.is_empty() {
            return None;
        }
        let by_name = endpoint.pod.as_ref().and_then(|(key, _)| self.given.get(&key.name));
        let by_address = || {
            let address = endpoint.address?.to_canonical().to_string();
            self.given.get(address.as_str())
        };
        by_name.or_else(by_address).copied()
    }

    /// What is wrong with the text, and how to write it.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }
}

fn parse(text: &str) -> Result<BTreeMap<Arc<str>, u8>, String> {
    let mut given = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let Some((name, weight)) = item.split_once('=') else {
            return Err(format!("{item:?} has no weight; write POD=WEIGHT or ADDRESS=WEIGHT"));
        };
        let (name, weight) = (name.trim(), weight.trim());
        if name.is_empty() {
            return Err(format!("{item:?} names no endpoint; write POD=WEIGHT or ADDRESS=WEIGHT"));
        }
        let number = weight.parse::<u8>().ok().filter(|number| *number <= MOST);
        let number = number.ok_or_else(|| format!("{item:?}: a weight is a number from 0 to {MOST}"))?;
        let name =
            name.parse::<IpAddr>().map_or_else(|_| name.into(), |addr| addr.to_canonical().to_string());
        if given.insert(Arc::from(name.as_str()), number).is_some() {
            return Err(format!("{item:?}: {name} has two weights; leave one of them"));
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ObjectKey;

    fn endpoint(pod: Option<&str>, addr: &str) -> Endpoint {
        Endpoint {
            address: Some(addr.parse().expect("an address")),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: None,
            hints: None,
            pod: pod.map(|name| (ObjectKey::new("shop", name), "uid".into())),
        }
    }

    #[test]
    fn endpoints_are_named_by_pod_or_address() {
        let weights = Weights::read(" web-0=3, 10.0.0.7 = 0 ,2001:db8:0::7=100,");
        assert_eq!(weights.fault(), None);
        assert_eq!(weights.of(&endpoint(Some("web-0"), "10.0.0.1")), Some(3));
        assert_eq!(weights.of(&endpoint(Some("web-0"), "10.0.0.7")), Some(3), "the name first");
        assert_eq!(weights.of(&endpoint(Some("web-1"), "10.0.0.7")), Some(0));
        assert_eq!(weights.of(&endpoint(None, "::ffff:10.0.0.7")), Some(0));
        assert_eq!(weights.of(&endpoint(None, "2001:db8::7")), Some(100));
        assert_eq!(weights.of(&endpoint(Some("web-1"), "10.0.0.2")), None);
        assert_eq!(Weights::read(""), Weights::default());
    }

    #[test]
    fn a_wrong_text_says_nothing_and_why() {
        for (text, why) in [
            ("web-0=3,web-1", "\"web-1\" has no weight"),
            ("=3", "names no endpoint"),
            ("web-0=101", "\"web-0=101\": a weight is a number from 0 to 100"),
            ("web-0=-1", "from 0 to 100"),
            ("web-0=1.5", "from 0 to 100"),
            ("web-0=", "from 0 to 100"),
            ("web-0=1,web-0=1", "two weights"),
            ("2001:db8::7=1,2001:db8:0::7=2", "2001:db8::7 has two weights"),
            ("{\"web-0\": 3}", "has no weight"),
        ] {
            let weights = Weights::read(text);
            assert!(weights.fault().is_some_and(|fault| fault.contains(why)), "{text}: {weights:?}");
            assert_eq!(weights.of(&endpoint(Some("web-0"), "2001:db8::7")), None, "{text}");
        }
    }
}
