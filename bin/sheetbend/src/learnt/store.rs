//! Which addresses domain names have, and how long that counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use sheetbend_model::types::DomainPattern;
use tracing::warn;

use super::wire::Answer;

/// Seconds that an address counts at least: a client that got an answer of TTL 0 must still have time to connect.
pub(crate) const LEAST: u64 = 30;
/// Seconds that it counts at most, as name servers remember at most.
const MOST: u64 = 86_400;
/// Addresses of one name, at most; the upstream API wants 100 at least (NPEP-133).
const ADDRESSES: usize = 1_024;
/// Names, at most: beyond it, the one whose time is over first makes room for the next.
const NAMES: usize = 10_000;
/// Of its time, the agent writes at most one part in so many: pods choose how often they ask.
const WRITING: u32 = 20;

/// Seconds since 1970: what is written down must mean the same to the next process.
pub(crate) type Seconds = u64;

/// What is known, in a form that a Snapshot takes as it is.
pub(crate) type Names = OrdMap<Arc<str>, Arc<BTreeSet<IpAddr>>>;

/// The addresses of names that policies of this node ask about.
#[derive(Debug, Default)]
pub(crate) struct Learnt {
    /// Name → address → until when it counts.
    until: BTreeMap<Arc<str>, BTreeMap<IpAddr, Seconds>>,
    names: Names,
    /// Something is not written down yet.
    unwritten: bool,
    /// Not to be written before.
    rests: Option<Instant>,
    /// Names that made room for others since [`Self::crowded_out`] was asked.
    crowded_out: usize,
}

/// `learnt-names.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Written {
    names: BTreeMap<Arc<str>, BTreeMap<IpAddr, Seconds>>,
}

impl Learnt {
    /// What each name has.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Takes in what a name server says at `now`, of names that one of `patterns` is for. Returns whether a name has an
    /// address more.
    pub(crate) fn learn(
        &mut self,
        answer: &Answer,
        patterns: &BTreeSet<DomainPattern>,
        now: Seconds,
    ) -> bool {
        let until = now + u64::from(answer.ttl).clamp(LEAST, MOST);
        let mut more = false;
        for name in &answer.names {
            if !patterns.iter().any(|pattern| pattern.matches(name)) {
                continue;
            }
            if !self.until.contains_key(name.as_str()) && self.until.len() >= NAMES {
                self.make_room();
            }
            let known = self.until.entry(name.as_str().into()).or_default();
            let before = known.len();
            for addr in &answer.addresses {
                let at = known.entry(addr.to_canonical()).or_insert(0);
                *at = (*at).max(until);
            }
            while known.len() > ADDRESSES {
                // Which of the newest go is open; that none of the others does before them is not.
                let Some(oldest) = known.iter().min_by_key(|(_, until)| **until).map(|(addr, _)| *addr)
                else {
                    break;
                };
                warn!(name, addr = %oldest, "a domain name has more than {ADDRESSES} addresses; the oldest is forgotten");
                known.remove(&oldest);
            }
            self.unwritten = true;
            if known.len() != before
                || self.names.get(name.as_str()).is_none_or(|had| !had.iter().eq(known.keys()))
            {
                more = true;
                self.show(name);
            }
        }
        more
    }

    /// Forgets the name whose last address ends first.
    fn make_room(&mut self) {
        let last = |addresses: &BTreeMap<IpAddr, Seconds>| addresses.values().max().copied();
        let first = self.until.iter().min_by_key(|(_, addresses)| last(addresses));
        if let Some(name) = first.map(|(name, _)| name.clone()) {
            self.until.remove(&name);
            self.show(&name);
            self.crowded_out += 1;
        }
    }

    /// How many names made room for others since this was asked last.
    pub(crate) fn crowded_out(&mut self) -> usize {
        std::mem::take(&mut self.crowded_out)
    }

    /// Forgets what does not count any more, but for addresses that `is_in_use` says have live flows: those stay for another
    /// [`LEAST`] seconds. Returns whether anything went.
    pub(crate) fn expire(&mut self, now: Seconds, is_in_use: impl Fn(IpAddr) -> bool) -> bool {
        self.drop_unless(|_, addr, until| {
            if *until <= now && is_in_use(addr) {
                *until = now + LEAST;
            }
            *until > now
        })
    }

    /// Forgets names that none of `patterns` is for. Returns whether anything went.
    pub(crate) fn retain(&mut self, patterns: &BTreeSet<DomainPattern>) -> bool {
        self.drop_unless(|name, _, _| patterns.iter().any(|pattern| pattern.matches(name)))
    }

