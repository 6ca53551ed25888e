//! The pools: which selects whom, which are in conflict, what is free.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sheetbend_model::state::{AddressRange, Exposure, LoadBalancerPool, Service, Snapshot};
use sheetbend_model::types::{Family, Labels};

use super::Fault;

/// What became of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolState {
    /// How many addresses it has; of those in two of its blocks, both count.
    pub size: u128,
    /// How many of them Services have.
    pub used: usize,
    /// Why it gives out nothing.
    pub fault: Option<PoolFault>,
}

/// Why a pool gives out no addresses. Those given stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolFault {
    /// It has addresses of an older pool.
    Overlaps {
        /// Its range.
        own: AddressRange,
        /// The other pool.
        pool: Arc<str>,
        /// The other's range.
        other: AddressRange,
    },
    /// Two of its blocks overlap.
    OverlapsItself {
        /// One.
        own: AddressRange,
        /// The other.
        other: AddressRange,
    },
    /// `spec.disabled`.
    Disabled,
}

impl PoolFault {
    /// Whether it is a contradiction, and no wish.
    pub fn is_conflict(&self) -> bool {
        !matches!(self, PoolFault::Disabled)
    }

    /// CamelCase, as conditions have it.
    pub fn reason(&self) -> &'static str {
        match self {
            PoolFault::Overlaps { .. } | PoolFault::OverlapsItself { .. } => "Conflict",
            PoolFault::Disabled => "Disabled",
        }
    }
}

impl fmt::Display for PoolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolFault::Overlaps { own, pool, other } => write!(
                f,
                "its block {own} overlaps {other} of LoadBalancerPool {pool}, which is older; remove it from one of them. Until then this pool gives out no addresses, and those given stay"
            ),
            PoolFault::OverlapsItself { own, other } => write!(
                f,
                "its blocks {own} and {other} overlap; join them or shorten one. Until then this pool gives out no addresses, and those given stay"
            ),
            PoolFault::Disabled => {
                f.write_str("spec.disabled is set: this pool gives out no addresses, and those given stay")
            }
        }
    }
}

struct Pool<'a> {
    pool: &'a LoadBalancerPool,
    fault: Option<PoolFault>,
    /// Of each range: the lowest address that may be free. `None` when the range is used up.
    next: Vec<Option<IpAddr>>,
}

/// The pools, oldest first.
pub(super) struct Pools<'a> {
    pools: Vec<Pool<'a>>,
    snapshot: &'a Snapshot,
}

impl<'a> Pools<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut all: Vec<&LoadBalancerPool> =
            snapshot.load_balancer_pools.values().map(AsRef::as_ref).collect();
        all.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
        let mut pools: Vec<Pool<'a>> = Vec::with_capacity(all.len());
        for pool in all {
            let conflict = overlap_within(pool).or_else(|| overlap(pool, &pools));
            let fault = conflict.or(pool.disabled.then_some(PoolFault::Disabled));
            let next = pool.ranges.iter().map(|range| Some(range.first())).collect();
            pools.push(Pool { pool, fault, next });
        }
        Self { pools, snapshot }
    }

    /// Whether any pool has the address.
    pub(super) fn have(&self, addr: IpAddr) -> bool {
        self.pools.iter().any(|pool| has(pool, addr))
    }

    /// Whether a pool that selects the Service has the address, whatever is wrong with the pool.
    pub(super) fn of_address(&self, service: &Service, exposure: &Exposure, addr: IpAddr) -> bool {
        self.selecting(service, exposure).any(|pool| has(pool, addr))
    }

    /// Whether a pool gives the address to the Service if it is free.
    pub(super) fn has_new(&self, service: &Service, exposure: &Exposure, addr: IpAddr) -> bool {
        self.selecting(service, exposure).any(|pool| pool.fault.is_none() && has(pool, addr))
    }

    fn selecting(&self, service: &Service, exposure: &Exposure) -> impl Iterator<Item = &Pool<'a>> {
        self.pools.iter().filter(move |pool| selects(pool.pool, self.snapshot, service, exposure))
    }

    /// The lowest free address of the oldest pool that has one. What was free and is not given now counts as used from
    /// here on: callers hold what they are given.
    pub(super) fn next(
        &mut self,
        service: &Service,
        exposure: &Exposure,
        family: Family,
        is_free: impl Fn(IpAddr) -> bool,
    ) -> Result<IpAddr, Fault> {
        let mut exhausted = Vec::new();
        for pool in &mut self.pools {
            if pool.fault.is_some() || !selects(pool.pool, self.snapshot, service, exposure) {
                continue;
            }
            let mut size = 0_u128;
            for (range, next) in pool.pool.ranges.iter().zip(&mut pool.next) {
                if range.family() != family {
                    continue;
                }
                size = size.saturating_add(range.size());
                while let Some(addr) = next.filter(|addr| !is_free(*addr)) {
                    *next = successor(addr).filter(|addr| range.contains(*addr));
                }
                if let Some(addr) = *next {
                    return Ok(addr);
                }
            }
            if size > 0 {
                exhausted.push((Arc::clone(&pool.pool.name), size));
            }
        }
        Err(if exhausted.is_empty() {
            Fault::NoPool { family }
        } else {
            Fault::Exhausted { family, pools: exhausted }
        })
    }

    pub(super) fn states(self, used: impl Iterator<Item = IpAddr> + Clone) -> BTreeMap<Arc<str>, PoolState> {
        let state = |pool: Pool<'_>| {
            let sizes = pool.pool.ranges.iter().map(|range| range.size());
            let state = PoolState {
                size: sizes.fold(0, u128::saturating_add),
                used: used.clone().filter(|addr| has(&pool, *addr)).count(),
                fault: pool.fault,
            };
            (Arc::clone(&pool.pool.name), state)
        };
        self.pools.into_iter().map(state).collect()
    }
}

fn has(pool: &Pool<'_>, addr: IpAddr) -> bool {
    pool.pool.ranges.iter().any(|range| range.contains(addr))
}

fn selects(pool: &LoadBalancerPool, snapshot: &Snapshot, service: &Service, exposure: &Exposure) -> bool {
    let none = Labels::new();
    let namespace = snapshot.namespaces.get(&service.key.namespace);
    let labels = namespace.map_or(&none, |namespace| &namespace.labels);
    pool.service_selector.matches(&exposure.labels) && pool.namespace_selector.matches(labels)
}

fn overlap_within(pool: &LoadBalancerPool) -> Option<PoolFault> {
    pool.ranges.iter().enumerate().find_map(|(index, own)| {
        let other = pool.ranges.iter().skip(index + 1).find(|other| own.overlaps(**other))?;
        Some(PoolFault::OverlapsItself { own: *own, other: *other })
    })
}

/// Whether `pool` overlaps an older one that is in no conflict itself. Disabled pools keep their addresses.
fn overlap(pool: &LoadBalancerPool, older: &[Pool<'_>]) -> Option<PoolFault> {
    let sound = older.iter().filter(|older| matches!(older.fault, None | Some(PoolFault::Disabled)));
    sound.flat_map(|older| older.pool.ranges.iter().map(move |range| (older, range))).find_map(
        |(older, other)| {
            let own = pool.ranges.iter().find(|own| own.overlaps(*other))?;
            Some(PoolFault::Overlaps { own: *own, pool: Arc::clone(&older.pool.name), other: *other })
        },
    )
}

fn successor(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(addr) => addr.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}
