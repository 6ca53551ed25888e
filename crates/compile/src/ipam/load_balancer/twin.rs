//! The slow, obvious twin: every address in a list, every Service compared with every other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sheetbend_model::state::{AddressRange, LoadBalancerPool, Service, ServiceType, Snapshot, TrafficPolicy};
use sheetbend_model::types::{Family, ObjectKey};

/// Service → its addresses; Services that are not ours are absent.
pub(super) type Addresses = BTreeMap<ObjectKey, Vec<IpAddr>>;

pub(super) fn every(range: AddressRange) -> Vec<IpAddr> {
    let mut all = vec![range.first()];
    while let Some(last) = all.last().filter(|last| **last != range.last()) {
        let next = match last {
            IpAddr::V4(addr) => IpAddr::from((addr.to_bits() + 1).to_be_bytes()),
            IpAddr::V6(addr) => IpAddr::from((addr.to_bits() + 1).to_be_bytes()),
        };
        all.push(next);
    }
    all
}

/// Whether two Services may have one address (docs/user/load-balancer.md).
pub(super) fn may_share(a: &Service, b: &Service) -> bool {
    let (Some(left), Some(right)) = (&a.exposure, &b.exposure) else { return false };
    for one in &a.ports {
        if b.ports.iter().any(|other| other.port == one.port && other.protocol == one.protocol) {
            return false;
        }
    }
    let both_cluster =
        a.external_policy == TrafficPolicy::Cluster && b.external_policy == TrafficPolicy::Cluster;
    a.key.namespace == b.key.namespace
        && left.sharing_key.is_some()
        && left.sharing_key == right.sharing_key
        && (both_cluster || (!a.selector.is_empty() && a.selector == b.selector))
}

