//! Services: frontends and the backends behind them.

mod addresses;
mod claims;
mod delta;
mod endpoints;
pub mod explain;
mod frontends;
mod health;
mod host_ports;
mod node_local;
mod sctp;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use ipnet::IpNet;
use sheetbend_model::plan::{self, Condition, Dataplane, Frontend, HealthCheck, Scope, ServiceEntry};
use sheetbend_model::state::{Algorithm, NodeLocalDns, Service, ServicePort, Snapshot, TrafficPolicy};
use sheetbend_model::types::{AddrKey, Family, NodeName, ObjectKey, Port, Protocol};

use crate::changes::{Changes, in_namespace};
use crate::compiler::Counters;
use crate::slices::{Slices, service_of};
use addresses::Addresses;
use claims::Claims;
pub(crate) use delta::Delta;
use endpoints::{Choice, Own, Question, Viewpoint};
use frontends::Meaning;
use health::HealthChecks;
use host_ports::HostPorts;
use node_local::NodeLocal;

/// Which Services and slices belong together, and who has which frontend.
#[derive(Debug)]
pub(crate) struct ServiceTables {
    /// Whose local endpoints and host ports count.
    node: NodeName,
    slices: Slices,
    /// Frontend → Services that claim it, sorted; the first has it, but a node-local address is the DNS Service's.
    claims: HashMap<Frontend, Claims>,
    addresses: Addresses,
    node_local: NodeLocal,
    host_ports: HostPorts,
    health: HealthChecks,
    conditions: BTreeMap<ObjectKey, Vec<Condition>>,
}

impl ServiceTables {
    /// Nothing yet, as seen from `node`.
    pub(crate) fn new(node: NodeName, dns: NodeLocalDns) -> Self {
        Self {
            host_ports: HostPorts::new(node.clone()),
            node,
            node_local: NodeLocal::new(dns),
            slices: Slices::default(),
            claims: HashMap::new(),
            addresses: Addresses::default(),
            health: HealthChecks::default(),
            conditions: BTreeMap::new(),
        }
    }

    /// Moves the tables from `old` to `next`. Without `tells` the Delta stays empty.
    pub(crate) fn update(
        &mut self,
        (old, next): (&Snapshot, &Snapshot),
        changes: &Changes<'_>,
        counters: &mut Counters,
        tells: bool,
    ) -> Delta {
        let mut delta = Delta::default();
        let mut dirty = dirty(old, next, changes);
        if self.zone(old) != self.zone(next) {
            dirty.extend(old.services.keys().chain(next.services.keys()).cloned());
        }
        let node_local = self.node_local.moved(next, changes);
        if node_local.is_some() {
            dirty.insert(self.node_local.service().clone());
        }
        let mut frontends = self.host_ports.touched(changes);
        if dirty.is_empty() && frontends.is_empty() {
            self.host_ports.update(changes);
            return delta;
        }
        counters.services += dirty.len() as u64;
        for key in &dirty {
            frontends.extend(old.services.get(key).into_iter().flat_map(|service| self.claimed(service)));
            let after = node_local.as_ref().unwrap_or(&self.node_local);
            frontends.extend(next.services.get(key).into_iter().flat_map(|service| after.claimed(service)));
        }
        for frontend in frontends.iter().filter(|_| tells) {
            if let Some(entry) = self.entry(old, frontend) {
                delta.old.insert(*frontend, entry);
            }
        }
        let touched = self.addresses.update((old, next), &dirty);
        if tells {
            delta.addresses = touched;
        }
        self.index(old, next, changes, &dirty, node_local);
        self.host_ports.update(changes);
        for frontend in frontends.iter().filter(|_| tells) {
            if let Some(entry) = self.entry(next, frontend) {
                delta.new.insert(*frontend, entry);
            }
        }
        let mut contested: BTreeSet<ObjectKey> = dirty;
        // Whoever got a rival has one condition more, whoever lost one has one less.
        for frontend in &frontends {
            let claims = self.claims.get(frontend).map_or(&[][..], Claims::all);
            let strange = claims.iter().filter(|key| !contested.contains(*key)).cloned();
            let strange: Vec<ObjectKey> = strange.collect();
            contested.extend(strange);
        }
        for key in contested {
            let conditions =
                next.services.get(&key).map_or(Vec::new(), |service| self.conditions_of(next, service));
            if conditions.is_empty() {
                self.conditions.remove(&key);
            } else {
                self.conditions.insert(key, conditions);
            }
        }
        let owner = |frontend: &Frontend| owner(&self.claims, &self.node_local, frontend);
        self.host_ports.judge(next, &frontends, owner);
        delta
    }

    /// Writes the tables out whole.
    pub(crate) fn write(&self, snapshot: &Snapshot, dataplane: &mut Dataplane) {
        self.part(snapshot, None, usize::MAX, &mut |entry| dataplane.put(entry));
    }

