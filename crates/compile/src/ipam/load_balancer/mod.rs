//! Which address a Service of type LoadBalancer gets. Pure: pools, Services and what they have in, what they are to
//! have out. What a Service has stays while it is valid, so that no restart and no new pool moves it.

mod fault;
mod pools;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{Exposure, LOAD_BALANCER_CLASS, Service, ServiceType, Snapshot, TrafficPolicy};
use sheetbend_model::types::{Family, ObjectKey};

pub use fault::Fault;
pub use pools::{PoolFault, PoolState};

use pools::Pools;

/// What every Service and pool is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Each Service that is ours to serve.
    pub services: BTreeMap<ObjectKey, Given>,
    /// Each Service that is not ours any more and still has what we gave: what stays of its addresses, those that are
    /// of no pool.
    pub released: BTreeMap<ObjectKey, Vec<IpAddr>>,
    /// Each pool.
    pub pools: BTreeMap<Arc<str>, PoolState>,
}

/// What one Service is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// At most one per family, in the order of the Service's families.
    pub addresses: Vec<IpAddr>,
    /// Why a family has none.
    pub faults: Vec<Fault>,
}

/// Addresses for every Service of type LoadBalancer that is ours: of class [`LOAD_BALANCER_CLASS`], and of no class if
/// `is_default` and there are pools. The older Service comes first, then the name decides.
///
/// 1. What a Service has stays, if a pool that selects it holds it and nobody older has it.
/// 2. Requested addresses are given.
/// 3. The others get what Services with their sharing key have, else the lowest free address of the oldest pool.
pub fn allocate(snapshot: &Snapshot, is_default: bool) -> Allocation {
    let is_default = is_default && !snapshot.load_balancer_pools.is_empty();
    let mut services = BTreeMap::new();
    let mut candidates = Vec::new();
    let mut released = BTreeMap::new();
    let pools = Pools::new(snapshot);
    for service in snapshot.services.values() {
        let Some(exposure) = service.exposure.as_deref() else { continue };
        if is_ours(service, exposure, is_default) && !is_anothers(service, exposure, &pools) {
            services.insert(service.key.clone(), Given::default());
            candidates.push(Candidate { service, exposure });
        } else if exposure.is_managed {
            let foreign = exposure.given.iter().copied().filter(|addr| !pools.have(*addr));
            released.insert(service.key.clone(), foreign.collect());
        }
    }
    candidates
        .sort_by(|a, b| (&a.exposure.created, &a.service.key).cmp(&(&b.exposure.created, &b.service.key)));
    let mut allocator = Allocator { taken: taken(snapshot, &services), pools, holders: BTreeMap::new() };
    for family in Family::ALL {
        let results = allocator.family(&candidates, family);
        for (candidate, result) in results {
            let Some(given) = services.get_mut(&candidate.service.key) else { continue };
            match result {
                Ok(addr) => given.addresses.push(addr),
                Err(fault) => given.faults.push(fault),
            }
        }
    }
    for candidate in &candidates {
        if let Some(given) = services.get_mut(&candidate.service.key) {
            candidate.finish(given);
        }
    }
    let used = allocator.holders.keys().copied();
    Allocation { pools: allocator.pools.states(used), services, released }
}

fn is_ours(service: &Service, exposure: &Exposure, is_default: bool) -> bool {
    let class = match exposure.class.as_deref() {
        Some(class) => class == LOAD_BALANCER_CLASS,
        // What was given is taken back when the last pool goes.
        None => is_default || exposure.is_managed,
    };
    class && service.service_type == ServiceType::LoadBalancer
}

/// A Service without a class that already has what no pool of ours could have given: somebody else serves it.
fn is_anothers(service: &Service, exposure: &Exposure, pools: &Pools<'_>) -> bool {
    let is_served = exposure.has_host_names || !exposure.given.is_empty();
    let from_ours = exposure.given.iter().any(|addr| pools.of_address(service, exposure, *addr));
    exposure.class.is_none() && !exposure.is_managed && is_served && !from_ours
}