pub(super) struct Twin<'a> {
    snapshot: &'a Snapshot,
    /// Oldest first, with whether it gives out addresses.
    pools: Vec<(&'a LoadBalancerPool, bool)>,
    given: Vec<(&'a Service, IpAddr)>,
}

impl<'a> Twin<'a> {
    pub(super) fn addresses(snapshot: &'a Snapshot) -> Addresses {
        let mut pools: Vec<&LoadBalancerPool> =
            snapshot.load_balancer_pools.values().map(AsRef::as_ref).collect();
        pools.sort_by_key(|pool| (pool.created.clone(), pool.name.clone()));
        let mut twin = Self { snapshot, pools: Vec::new(), given: Vec::new() };
        let mut sound = Vec::new();
        for pool in pools {
            let all: Vec<IpAddr> = pool.ranges.iter().flat_map(|range| every(*range)).collect();
            let doubled = all.iter().enumerate().any(|(at, addr)| all[..at].contains(addr));
            // An older pool in conflict has no say; a disabled one has.
            let conflict = sound.iter().any(|older: &&LoadBalancerPool| {
                older.ranges.iter().flat_map(|range| every(*range)).any(|addr| all.contains(&addr))
            });
            if !doubled && !conflict {
                sound.push(pool);
            }
            twin.pools.push((pool, !doubled && !conflict && !pool.disabled));
        }
        twin.run()
    }

    fn run(mut self) -> Addresses {
        let mut services: Vec<&Service> = self
            .snapshot
            .services
            .values()
            .map(AsRef::as_ref)
            .filter(|service| self.is_ours(service))
            .collect();
        services.sort_by_key(|service| {
            (service.exposure.as_ref().map(|e| e.created.clone()), service.key.clone())
        });
        for family in Family::ALL {
            let wants = |service: &&&Service| {
                service
                    .exposure
                    .as_ref()
                    .is_some_and(|e| e.families.contains(&family) && e.malformed_request.is_none())
            };
            for service in services.iter().filter(wants) {
                self.keep(service, family);
            }
            for service in services.iter().filter(wants) {
                self.request(service, family);
            }
            for service in services.iter().filter(wants) {
                self.next(service, family);
            }
        }
        let mut addresses: Addresses =
            services.iter().map(|service| (service.key.clone(), Vec::new())).collect();
        for (service, addr) in &self.given {
            addresses.entry(service.key.clone()).or_default().push(*addr);
        }
        addresses
    }

    fn is_ours(&self, service: &Service) -> bool {
        let Some(exposure) = &service.exposure else { return false };
        if service.service_type != ServiceType::LoadBalancer {
            return false;
        }
        match exposure.class.as_deref() {
            Some(class) => class == "sheetbend.dev/load-balancer",
            None if exposure.is_managed => true,
            None => {
                let from_ours = exposure.given.iter().any(|addr| self.pool_has(service, *addr, false));
                !self.pools.is_empty()
                    && ((exposure.given.is_empty() && !exposure.has_host_names) || from_ours)
            }
        }
    }

    fn pool_has(&self, service: &Service, addr: IpAddr, new: bool) -> bool {
        self.selecting(service).any(|(pool, sound)| {
            (*sound || !new) && pool.ranges.iter().any(|range| every(*range).contains(&addr))
        })
    }

    fn selecting(&self, service: &'a Service) -> impl Iterator<Item = &(&'a LoadBalancerPool, bool)> {
        let labels = self
            .snapshot
            .namespaces
            .get(&service.key.namespace)
            .map(|n| n.labels.clone())
            .unwrap_or_default();
        self.pools.iter().filter(move |(pool, _)| {
            let own = service.exposure.as_ref().map(|e| e.labels.clone()).unwrap_or_default();
            pool.service_selector.matches(&own) && pool.namespace_selector.matches(&labels)
        })
    }

    fn has(&self, service: &Service, family: Family) -> bool {
        self.given.iter().any(|(other, addr)| other.key == service.key && Family::of(*addr) == family)
    }

    fn fits(&self, service: &Service, addr: IpAddr) -> bool {
        self.given.iter().filter(|(_, other)| *other == addr).all(|(other, _)| may_share(service, other))
    }

    /// Somebody has it who is none of our Services.
    fn is_foreign(&self, addr: IpAddr) -> bool {
        let node = self.snapshot.nodes.values().any(|node| node.addresses.contains(&addr));
        let service = self.snapshot.services.values().any(|service| {
            let balanced =
                service.exposure.as_ref().is_some_and(|e| e.given.contains(&addr) && !e.is_managed);
            service.exposure.is_some() && service.external_ips.contains(&addr)
                || (balanced && service.service_type == ServiceType::LoadBalancer && !self.is_ours(service))
        });
        node || service
    }

    fn wish(service: &Service, family: Family) -> Option<IpAddr> {
        service.exposure.as_ref()?.requested.iter().copied().find(|addr| Family::of(*addr) == family)
    }

    fn keep(&mut self, service: &'a Service, family: Family) {
        let wish = Self::wish(service, family);
        for addr in service.exposure.iter().flat_map(|e| e.given.clone()).filter(|a| Family::of(*a) == family)
        {
            let of_node = self.snapshot.nodes.values().any(|node| node.addresses.contains(&addr));
            let wished = wish.is_none() || wish == Some(addr);
            if wished && !of_node && self.pool_has(service, addr, false) && self.fits(service, addr) {
                return self.given.push((service, addr));
            }
        }
    }

    fn request(&mut self, service: &'a Service, family: Family) {
        let Some(addr) = Self::wish(service, family).filter(|_| !self.has(service, family)) else { return };
        if self.pool_has(service, addr, true) && self.fits(service, addr) && !self.is_foreign(addr) {
            self.given.push((service, addr));
        }
    }

    fn next(&mut self, service: &'a Service, family: Family) {
        if Self::wish(service, family).is_some() || self.has(service, family) {
            return;
        }
        let sharing = service.exposure.as_ref().is_some_and(|e| e.sharing_key.is_some());
        let mut held: Vec<IpAddr> = self.given.iter().map(|(_, addr)| *addr).collect();
        held.sort();
        let shared = held.iter().copied().filter(|_| sharing).find(|addr| {
            Family::of(*addr) == family
                && self.fits(service, *addr)
                && self.pool_has(service, *addr, true)
                && !self.is_foreign(*addr)
        });
        let all: Vec<IpAddr> = self
            .selecting(service)
            .filter(|(_, sound)| *sound)
            .flat_map(|(pool, _)| pool.ranges.iter().flat_map(|range| every(*range)))
            .filter(|addr| Family::of(*addr) == family)
            .collect();
        let free = all.into_iter().find(|addr| !held.contains(addr) && !self.is_foreign(*addr));
        if let Some(addr) = shared.or(free) {
            self.given.push((service, addr));
        }
    }
}
