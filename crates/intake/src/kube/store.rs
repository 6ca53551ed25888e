//! Changes in, one Snapshot out. Knows nothing of connections and time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use sheetbend_model::state::{Sharing, Snapshot};

use super::closed;
use super::standing::Standing;
use crate::convert::Part;
use crate::file::{Kind, Object, ObjectId, Problem, disregarded, problems};

/// The kinds that an agent watches.
pub(super) const KINDS: &[Kind] = &[
    Kind::Node,
    Kind::Namespace,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::NetworkPolicy,
    Kind::ServiceCIDR,
    Kind::ClusterNetworkPolicy,
    Kind::TrafficTier,
    Kind::NetworkSet,
    Kind::ClusterTrafficPolicy,
    Kind::TrafficPolicy,
    Kind::Tenant,
    Kind::L2Announcement,
];

/// Objects between two looks through what they share.
const SWEEP_EVERY: usize = 16_384;

/// What a watch says.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// The objects of a kind are listed anew from here.
    Begin(Kind),
    /// One of that list.
    Listed(Object),
    /// The list is whole: what it did not name is gone.
    End(Kind),
    /// The kind may not be read: what was known of it stays, and nobody waits for it.
    Forbidden(Kind),
    /// Created or changed.
    Put(Object),
    /// Asked for by name; counts only while no watch has named it.
    Found(Object),
    /// Deleted.
    Gone(ObjectId),
}

/// What is known of the cluster.
pub(super) struct Store {
    /// What is watched.
    kinds: &'static [Kind],
    snapshot: Snapshot,
    /// Kind that is being listed → what the list named so far.
    listing: BTreeMap<Kind, BTreeSet<ObjectId>>,
    synced: BTreeSet<Kind>,
    problems: BTreeMap<ObjectId, Arc<[Problem]>>,
    standings: OrdMap<ObjectId, Standing>,
    sharing: Sharing,
    /// Objects that came since nobody's texts were last forgotten.
    arrived: usize,
}

impl Store {
    /// Of `kinds`; begins with what an earlier process knew. It stays until a whole list does not name it.
    pub(super) fn new(kinds: &'static [Kind], snapshot: Snapshot) -> Self {
        Self {
            kinds,
            snapshot,
            listing: BTreeMap::new(),
            synced: BTreeSet::new(),
            problems: BTreeMap::new(),
            standings: OrdMap::new(),
            sharing: Sharing::default(),
            arrived: 0,
        }
    }

    /// The cluster as known now; attachments are empty.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether every kind was listed whole at least once.
    pub(super) fn is_synced(&self) -> bool {
        self.synced.len() == self.kinds.len()
    }