    /// Addresses that [`Self::expire`] would forget at `now`.
    pub(crate) fn ending(&self, now: Seconds) -> BTreeSet<IpAddr> {
        let all = self.until.values().flatten();
        all.filter(|(_, until)| **until <= now).map(|(addr, _)| *addr).collect()
    }

    fn drop_unless(&mut self, mut keep: impl FnMut(&str, IpAddr, &mut Seconds) -> bool) -> bool {
        let mut touched: Vec<Arc<str>> = Vec::new();
        for (name, addresses) in &mut self.until {
            let before = addresses.len();
            addresses.retain(|addr, until| keep(name, *addr, until));
            if addresses.len() != before {
                touched.push(name.clone());
            }
        }
        self.until.retain(|_, addresses| !addresses.is_empty());
        touched.iter().for_each(|name| self.show(name));
        self.unwritten |= !touched.is_empty();
        !touched.is_empty()
    }

    /// Makes `names` what `until` says of `name`.
    fn show(&mut self, name: &str) {
        match self.until.get_key_value(name) {
            Some((name, addresses)) => {
                self.names.insert(name.clone(), Arc::new(addresses.keys().copied().collect()));
            }
            None => drop(self.names.remove(name)),
        }
    }

    /// What an earlier process knew; nothing where there is no file, or none that can be read.
    pub(crate) fn read(path: &Path) -> Self {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::default(),
            Err(error) => {
                warn!("{} cannot be read, names must be asked for again: {error}", path.display());
                return Self::default();
            }
        };
        let written: Written = serde_json::from_slice(&text).unwrap_or_else(|error| {
            warn!("{} is damaged, names must be asked for again: {error}", path.display());
            Written::default()
        });
        let mut learnt = Self { until: written.names, ..Self::default() };
        let names: Vec<Arc<str>> = learnt.until.keys().cloned().collect();
        names.iter().for_each(|name| learnt.show(name));
        learnt
    }

    /// Writes down what is not written yet, unless that would be too often: then a later call does. A killed process
    /// leaves the old file or the new one; what a crash of the machine leaves does not matter, it ends all flows too.
    ///
    /// # Errors
    /// What the file system says; a later call tries again.
    pub(crate) fn write(&mut self, path: &Path) -> anyhow::Result<()> {
        let start = Instant::now();
        if !self.unwritten || self.rests.is_some_and(|until| start < until) {
            return Ok(());
        }
        let written = self.write_now(path);
        self.rests = Some(Instant::now() + start.elapsed() * WRITING);
        written
    }

    fn write_now(&mut self, path: &Path) -> anyhow::Result<()> {
        let fresh: PathBuf = path.with_extension("new");
        let written = Written { names: self.until.clone() };
        std::fs::write(&fresh, serde_json::to_vec(&written)?)
            .and_then(|()| std::fs::rename(&fresh, path))
            .with_context(|| format!("writing {}", path.display()))?;
        self.unwritten = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn patterns(texts: &[&str]) -> BTreeSet<DomainPattern> {
        texts.iter().map(|text| DomainPattern::new(text).unwrap()).collect()
    }

    fn answer(names: &[&str], addresses: &[&str], ttl: u32) -> Answer {
        Answer {
            number: 1,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
            ttl,
        }
    }

    fn shown(learnt: &Learnt) -> Vec<String> {
        let each = learnt.names().iter().map(|(name, addresses)| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{name} {}", addresses.join(" "))
        });
        each.collect()
    }

    #[test]
    fn only_names_that_are_asked_about_are_kept() {
        let mut learnt = Learnt::default();
        let all = patterns(&["*.example.com"]);
        let chain = answer(&["www.example.com", "edge.example.net"], &["192.0.2.1", "2001:db8::1"], 60);
        assert!(learnt.learn(&chain, &all, 100));
        assert_eq!(shown(&learnt), ["www.example.com 192.0.2.1 2001:db8::1"]);
        assert!(!learnt.learn(&chain, &all, 110), "the same again");
        assert!(!learnt.learn(&answer(&["example.com"], &["192.0.2.2"], 60), &all, 110));
        assert!(learnt.retain(&patterns(&["example.com"])));
        assert!(shown(&learnt).is_empty());
    }

    #[test]
    fn an_address_counts_as_long_as_its_ttl_says_and_half_a_minute_at_least() {
        let mut learnt = Learnt::default();
        let all = patterns(&["a.test", "b.test"]);
        learnt.learn(&answer(&["a.test"], &["192.0.2.1"], 300), &all, 1_000);
        learnt.learn(&answer(&["b.test"], &["192.0.2.2"], 0), &all, 1_000);
        assert!(!learnt.expire(1_029, |_| false));
        assert!(learnt.expire(1_030, |_| false));
        assert_eq!(shown(&learnt), ["a.test 192.0.2.1"]);
        // Said again it counts anew; a shorter TTL takes nothing away.
        learnt.learn(&answer(&["a.test"], &["192.0.2.1"], 300), &all, 1_200);
        learnt.learn(&answer(&["a.test"], &["192.0.2.1"], 1), &all, 1_201);
        assert!(!learnt.expire(1_499, |_| false));
        assert_eq!(learnt.ending(1_500).len(), 1);
        assert!(learnt.expire(1_500, |_| false));
        assert!(shown(&learnt).is_empty());
    }

    #[test]
    fn an_address_with_live_flows_stays() {
        let mut learnt = Learnt::default();
        learnt.learn(&answer(&["a.test"], &["192.0.2.1"], 0), &patterns(&["a.test"]), 1_000);
        assert!(!learnt.expire(5_000, |_| true));
        assert!(!learnt.expire(5_029, |_| false), "it is not looked at again before");
        assert!(learnt.expire(5_030, |_| false));
    }

    #[test]
    fn a_name_has_no_more_than_so_many_addresses() {
        let mut learnt = Learnt::default();
        let all = patterns(&["a.test"]);
        learnt.learn(&answer(&["a.test"], &["192.0.2.1"], 30), &all, 1_000);
        for index in 0..ADDRESSES {
            let addr = std::net::Ipv4Addr::from(0x0a00_0000 + index as u32).to_string();
            learnt.learn(&answer(&["a.test"], &[&addr], 60), &all, 1_000);
        }
        let first: IpAddr = "192.0.2.1".parse().unwrap();
        let known = &learnt.names()["a.test"];
        assert_eq!((known.len(), known.contains(&first)), (ADDRESSES, false));
    }

    #[test]
    fn a_name_too_many_takes_the_place_of_the_one_that_ends_first() {
        let mut learnt = Learnt::default();
        let all = patterns(&["*.example.test"]);
        let name = |index: usize| format!("n{index}.example.test");
        for index in 0..NAMES {
            let ttl = if index == 7 { 40 } else { 60 };
            learnt.learn(&answer(&[&name(index)], &["192.0.2.1"], ttl), &all, 1_000);
        }
        assert_eq!((learnt.names().len(), learnt.crowded_out()), (NAMES, 0));
        assert!(learnt.learn(&answer(&["late.example.test"], &["192.0.2.1"], 60), &all, 1_000));
        assert_eq!((learnt.names().len(), learnt.crowded_out(), learnt.crowded_out()), (NAMES, 1, 0));
        assert!(learnt.names().contains_key("late.example.test"));
        assert!(!learnt.names().contains_key(name(7).as_str()));
    }

    #[test]
    fn it_writes_little_of_the_time() {
        let path = std::env::temp_dir().join(format!("sheetbend-learnt-often-{}.json", std::process::id()));
        let mut learnt = Learnt::default();
        let all = patterns(&["*.example.test"]);
        learnt.learn(&answer(&["a.example.test"], &["192.0.2.1"], 300), &all, 1_000);
        learnt.write(&path).unwrap();
        learnt.rests = Some(Instant::now() + std::time::Duration::from_secs(3_600));
        learnt.learn(&answer(&["b.example.test"], &["192.0.2.1"], 300), &all, 1_000);
        learnt.write(&path).unwrap();
        assert_eq!(shown(&Learnt::read(&path)), ["a.example.test 192.0.2.1"]);
        learnt.rests = None;
        learnt.write(&path).unwrap();
        assert_eq!(shown(&Learnt::read(&path)).len(), 2);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_next_process_knows_the_same() {
        let path = std::env::temp_dir().join(format!("sheetbend-learnt-{}.json", std::process::id()));
        assert!(Learnt::read(&path).names().is_empty());
        let mut learnt = Learnt::default();
        learnt.learn(&answer(&["a.test"], &["192.0.2.1", "2001:db8::1"], 300), &patterns(&["a.test"]), 1_000);
        learnt.write(&path).unwrap();
        let mut next = Learnt::read(&path);
        assert_eq!(shown(&next), shown(&learnt));
        assert!(next.expire(1_300, |_| false));
        std::fs::write(&path, "{").unwrap();
        assert!(Learnt::read(&path).names().is_empty(), "a damaged file counts as none");
        std::fs::remove_file(&path).unwrap();
    }
}