    /// Gives `each` the rows of at most `most` Services behind `after`, and with the last Services those of host ports.
    /// Returns the last Service if there may be more.
    pub(crate) fn part(
        &self,
        snapshot: &Snapshot,
        after: Option<&ObjectKey>,
        most: usize,
        each: &mut dyn FnMut(plan::Entry),
    ) -> Option<ObjectKey> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let mut last = None;
        let mut seen = 0;
        for (key, service) in snapshot.services.range((from, Bound::Unbounded)).take(most) {
            for frontend in self.claimed(service) {
                if self.owner(&frontend) == Some(key)
                    && let Some(entry) = self.entry(snapshot, &frontend)
                {
                    each(plan::Entry::Service(frontend, entry));
                }
            }
            self.addresses
                .of(service)
                .for_each(|(key, holder)| each(plan::Entry::ServiceAddress(key, holder)));
            (seen, last) = (seen + 1, Some(key));
        }
        if seen == most {
            return last.cloned();
        }
        for frontend in self.host_ports.frontends() {
            if let Some(entry) = self.entry(snapshot, frontend) {
                each(plan::Entry::Service(*frontend, entry));
            }
        }
        None
    }

    /// Whether [`ServiceTables::part`] has a row for `frontend`.
    pub(crate) fn has(&self, snapshot: &Snapshot, frontend: &Frontend) -> bool {
        match self.owner(frontend) {
            Some(owner) => {
                let service = snapshot.services.get(owner);
                service.is_some_and(|service| self.port_of(service, frontend).is_some())
            }
            None => self.host_ports.entry(snapshot, frontend).is_some(),
        }
    }

    /// Whether [`ServiceTables::part`] has a row for the address.
    pub(crate) fn has_address(&self, key: &AddrKey) -> bool {
        self.addresses.holder(key).is_some()
    }

    pub(crate) fn conditions(&self) -> impl Iterator<Item = Condition> {
        let found = self.conditions.values().flatten().chain(self.host_ports.conditions()).cloned();
        found.chain(self.health.conditions()).chain(self.node_local.conditions().cloned())
    }

    pub(crate) fn health_checks(&self) -> BTreeMap<Port, HealthCheck> {
        self.health.all()
    }

    /// The frontends that `service` claims.
    fn claimed(&self, service: &Service) -> Vec<Frontend> {
        self.node_local.claimed(service)
    }

    fn owner(&self, frontend: &Frontend) -> Option<&ObjectKey> {
        owner(&self.claims, &self.node_local, frontend)
    }

    fn index(
        &mut self,
        old: &Snapshot,
        next: &Snapshot,
        changes: &Changes<'_>,
        dirty: &BTreeSet<ObjectKey>,
        node_local: Option<NodeLocal>,
    ) {
        self.slices.update(changes);
        let before = match node_local {
            Some(after) => std::mem::replace(&mut self.node_local, after),
            None => self.node_local.clone(),
        };
        for key in dirty {
            if let Some(service) = old.services.get(key) {
                self.health.remove(service);
            }
            if let Some(service) = next.services.get(key) {
                self.health.insert(service, self.slices.of(next, key), &self.node);
            }
            for frontend in old.services.get(key).into_iter().flat_map(|service| before.claimed(service)) {
                if let Entry::Occupied(mut claims) = self.claims.entry(frontend)
                    && !claims.get_mut().remove(key)
                {
                    claims.remove();
                }
            }
            for frontend in
                next.services.get(key).into_iter().flat_map(|service| self.node_local.claimed(service))
            {
                match self.claims.entry(frontend) {
                    Entry::Vacant(place) => drop(place.insert(Claims::One(key.clone()))),
                    Entry::Occupied(mut claims) => claims.get_mut().insert(key),
                }
            }
        }
    }

    /// The Service, or else the host port, that has `frontend`, compiled.
    fn entry(&self, snapshot: &Snapshot, frontend: &Frontend) -> Option<ServiceEntry> {
        let Some(owner) = self.owner(frontend) else {
            return self.host_ports.entry(snapshot, frontend);
        };
        let service = snapshot.services.get(owner)?;
        let (port, meaning, own) = self.port_of(service, frontend)?;
        let from = Viewpoint { node: &self.node, zone: self.zone(snapshot), own };
        let fixed_port = sctp::fixed_port(frontend);
        let question =
            Question { snapshot, service, port, family: Family::of(frontend.addr), fixed_port, from };
        let backends = Choice::new(question, self.slices.of(snapshot, &service.key)).backends();
        Some(ServiceEntry {
            service: service.key.clone(),
            port_name: port.name.clone(),
            reach: meaning.reach,
            only_remote: backends.only_remote,
            sources: sources(service, frontend).filter(|_| meaning.is_balanced),
            algorithm: service.algorithm,
            // Whoever is the node's own server is so for every client.
            affinity_timeout: service.affinity_timeout.filter(|_| own != Own::First),
            backends: backends.chosen.into(),
            weights: backends.weights.into(),
            draining: backends.draining.into(),
        })
    }

    /// The port of `service` that `frontend`, which it claims, belongs to, and what the frontend means.
    fn port_of<'a>(
        &self,
        service: &'a Service,
        frontend: &Frontend,
    ) -> Option<(&'a ServicePort, Meaning, Own)> {
        if self.node_local.is_of(&service.key, frontend) {
            let (port, meaning) = self.node_local.port_of(service, frontend)?;
            return Some((port, meaning, Own::First));
        }
        let (port, meaning) = frontends::port_of(service, frontend)?;
        let own = match meaning.policy {
            TrafficPolicy::Local => Own::Only,
            TrafficPolicy::Cluster => Own::Alike,
        };
        Some((port, meaning, own))
    }

    /// The zone that this node is in.
    fn zone<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a str> {
        snapshot.nodes.get(&self.node)?.zone()
    }

    fn conditions_of(&self, snapshot: &Snapshot, service: &Service) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let mut add = |reason, message: String| {
            let condition =
                Condition { kind: "Service", object: service.key.clone(), reason, message: message.into() };
            conditions.push(condition);
        };
        if let Some(text) = &service.unknown_algorithm {
            add(
                "UnknownLoadBalancing",
                format!(
                    "annotation sheetbend.dev/load-balancing: {text:?} is not known; use one of {}. {} is used",
                    Algorithm::ALL.map(Algorithm::name).join(", "),
                    service.algorithm
                ),
            );
        }
        let slices = self.slices.of(snapshot, &service.key);
        let slices = slices.map(|slice| (format!("EndpointSlice {}", slice.key), &slice.weights));
        for (object, weights) in slices.chain([(format!("Service {}", service.key), &service.weights)]) {
            if let Some(fault) = weights.fault() {
                add(
                    "InvalidWeights",
                    format!(
                        "annotation sheetbend.dev/weights of {object}: {fault}. None of its weights is used"
                    ),
                );
            }
        }
        for frontend in self.claimed(service).into_iter().filter(|own| own.scope == Scope::Inside) {
            if let Some(owner) = self.owner(&frontend)
                && *owner != service.key
            {
                add(
                    "FrontendConflict",
                    format!(
                        "{frontend} belongs to Service {owner}; give one of them another port or address"
                    ),
                );
            }
        }
        for fault in self.sctp_faults(snapshot, service) {
            add(sctp::REASON, fault.to_string());
        }
        conditions
    }

    /// The ports of `service` that SCTP clients use and that not all of its endpoints have.
    fn sctp_faults(&self, snapshot: &Snapshot, service: &Service) -> BTreeSet<sctp::Fault> {
        let owned = self.claimed(service).into_iter().filter(|frontend| {
            let is_sctp = frontend.protocol == Protocol::Sctp && frontend.scope == Scope::Inside;
            is_sctp && self.owner(frontend) == Some(&service.key)
        });
        let faults = owned.filter_map(|frontend| {
            let (port, ..) = self.port_of(service, &frontend)?;
            sctp::Fault::of(service, port, &frontend, self.slices.of(snapshot, &service.key))
        });
        faults.collect()
    }
}

