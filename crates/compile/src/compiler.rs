//! Incremental compile: each update costs what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sheetbend_model::plan::{
    Condition, Dataplane, Entry, EntryKey, HealthCheck, LocalPod, Overlay, Plan, Route, Step,
};
use sheetbend_model::state::{AttachmentId, NetworkConfig, Snapshot};
use sheetbend_model::types::{BlockKey, DomainPattern, NodeName, ObjectKey, Port};

use crate::changes::Changes;
use crate::policy::{self, Isolations, PolicyTables, TrafficPolicies};
use crate::service::{self, ServiceTables};
use crate::{overlay, route};

/// How many keys of each kind were compiled since the start. They show that an update costs what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Updates taken.
    pub updates: u64,
    /// Pods of this node for which policies were looked up.
    pub local_pods: u64,
    /// Policies whose rules were built.
    pub policies: u64,
    /// Addresses whose class was computed.
    pub addresses: u64,
    /// Blocks whose class changed.
    pub blocks: u64,
    /// Services compiled.
    pub services: u64,
    /// Times the routes were computed.
    pub routes: u64,
}

/// Follows a cluster for one node.
pub struct Compiler {
    node: NodeName,
    config: NetworkConfig,
    /// As [`resolved`](crate::resolved).
    snapshot: Snapshot,
    isolations: Isolations,
    traffic: TrafficPolicies,
    pub(crate) policy: PolicyTables,
    pub(crate) services: ServiceTables,
    routes: BTreeMap<BlockKey, Route>,
    route_conditions: Vec<Condition>,
    overlay: Overlay,
    counters: Counters,
}

struct Delta {
    policy: policy::Delta,
    services: service::Delta,
    routes: Option<BTreeMap<BlockKey, Route>>,
    overlay: bool,
}

impl Compiler {
    /// A compiler that has seen nothing: its first update compiles everything.
    pub fn new(node: NodeName, config: NetworkConfig) -> Self {
        Self {
            services: ServiceTables::new(node.clone(), config.node_local_dns.clone()),
            node,
            config,
            snapshot: Snapshot::default(),
            isolations: Isolations::default(),
            traffic: TrafficPolicies::default(),
            policy: PolicyTables::default(),
            routes: BTreeMap::new(),
            route_conditions: Vec::new(),
            overlay: Overlay::default(),
            counters: Counters::default(),
        }
    }

    /// Takes in `next` and says what to write. While the Plan runs, every pod has at each step the verdict it had or the
    /// one it will have.
    pub fn update(&mut self, next: &Snapshot) -> Plan {
        let delta = self.advance(next, true);
        let plan = self.plan(&delta);
        drop(delta);
        self.policy.sweep();
        plan
    }

    /// Takes in `next` without a Plan, for whoever compares whole tables anyway ([`Wanted`](sheetbend_model::plan::Wanted)):
    /// the first Plan of a large cluster is larger than the tables.
    pub fn load(&mut self, next: &Snapshot) {
        drop(self.advance(next, false));
        self.policy.sweep();
    }

    /// The tables as they are wanted now, written out whole.
    pub fn dataplane(&self) -> Dataplane {
        let mut dataplane = Dataplane {
            routes: self.routes.clone(),
            overlay: self.overlay.clone(),
            conditions: self.conditions(),
            ..Dataplane::default()
        };
        self.policy.write(&mut dataplane);
        self.services.write(&self.snapshot, &mut dataplane);
        dataplane
    }

    /// This node's own part, as in [`Dataplane::overlay`].
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Where ranges are, as in [`Dataplane::routes`].
    pub fn routes(&self) -> &BTreeMap<BlockKey, Route> {
        &self.routes
    }

    /// The pods of this node, as in [`Dataplane::pods`].
    pub fn pods(&self) -> impl Iterator<Item = (&AttachmentId, &LocalPod)> {
        self.policy.pods()
    }

    /// The domain names that policies of this node's pods ask for: what is to be learnt.
    pub fn domains(&self) -> BTreeSet<DomainPattern> {
        self.policy.domains().cloned().collect()
    }

    /// What load balancers that ask at a port of this node are told; a process answers them, not the kernel.
    pub fn health_checks(&self) -> BTreeMap<Port, HealthCheck> {
        self.services.health_checks()
    }

    /// What is wrong with the user's objects now.
    pub fn conditions(&self) -> BTreeSet<Condition> {
        let found = self.policy.conditions().chain(self.route_conditions.iter().cloned());
        let found = found.chain(self.services.conditions()).chain(self.isolations.conditions());
        found.chain(self.names_not_learnt()).collect()
    }

    /// Policies ask about domain names that nobody can tell of.
    fn names_not_learnt(&self) -> Option<Condition> {
        let asks = self.policy.domains().next().is_some();
        (asks && self.config.node_local_dns.addresses.is_empty()).then(|| Condition {
            kind: "Node",
            object: ObjectKey::cluster_scoped(self.node.0.clone()),
            reason: "NamesNotLearnt",
            message: "policies here have peers by domainNames, which match nothing until dns.nodeLocal names the addresses \
                      of the node's own name server"
                .into(),
        })
    }

    /// The Snapshot of the last update, [`resolved`](crate::resolved).
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How much was compiled so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// `tells`: whether Services are compiled as they were and as they will be, for a Plan.
    fn advance(&mut self, next: &Snapshot, tells: bool) -> Delta {
        let next = &self.traffic.follow(&self.isolations.follow(next));
        let old = std::mem::replace(&mut self.snapshot, next.clone());
        let changes = Changes::between(&old, next);
        let first = self.counters.updates == 0;
        self.counters.updates += 1;
        let mut delta = Delta {
            policy: self.policy.update(&old, next, &changes, &mut self.counters),
            services: self.services.update((&old, next), &changes, &mut self.counters, tells),
            routes: None,
            overlay: false,
        };
        if first || !changes.nodes.is_empty() || !changes.service_cidrs.is_empty() {
            self.counters.routes += 1;
            let (routes, conditions) = route::routes(next, &self.node, &self.config);
            delta.routes = Some(std::mem::replace(&mut self.routes, routes));
            self.route_conditions = conditions;
            let overlay = overlay::overlay(next, &self.node, &self.config);
            delta.overlay = overlay != self.overlay;
            self.overlay = overlay;
        }
        delta
    }

    fn plan(&self, delta: &Delta) -> Plan {
        let mut plan = Plan::default();
        if delta.overlay {
            plan.refine.push(Step::Put(Entry::Overlay(self.overlay.clone())));
        }
        let before = delta.routes.as_ref();
        for (key, route) in before.iter().flat_map(|_| &self.routes) {
            if before.and_then(|routes| routes.get(key)) != Some(route) {
                plan.refine.push(Step::Put(Entry::Route(*key, route.clone())));
            }
        }
        let policy = self.policy.steps(&delta.policy);
        let (services, gone_services) = delta.services.steps();
        plan.refine.extend(policy.refine);
        plan.swap.extend(services);
        plan.swap.extend(policy.swap);
        plan.retire.extend(policy.retire_pods);
        plan.retire.extend(gone_services);
        plan.retire.extend(policy.retire);
        for key in before.into_iter().flat_map(BTreeMap::keys) {
            if !self.routes.contains_key(key) {
                plan.retire.push(Step::Delete(EntryKey::Route(*key)));
            }
        }
        plan.raise_epoch = policy.raise_epoch;
        plan
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").field("node", &self.node).field("counters", &self.counters).finish()
    }
}