/// Addresses that are no free ones whatever the pools say, and whose they are.
fn taken(snapshot: &Snapshot, ours: &BTreeMap<ObjectKey, Given>) -> BTreeMap<IpAddr, Owner> {
    let mut taken = BTreeMap::new();
    for service in snapshot.services.values() {
        let Some(exposure) = service.exposure.as_deref() else { continue };
        let is_anothers = service.service_type == ServiceType::LoadBalancer
            && !exposure.is_managed
            && !ours.contains_key(&service.key);
        let balanced = exposure.given.iter().filter(|_| is_anothers);
        for addr in balanced.chain(&service.external_ips) {
            taken.entry(addr.to_canonical()).or_insert_with(|| Owner::Service(service.key.clone()));
        }
    }
    for node in snapshot.nodes.values() {
        taken.extend(
            node.addresses.iter().map(|addr| (addr.to_canonical(), Owner::Node(node.name.0.clone()))),
        );
    }
    taken
}

/// Whose an address is that was not given out here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    /// Another's load balancer address, or an externalIP.
    Service(ObjectKey),
    /// A node's own: it is never a Service's too.
    Node(Arc<str>),
}

impl Owner {
    fn name(&self) -> String {
        match self {
            Owner::Service(key) => format!("Service {key}"),
            Owner::Node(name) => format!("Node {name}"),
        }
    }
}

/// A Service that wants addresses.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    service: &'a Service,
    exposure: &'a Exposure,
}

impl Candidate<'_> {
    fn requested(&self, family: Family) -> Option<IpAddr> {
        self.exposure.requested.iter().copied().find(|addr| Family::of(*addr) == family)
    }

    /// Whether both may have one address: they say so by one key in one namespace, no port leads to two of them, and a
    /// node that has endpoints of one has endpoints of the other wherever that matters.
    fn may_share(&self, other: &Candidate<'_>) -> bool {
        let (a, b) = (self.service, other.service);
        let same_key = self.exposure.sharing_key.is_some()
            && self.exposure.sharing_key == other.exposure.sharing_key
            && a.key.namespace == b.key.namespace;
        let ports = |service: &Service| -> BTreeSet<_> {
            service.ports.iter().map(|port| (port.protocol, port.port)).collect()
        };
        let anywhere = |service: &Service| service.external_policy == TrafficPolicy::Cluster;
        let same_pods = !a.selector.is_empty() && a.selector == b.selector;
        same_key && ports(a).is_disjoint(&ports(b)) && (anywhere(a) && anywhere(b) || same_pods)
    }

    /// Puts addresses in order and says what the families do not.
    fn finish(&self, given: &mut Given) {
        // What is malformed is so for both families.
        given.faults.dedup();
        let families = &self.exposure.families;
        let place = |addr: &IpAddr| families.iter().position(|family| *family == Family::of(*addr));
        given.addresses.sort_by_key(place);
        // The second family of PreferDualStack is no loss where no pool has it.
        if self.exposure.second_is_optional && !given.addresses.is_empty() {
            given.faults.retain(|fault| !matches!(fault, Fault::NoPool { .. }));
        }
        let mut seen = Vec::new();
        for addr in &self.exposure.requested {
            let family = Family::of(*addr);
            if !families.contains(&family) {
                given.faults.push(Fault::OtherFamily { addr: *addr });
            } else if seen.contains(&family) {
                given.faults.push(Fault::SecondRequest { addr: *addr });
            } else {
                seen.push(family);
            }
        }
    }
}

struct Allocator<'a> {
    pools: Pools<'a>,
    /// Address → whose it is otherwise.
    taken: BTreeMap<IpAddr, Owner>,
    /// Address → who has it now.
    holders: BTreeMap<IpAddr, Vec<Candidate<'a>>>,
}

type Result<'c, 'a> = (&'c Candidate<'a>, std::result::Result<IpAddr, Fault>);