    /// Kinds that were never listed whole.
    pub(super) fn missing(&self) -> impl Iterator<Item = Kind> + '_ {
        self.kinds.iter().copied().filter(|kind| !self.synced.contains(kind))
    }

    /// What the API server should have refused, and what has no effect, by object.
    pub(super) fn problems(&self) -> &BTreeMap<ObjectId, Arc<[Problem]>> {
        &self.problems
    }

    /// What stands in the status of policies that have one.
    pub(super) fn standings(&self) -> &OrdMap<ObjectId, Standing> {
        &self.standings
    }

    /// Takes a change in.
    pub(super) fn take(&mut self, change: Change) {
        match change {
            Change::Begin(kind) => drop(self.listing.insert(kind, BTreeSet::new())),
            Change::Listed(object) => {
                if let Some(named) = self.listing.get_mut(&object.kind()) {
                    named.insert(object.id());
                }
                self.put(&object);
            }
            Change::End(kind) => self.end(kind),
            Change::Forbidden(kind) => drop(self.synced.insert(kind)),
            Change::Put(object) => self.put(&object),
            Change::Found(object) => {
                if object.kind() == Kind::Pod && !self.snapshot.pods.contains_key(&object.id().key()) {
                    self.put(&object);
                }
            }
            Change::Gone(id) => self.remove(&id),
        }
    }

    fn end(&mut self, kind: Kind) {
        let named = self.listing.remove(&kind).unwrap_or_default();
        for id in self.held(kind).into_iter().filter(|id| !named.contains(id)) {
            self.remove(&id);
        }
        self.problems.retain(|id, _| id.kind != kind || named.contains(id));
        self.synced.insert(kind);
    }

    fn put(&mut self, object: &Object) {
        let id = object.id();
        let mut found = problems(object);
        if let Some(standing) = Standing::of(object)
            && self.standings.get(&id) != Some(&standing)
        {
            self.standings.insert(id.clone(), standing);
        }
        let part = closed::part(object, &found).map(|part| self.share(part));
        // What is wrong with an object closes it; this does not.
        found.extend(disregarded(object));
        if found.is_empty() {
            self.problems.remove(&id);
        } else {
            self.problems.insert(id.clone(), found.into());
        }
        match part {
            // The same content keeps the same Arc, so that Snapshots share it.
            Some(part) if part.is_in(&self.snapshot) => {}
            Some(part) => part.insert(&mut self.snapshot),
            None => self.remove_part(&id),
        }
    }

    fn share(&mut self, mut part: Part) -> Part {
        part.share(&mut self.sharing);
        self.arrived += 1;
        if self.arrived >= SWEEP_EVERY {
            self.arrived = 0;
            self.sharing.sweep();
        }
        part
    }

    fn remove(&mut self, id: &ObjectId) {
        self.problems.remove(id);
        self.remove_part(id);
    }

    fn remove_part(&mut self, id: &ObjectId) {
        let snapshot = &mut self.snapshot;
        match id.kind {
            Kind::Node => {
                drop(snapshot.nodes.remove(&sheetbend_model::types::NodeName(Arc::clone(&id.name))))
            }
            Kind::Namespace => drop(snapshot.namespaces.remove(&id.name)),
            Kind::Pod => drop(snapshot.pods.remove(&id.key())),
            Kind::Service => drop(snapshot.services.remove(&id.key())),
            Kind::EndpointSlice => drop(snapshot.endpoint_slices.remove(&id.key())),
            Kind::NetworkPolicy => {
                snapshot.policies.remove(&id.key());
                snapshot.staged.policies.remove(&id.key());
            }
            Kind::ServiceCIDR => drop(snapshot.service_cidrs.remove(&id.name)),
            Kind::ClusterNetworkPolicy => {
                self.standings.remove(id);
                snapshot.cluster_policies.remove(&id.name);
                snapshot.staged.cluster_policies.remove(&id.name);
            }
            Kind::TrafficTier => drop(snapshot.traffic_tiers.remove(&id.name)),
            Kind::NetworkSet => drop(snapshot.network_sets.remove(&id.name)),
            Kind::ClusterTrafficPolicy | Kind::TrafficPolicy => {
                self.standings.remove(id);
                snapshot.traffic_policies.remove(&id.key());
                snapshot.staged.traffic_policies.remove(&id.key());
            }
            Kind::Tenant => drop(snapshot.tenants.remove(&id.name)),
            Kind::LoadBalancerPool => drop(snapshot.load_balancer_pools.remove(&id.name)),
            Kind::L2Announcement => drop(snapshot.l2_announcements.remove(&id.name)),
            Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet | Kind::ReplicaSet | Kind::Job => {}
        }
    }

    fn held(&self, kind: Kind) -> Vec<ObjectId> {
        let snapshot = &self.snapshot;
        let named = |key: &sheetbend_model::types::ObjectKey| ObjectId {
            kind,
            namespace: Arc::clone(&key.namespace),
            name: Arc::clone(&key.name),
        };
        let bare = |name: &Arc<str>| ObjectId { kind, namespace: "".into(), name: Arc::clone(name) };
        match kind {
            Kind::Node => snapshot.nodes.keys().map(|name| bare(&name.0)).collect(),
            Kind::Namespace => snapshot.namespaces.keys().map(bare).collect(),
            Kind::Pod => snapshot.pods.keys().map(named).collect(),
            Kind::Service => snapshot.services.keys().map(named).collect(),
            Kind::EndpointSlice => snapshot.endpoint_slices.keys().map(named).collect(),
            Kind::NetworkPolicy => {
                snapshot.policies.keys().chain(snapshot.staged.policies.keys()).map(named).collect()
            }
            Kind::ServiceCIDR => snapshot.service_cidrs.keys().map(bare).collect(),
            Kind::ClusterNetworkPolicy => {
                let staged = snapshot.staged.cluster_policies.keys();
                snapshot.cluster_policies.keys().chain(staged).map(bare).collect()
            }
            Kind::TrafficTier => snapshot.traffic_tiers.keys().map(bare).collect(),
            Kind::NetworkSet => snapshot.network_sets.keys().map(bare).collect(),
            Kind::ClusterTrafficPolicy | Kind::TrafficPolicy => {
                let is_namespaced = kind.is_namespaced();
                let keys = snapshot.traffic_policies.keys().chain(snapshot.staged.traffic_policies.keys());
                keys.filter(|key| key.namespace.is_empty() != is_namespaced).map(named).collect()
            }
            Kind::Tenant => snapshot.tenants.keys().map(bare).collect(),
            Kind::LoadBalancerPool => snapshot.load_balancer_pools.keys().map(bare).collect(),
            Kind::L2Announcement => snapshot.l2_announcements.keys().map(bare).collect(),
            Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet | Kind::ReplicaSet | Kind::Job => {
                Vec::new()
            }
        }
    }
}
