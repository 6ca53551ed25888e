//! What upstream servers said, for as long as they said it holds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::answer::Answer;
use crate::wire::records_mut;

/// Nothing is remembered longer, seconds.
const MAX_TTL: u32 = 3600;

/// That a name does not exist is remembered no longer, seconds (RFC 2308 §5: one to three hours at most).
const MAX_NEGATIVE_TTL: u32 = 900;

/// How long a server's failure is remembered, seconds (RFC 9520 §3.2: at least one).
const FAILURE_TTL: u32 = 1;

/// What a query asks for, case folded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(Box<[u8]>);

impl Key {
    pub(crate) fn new(name: &Name, query_type: RecordType, dnssec_ok: bool, checking_disabled: bool) -> Self {
        let mut bytes = Vec::with_capacity(64);
        for label in name.iter() {
            bytes.push(label.len() as u8);
            bytes.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        bytes.extend(u16::from(query_type).to_be_bytes());
        bytes.push(u8::from(dnssec_ok) | u8::from(checking_disabled) << 1);
        Self(bytes.into())
    }
}

#[derive(Debug)]
struct Entry {
    /// A whole message: compact, and copied out only when asked for.
    bytes: Box<[u8]>,
    stored: Instant,
    expires: Instant,
}

/// Bounded: when the young half is full it becomes the old half, and what was not asked for since is forgotten.
#[derive(Debug)]
pub(crate) struct Cache {
    halves: Mutex<Halves>,
    /// Entries in each half.
    half: usize,
}

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
}

impl Cache {
    /// Remembers at most `entries` answers; 0 remembers none.
    pub(crate) fn new(entries: usize) -> Self {
        Self { halves: Mutex::default(), half: entries / 2 }
    }

    /// How many answers are remembered, expired ones included.
    pub(crate) fn len(&self) -> usize {
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.young.len() + halves.old.len()
    }

    /// The answer, its TTLs counted down.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Answer> {
        let (bytes, stored) = {
            let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = halves.old.remove(key) {
                self.insert(&mut halves, key.clone(), entry);
            }
            let entry = halves.young.get(key).filter(|entry| now < entry.expires)?;
            (entry.bytes.clone(), entry.stored)
        };
        let message = Message::from_vec(&bytes).ok()?;
        let age = u32::try_from(now.saturating_duration_since(stored).as_secs()).unwrap_or(u32::MAX);
        let mut answer = Answer {
            code: message.metadata.response_code,
            authoritative: false,
            answers: message.answers,
            authorities: message.authorities,
            additionals: message.additionals,
        };
        records_mut(&mut answer).for_each(|record| record.ttl = record.ttl.saturating_sub(age));
        Some(answer)
    }

    /// Remembers an answer, unless it says that it must not be.
    pub(crate) fn put(&self, key: Key, answer: &Answer, now: Instant) {
        let ttl = time_to_live(answer);
        if ttl == 0 || self.half == 0 {
            return;
        }
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.response_code = answer.code;
        message.answers.clone_from(&answer.answers);
        message.authorities.clone_from(&answer.authorities);
        message.additionals.clone_from(&answer.additionals);
        let Ok(bytes) = message.to_vec() else { return };
        let expires = now + Duration::from_secs(ttl.into());
        let entry = Entry { bytes: bytes.into(), stored: now, expires };
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        self.insert(&mut halves, key, entry);
    }

    fn insert(&self, halves: &mut Halves, key: Key, entry: Entry) {
        if halves.young.len() >= self.half && !halves.young.contains_key(&key) {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.old.remove(&key);
        halves.young.insert(key, entry);
    }
}

/// How long an answer may be remembered, seconds; 0 = not at all.
fn time_to_live(answer: &Answer) -> u32 {
    let least = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    if answer.code == ResponseCode::NoError && !answer.answers.is_empty() {
        return least(&answer.answers).unwrap_or_default().min(MAX_TTL);
    }
    if matches!(answer.code, ResponseCode::NoError | ResponseCode::NXDomain) {
        // RFC 2308 §5: the lesser of the SOA's TTL and its MINIMUM; without a SOA nothing is remembered.
        let soa = answer.authorities.iter().find_map(|record| {
            if let RData::SOA(soa) = &record.data { Some(record.ttl.min(soa.minimum)) } else { None }
        });
        let aliases = least(&answer.answers).unwrap_or(u32::MAX);
        return soa.unwrap_or_default().min(aliases).min(MAX_NEGATIVE_TTL);
    }
    if answer.code == ResponseCode::ServFail { FAILURE_TTL } else { 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a failed test may panic")]

    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;
    use crate::answer::name;

    fn key(text: &str) -> Key {
        Key::new(&name(text).unwrap(), RecordType::A, false, false)
    }

    fn positive(ttl: u32) -> Answer {
        let record = Record::from_rdata(name("a.example").unwrap(), ttl, RData::A(A::new(192, 0, 2, 1)));
        Answer { answers: vec![record], ..Answer::empty(ResponseCode::NoError) }
    }

    fn negative(ttl: u32, minimum: u32) -> Answer {
        let zone = name("example").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, minimum);
        let record = Record::from_rdata(zone, ttl, RData::SOA(soa));
        Answer { authorities: vec![record], ..Answer::empty(ResponseCode::NXDomain) }
    }

    #[test]
    fn an_answer_is_remembered_as_long_as_its_ttl() {
        let (cache, start) = (Cache::new(10), Instant::now());
        cache.put(key("a.example"), &positive(10), start);
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.get(&key("A.EXAMPLE"), later(4)).unwrap().answers[0].ttl, 6);
        assert_eq!(cache.get(&key("b.example"), later(4)), None);
        assert_eq!(cache.get(&key("a.example"), later(10)), None);
        let signed = Key::new(&name("a.example").unwrap(), RecordType::A, true, false);
        assert_eq!(cache.get(&signed, later(4)), None, "an answer without signatures is another one");
    }

    #[test]
    fn what_does_not_exist_is_remembered_as_the_soa_says() {
        let (cache, start) = (Cache::new(10), Instant::now());
        cache.put(key("a.example"), &negative(600, 30), start);
        let found = cache.get(&key("a.example"), start + Duration::from_secs(29)).unwrap();
        assert_eq!((found.code, found.authorities[0].ttl), (ResponseCode::NXDomain, 571));
        assert_eq!(cache.get(&key("a.example"), start + Duration::from_secs(30)), None);
        let without_soa = Answer { authorities: Vec::new(), ..negative(600, 30) };
        cache.put(key("b.example"), &without_soa, start);
        assert_eq!(cache.get(&key("b.example"), start), None, "RFC 2308 §5");
    }

    #[test]
    fn it_stays_small_and_keeps_what_is_asked_for() {
        let (cache, now) = (Cache::new(100), Instant::now());
        cache.put(key("hot.example"), &positive(3600), now);
        for number in 0..1_000 {
            cache.put(key(&format!("{number}.example")), &positive(3600), now);
            assert!(cache.get(&key("hot.example"), now).is_some(), "after {number}");
            assert!(cache.len() <= 100, "{}", cache.len());
        }
        assert!(cache.get(&key("1.example"), now).is_none());
        let none = Cache::new(0);
        none.put(key("a.example"), &positive(3600), now);
        assert_eq!(none.len(), 0);
    }
}
