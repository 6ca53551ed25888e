//! Which address of a pool is given out next. Pure: time comes in as an argument.

mod cluster_pool;
pub mod load_balancer;
mod pool;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use sheetbend_model::types::Family;

pub use cluster_pool::{NodePool, PoolExhausted, assign};
pub use pool::{MAX_ADDRESSES, PoolError, router_address};

use pool::Pool;

/// How long a released address rests before another pod gets it (`ipam.reuse_delay`).
pub const DEFAULT_REUSE_DELAY: Duration = Duration::from_secs(30);

/// Why there is no address for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAddress {
    /// The node has no pod range at all.
    NoPool,
    /// Every address is a pod's.
    Exhausted {
        /// The pools of the family that is exhausted.
        pools: Vec<IpNet>,
        /// How many pods they have room for, together.
        size: u64,
    },
    /// A wanted address is in no pool, or not a pod's to have.
    NotOurs {
        /// The address.
        addr: IpAddr,
        /// Every pool of the node.
        pools: Vec<IpNet>,
    },
    /// A wanted address is another pod's.
    Taken(IpAddr),
    /// All free addresses rest, or the wanted one does.
    Resting {
        /// The pools of the family.
        pools: Vec<IpNet>,
        /// How long until the first is free.
        free_in: Duration,
    },
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |pools: &[IpNet]| pools.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::NoPool => f.write_str("this node has no pod range; set spec.podCIDRs of its Node"),
            Self::Exhausted { pools, size } => write!(
                f,
                "pool {} is exhausted: all {size} addresses are in use; remove pods or give the Node another podCIDR",
                list(pools)
            ),
            Self::NotOurs { addr, pools } => write!(
                f,
                "address {addr} is none that a pod of this node can have; its ranges are {}",
                list(pools)
            ),
            Self::Taken(addr) => {
                write!(f, "address {addr} is another pod's; choose another, or let the node choose")
            }
            Self::Resting { pools, free_in } => write!(
                f,
                "pool {} has only addresses that were released just now; the next is free in {:.1} s",
                list(pools),
                free_in.as_secs_f64()
            ),
        }
    }
}

impl std::error::Error for NoAddress {}

/// The addresses of one node's pod ranges: which are held, which rest. Times are since some fixed moment.
#[derive(Clone, Debug)]
pub struct Ipam {
    pools: Vec<Pool>,
    reuse_delay: Duration,
}

impl Ipam {
    /// The node's pod ranges, in the order in which they are used. Per family one address is given to each pod.
    ///
    /// # Errors
    /// A range without room for the router address and one pod.
    pub fn new(pod_cidrs: &[IpNet], reuse_delay: Duration) -> Result<Self, PoolError> {
        let pools = pod_cidrs.iter().map(|block| Pool::new(*block)).collect::<Result<_, _>>()?;
        Ok(Self { pools, reuse_delay })
    }

    /// Marks `addr` as a pod's, as found after a restart. Addresses outside every pool are no concern of ours.
    pub fn restore_held(&mut self, addr: IpAddr) {
        if let Some(pool) = self.pool_of(addr) {
            pool.hold(addr);
        }
    }

    /// Marks `addr` as released at `at`, as found after a restart.
    pub fn restore_released(&mut self, addr: IpAddr, at: Duration) {
        if let Some(pool) = self.pool_of(addr) {
            pool.release(addr, at);
        }
    }

    /// One address of every family that has a pool, IPv4 first: never used ones in ascending order, then released
    /// ones that have rested, oldest first.
    ///
    /// # Errors
    /// No address is taken when a family has none.
    pub fn allocate(&mut self, now: Duration) -> Result<Vec<IpAddr>, NoAddress> {
        self.allocate_wanted(&[], now)
    }

    /// The same, with `wanted` addresses, at most one per family, instead of the next ones.
    ///
    /// # Errors
    /// No address is taken when a wanted one cannot be had or another family has none.
    pub fn allocate_wanted(&mut self, wanted: &[IpAddr], now: Duration) -> Result<Vec<IpAddr>, NoAddress> {
        let mut chosen = Vec::new();
        for addr in wanted {
            self.may_have(*addr, now)?;
        }
        for family in Family::ALL {
            if let Some(addr) = wanted.iter().find(|addr| Family::of(**addr) == family) {
                chosen.push(*addr);
                continue;
            }
            let mut pools = self.pools.iter_mut().filter(|pool| pool.family() == family).peekable();
            if pools.peek().is_none() {
                continue;
            }
            match pools.find_map(|pool| pool.next(now, self.reuse_delay)) {
                Some(addr) => chosen.push(addr),
                None => return Err(self.none_left(family, now)),
            }
        }
        if chosen.is_empty() {
            return Err(NoAddress::NoPool);
        }
        for addr in &chosen {
            self.restore_held(*addr);
        }
        Ok(chosen)
    }

    /// Gives an address back; it rests from `now`. Releasing what is not held changes nothing.
    pub fn release(&mut self, addr: IpAddr, now: Duration) {
        if let Some(pool) = self.pool_of(addr)
            && pool.is_held(addr)
        {
            pool.release(addr, now);
        }
    }

    /// Every address that is a pod's.
    pub fn held(&self) -> BTreeSet<IpAddr> {
        self.pools.iter().flat_map(Pool::held).collect()
    }

    fn may_have(&self, addr: IpAddr, now: Duration) -> Result<(), NoAddress> {
        let Some(pool) = self.pools.iter().find(|pool| pool.contains(addr)) else {
            let pools = self.pools.iter().map(|pool| pool.block).collect();
            return Err(NoAddress::NotOurs { addr, pools });
        };
        if pool.is_held(addr) {
            return Err(NoAddress::Taken(addr));
        }
        match pool.released_at(addr).map(|at| (at + self.reuse_delay).saturating_sub(now)) {
            Some(free_in) if !free_in.is_zero() => {
                Err(NoAddress::Resting { pools: vec![pool.block], free_in })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn pool_of(&mut self, addr: IpAddr) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|pool| pool.contains(addr))
    }

    fn none_left(&self, family: Family, now: Duration) -> NoAddress {
        let pools = || self.pools.iter().filter(|pool| pool.family() == family);
        let blocks = pools().map(|pool| pool.block).collect();
        match pools().filter_map(Pool::oldest_release).min() {
            Some(at) => {
                NoAddress::Resting { pools: blocks, free_in: (at + self.reuse_delay).saturating_sub(now) }
            }
            None => NoAddress::Exhausted { pools: blocks, size: pools().map(Pool::size).sum() },
        }
    }
}