/// Who has `frontend`.
fn owner<'a>(
    claims: &'a HashMap<Frontend, Claims>,
    node_local: &NodeLocal,
    frontend: &Frontend,
) -> Option<&'a ObjectKey> {
    let claims = claims.get(frontend)?;
    claims.all().iter().find(|key| node_local.is_of(key, frontend)).or_else(|| Some(claims.first()))
}

/// Whom the load balancer's address `frontend` admits. A family without a range admits nobody: whoever wrote ranges did
/// not mean the whole other family.
fn sources(service: &Service, frontend: &Frontend) -> Option<Arc<[IpNet]>> {
    let ranges = service.source_ranges.as_ref()?;
    let of_family = |range: &&IpNet| Family::of(range.addr()) == Family::of(frontend.addr);
    let mut ranges: Vec<IpNet> = ranges.iter().filter(of_family).map(IpNet::trunc).collect();
    ranges.sort_unstable();
    ranges.dedup();
    Some(ranges.into())
}

/// Services that changed, whose slices changed, or with an endpoint whose pod ended or came back.
fn dirty(old: &Snapshot, next: &Snapshot, changes: &Changes<'_>) -> BTreeSet<ObjectKey> {
    let mut dirty: BTreeSet<ObjectKey> = changes.services.iter().map(|change| change.key.clone()).collect();
    for change in &changes.endpoint_slices {
        dirty.extend([change.old, change.new].into_iter().flatten().filter_map(|slice| service_of(slice)));
    }
    let ended = |snapshot: &Snapshot, key| {
        snapshot.pods.get(key).filter(|pod| pod.phase.is_terminal()).map(|pod| pod.uid.clone())
    };
    let mut ends: BTreeMap<&Arc<str>, BTreeSet<&ObjectKey>> = BTreeMap::new();
    for change in &changes.pods {
        if ended(old, change.key) != ended(next, change.key) {
            ends.entry(&change.key.namespace).or_default().insert(change.key);
        }
    }
    for (namespace, pods) in ends {
        for (_, slice) in in_namespace(&next.endpoint_slices, namespace) {
            let touched = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref());
            if touched.into_iter().any(|(key, _)| pods.contains(key)) {
                dirty.extend(service_of(slice));
            }
        }
    }
    dirty
}
