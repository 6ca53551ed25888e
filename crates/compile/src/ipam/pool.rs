//! One pod range.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use sheetbend_model::types::Family;

/// How many addresses of a pool are used, from its start: four times the pods that one node can have. It bounds what
/// the agent remembers of a /64.
pub const MAX_ADDRESSES: u64 = 16_384;

/// Why a range is no pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolError {
    /// The range.
    pub block: IpNet,
}

impl std::fmt::Display for PoolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let longest = if matches!(self.block, IpNet::V4(_)) { 30 } else { 126 };
        write!(
            f,
            "pod range {} has no room for a router address and one pod; a prefix length of at most {longest} has",
            self.block
        )
    }
}

impl std::error::Error for PoolError {}

/// Addresses as numbers, within one family.
fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

/// The router address of a pod range: its first usable address. The network address is none, and in IPv6 it is the
/// subnet-router anycast address (RFC 4291 §2.6.1). `None` for a range that is no pool.
pub fn router_address(block: IpNet) -> Option<IpAddr> {
    Pool::new(block).ok().map(|pool| pool.address(pool.first - 1))
}

#[derive(Clone, Debug)]
pub(super) struct Pool {
    pub(super) block: IpNet,
    /// First and last address that a pod may have.
    pub(super) first: u128,
    last: u128,
    /// Below it, no address was never used.
    next: u128,
    held: BTreeSet<u128>,
    /// Released address → when.
    released: BTreeMap<u128, Duration>,
    /// The same, oldest first.
    by_age: BTreeSet<(Duration, u128)>,
}

impl Pool {
    pub(super) fn new(block: IpNet) -> Result<Self, PoolError> {
        let block = block.trunc();
        let network = number(block.network());
        let last_of_block = match block {
            IpNet::V4(block) => number(IpAddr::V4(block.broadcast())).saturating_sub(1),
            IpNet::V6(block) => number(IpAddr::V6(block.broadcast())),
        };
        // The network address and the router address come first.
        let first = network.saturating_add(2);
        if first > last_of_block || block.prefix_len() >= block.max_prefix_len() - 1 {
            return Err(PoolError { block });
        }
        let last = last_of_block.min(first + u128::from(MAX_ADDRESSES) - 1);
        let (held, released, by_age) = Default::default();
        Ok(Self { block, first, last, next: first, held, released, by_age })
    }

    pub(super) fn family(&self) -> Family {
        Family::of(self.block.addr())
    }

    pub(super) fn address(&self, number: u128) -> IpAddr {
        match self.block {
            // An IPv4 number has 32 bits.
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number)),
        }
    }

    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        self.block.contains(&addr) && (self.first..=self.last).contains(&number(addr))
    }

    /// How many pods have room.
    pub(super) fn size(&self) -> u64 {
        // At most MAX_ADDRESSES.
        (self.last - self.first + 1) as u64
    }

    pub(super) fn held(&self) -> impl Iterator<Item = IpAddr> {
        self.held.iter().map(|number| self.address(*number))
    }

    pub(super) fn is_held(&self, addr: IpAddr) -> bool {
        self.held.contains(&number(addr))
    }

    pub(super) fn released_at(&self, addr: IpAddr) -> Option<Duration> {
        self.released.get(&number(addr)).copied()
    }

    pub(super) fn hold(&mut self, addr: IpAddr) {
        let number = number(addr);
        if let Some(at) = self.released.remove(&number) {
            self.by_age.remove(&(at, number));
        }
        self.held.insert(number);
    }

    pub(super) fn release(&mut self, addr: IpAddr, at: Duration) {
        let number = number(addr);
        self.held.remove(&number);
        if let Some(before) = self.released.insert(number, at) {
            self.by_age.remove(&(before, number));
        }
        self.by_age.insert((at, number));
    }

    /// The address that comes next; it is not taken yet.
    pub(super) fn next(&mut self, now: Duration, reuse_delay: Duration) -> Option<IpAddr> {
        while self.next <= self.last && self.used(self.next) {
            self.next += 1;
        }
        if self.next <= self.last {
            return Some(self.address(self.next));
        }
        let (at, number) = self.by_age.first()?;
        (now >= *at + reuse_delay).then(|| self.address(*number))
    }

    fn used(&self, number: u128) -> bool {
        self.held.contains(&number) || self.released.contains_key(&number)
    }

    pub(super) fn oldest_release(&self) -> Option<Duration> {
        self.by_age.first().map(|(at, _)| *at)
    }
}