impl<'a> Allocator<'a> {
    /// One address of `family` for each candidate that wants one.
    fn family<'c>(&mut self, candidates: &'c [Candidate<'a>], family: Family) -> Vec<Result<'c, 'a>> {
        let mut results = Vec::new();
        let (mut requesting, mut rest) = (Vec::new(), Vec::new());
        for candidate in candidates.iter().filter(|candidate| candidate.exposure.families.contains(&family)) {
            if let Some(text) = &candidate.exposure.malformed_request {
                results.push((candidate, Err(Fault::Malformed { text: Arc::clone(text) })));
            } else if let Some(addr) = self.kept(candidate, family) {
                self.hold(addr, candidate);
                results.push((candidate, Ok(addr)));
            } else if let Some(addr) = candidate.requested(family) {
                requesting.push((candidate, addr));
            } else {
                rest.push(candidate);
            }
        }
        for (candidate, addr) in requesting {
            let result = self.wanted(candidate, addr).map(|()| addr);
            if result.is_ok() {
                self.hold(addr, candidate);
            }
            results.push((candidate, result));
        }
        for candidate in rest {
            let result = self.next(candidate, family);
            if let Ok(addr) = result {
                self.hold(addr, candidate);
            }
            results.push((candidate, result));
        }
        results
    }

    fn hold(&mut self, addr: IpAddr, candidate: &Candidate<'a>) {
        self.holders.entry(addr).or_default().push(*candidate);
    }

    /// What the candidate has and may keep.
    fn kept(&self, candidate: &Candidate<'a>, family: Family) -> Option<IpAddr> {
        let requested = candidate.requested(family);
        candidate.exposure.given.iter().copied().find(|addr| {
            Family::of(*addr) == family
                && requested.is_none_or(|requested| requested == *addr)
                && self.pools.of_address(candidate.service, candidate.exposure, *addr)
                && !matches!(self.taken.get(addr), Some(Owner::Node(_)))
                && self.stranger(candidate, *addr).is_none()
        })
    }

    /// Who has `addr` and does not share it with the candidate.
    fn stranger(&self, candidate: &Candidate<'a>, addr: IpAddr) -> Option<&Candidate<'a>> {
        self.holders.get(&addr)?.iter().find(|holder| !holder.may_share(candidate))
    }

    /// Whether a requested address can be had.
    fn wanted(&self, candidate: &Candidate<'a>, addr: IpAddr) -> std::result::Result<(), Fault> {
        if !self.pools.has_new(candidate.service, candidate.exposure, addr) {
            return Err(Fault::InNoPool { addr });
        }
        if let Some(owner) = self.taken.get(&addr) {
            return Err(Fault::Taken { addr, owner: owner.name(), same_key: false });
        }
        match self.stranger(candidate, addr) {
            Some(holder) => Err(Fault::Taken {
                addr,
                owner: format!("Service {}", holder.service.key),
                same_key: candidate.exposure.sharing_key.is_some()
                    && candidate.exposure.sharing_key == holder.exposure.sharing_key,
            }),
            None => Ok(()),
        }
    }

    /// The address that a candidate without wishes gets.
    fn next(&mut self, candidate: &Candidate<'a>, family: Family) -> std::result::Result<IpAddr, Fault> {
        if candidate.exposure.sharing_key.is_some()
            && let Some(addr) = self.shared(candidate, family)
        {
            return Ok(addr);
        }
        let (holders, taken) = (&self.holders, &self.taken);
        let is_free = |addr: IpAddr| !holders.contains_key(&addr) && !taken.contains_key(&addr);
        self.pools.next(candidate.service, candidate.exposure, family, is_free)
    }

    /// The lowest address that others let the candidate have too.
    fn shared(&self, candidate: &Candidate<'a>, family: Family) -> Option<IpAddr> {
        let may = |addr: IpAddr, holders: &[Candidate<'a>]| {
            Family::of(addr) == family
                && holders.iter().all(|holder| holder.may_share(candidate))
                && !self.taken.contains_key(&addr)
                && self.pools.has_new(candidate.service, candidate.exposure, addr)
        };
        self.holders.iter().find(|(addr, holders)| may(**addr, holders)).map(|(addr, _)| *addr)
    }
}
