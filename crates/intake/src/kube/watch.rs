//! The task that owns what is known of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use kube::{Api, Client};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::ObjectKey;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::follow::{chain, follow, trimmed};
use super::standing::Standing;
use super::store::{Change, KINDS, Store};
use crate::file::{Kind, ObjectId, Problem};
use crate::resources::{
    ClusterNetworkPolicy, ClusterTrafficPolicy, L2Announcement, LoadBalancerPool, NetworkSet, Tenant,
    TrafficPolicy, TrafficTier,
};

/// Changes that wait for the task; watches wait when it is full.
const QUEUE: usize = 512;
/// How long the API server may take before the last good Snapshot is used. With a server that answers nothing old is
/// ever used.
const GRACE: Duration = Duration::from_secs(5);
/// How long one GET may take.
const LOOKUP: Duration = Duration::from_secs(3);
/// Between two attempts to learn the server's version.
const RETRY: Duration = Duration::from_secs(2);

/// The cluster as known at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The objects; attachments are empty.
    pub snapshot: Arc<Snapshot>,
    /// `false` while it is what an earlier process knew: things may be missing from it, so nothing may be removed.
    pub fresh: bool,
}

/// A watched cluster. The watches end when all receivers of `readings` are gone.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The newest state; `None` until every kind was listed, or the last good Snapshot was taken.
    pub readings: watch::Receiver<Option<Reading>>,
    /// What the API server should have refused, by object. Such a Service or EndpointSlice counts as absent, such a
    /// NetworkPolicy isolates and allows nothing.
    pub problems: watch::Receiver<Arc<BTreeMap<ObjectId, Arc<[Problem]>>>>,
    /// What stands in the status of policies that have one. As of `readings`.
    pub standings: watch::Receiver<OrdMap<ObjectId, Standing>>,
    /// Pods to look for by name, with one GET each.
    pub lookups: mpsc::Sender<ObjectKey>,
}

/// What [`watch()`] begins with.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// The last good Snapshot of an earlier process.
    pub last_good: Option<Snapshot>,
    /// How long the API server may take before it is used; `None` = 5 s.
    pub grace: Option<Duration>,
}

/// What a controller watches: as an agent, and what it gives out.
const CONTROLLED: &[Kind] = &[
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
    Kind::LoadBalancerPool,
];

/// What the cluster's names are made of. Pods, of which there are many, are none of it.
const NAMED: &[Kind] = &[Kind::Namespace, Kind::Service, Kind::EndpointSlice];

/// Watches the cluster. Must be called in a tokio runtime.
pub fn watch(client: Client, waiting: Waiting) -> Watched {
    watch_kinds(client, waiting, KINDS)
}

/// Watches the cluster and its LoadBalancerPools. Must be called in a tokio runtime.
pub fn watch_controlled(client: Client) -> Watched {
    watch_kinds(client, Waiting::default(), CONTROLLED)
}

/// Watches what the cluster's names are made of: Namespaces, Services and EndpointSlices. Must be called in a tokio
/// runtime.
pub fn watch_names(client: Client, waiting: Waiting) -> Watched {
    watch_kinds(client, waiting, NAMED)
}

fn watch_kinds(client: Client, waiting: Waiting, kinds: &'static [Kind]) -> Watched {
    let (readings, readings_out) = watch::channel(None);
    let (problems, problems_out) = watch::channel(Arc::default());
    let (standings, standings_out) = watch::channel(OrdMap::new());
    let (lookups_in, lookups) = mpsc::channel(64);
    let has_last_good = waiting.last_good.is_some();
    let task = Task {
        client,
        kinds,
        store: Store::new(kinds, waiting.last_good.unwrap_or_default()),
        grace: has_last_good.then(|| Instant::now() + waiting.grace.unwrap_or(GRACE)),
        readings,
        problems,
        standings,
    };
    tokio::spawn(task.run(lookups));
    Watched { readings: readings_out, problems: problems_out, standings: standings_out, lookups: lookups_in }
}

struct Task {
    client: Client,
    kinds: &'static [Kind],
    store: Store,
    /// When the last good Snapshot counts; `None` when there is none or it was used.
    grace: Option<Instant>,
    readings: watch::Sender<Option<Reading>>,
    problems: watch::Sender<Arc<BTreeMap<ObjectId, Arc<[Problem]>>>>,
    standings: watch::Sender<OrdMap<ObjectId, Standing>>,
}

impl Task {
    async fn run(mut self, mut lookups: mpsc::Receiver<ObjectKey>) {
        let (sender, mut changes) = mpsc::channel(QUEUE);
        tokio::spawn(follow_all(self.client.clone(), self.kinds, sender.clone()));
        let mut batch = Vec::with_capacity(QUEUE);
        loop {
            let grace = self.grace;
            tokio::select! {
                _ = changes.recv_many(&mut batch, QUEUE) => self.take(&mut batch),
                Some(key) = lookups.recv() => {
                    tokio::spawn(look_up(self.client.clone(), key, sender.clone()));
                }
                () = sleep_until(grace.unwrap_or_else(Instant::now)), if grace.is_some() => self.fall_back(),
                () = self.readings.closed() => return,
            }
        }
    }

    fn take(&mut self, batch: &mut Vec<Change>) {
        let was_synced = self.store.is_synced();
        let asked_for = batch.iter().any(|change| matches!(change, Change::Found(_)));
        for change in batch.drain(..) {
            self.store.take(change);
        }
        if !self.store.is_synced() {
            // What is known in part is nobody's state; a pod that was asked for is needed all the same.
            if asked_for && self.readings.borrow().is_some() {
                self.publish(false);
            }
            return;
        }
        if !was_synced {
            let found = self.store.snapshot();
            info!(
                nodes = found.nodes.len(),
                pods = found.pods.len(),
                services = found.services.len(),
                policies = found.policies.len(),
                "the cluster is known"
            );
        }
        self.grace = None;
        self.publish(true);
    }

    fn fall_back(&mut self) {
        self.grace = None;
        let missing: Vec<&str> = self.store.missing().map(Kind::name).collect();
        warn!(
            missing = missing.join(","),
            "the API server has not told the whole cluster; the last good Snapshot is in force until it has"
        );
        self.publish(false);
    }

    fn publish(&self, fresh: bool) {
        self.readings.send_if_modified(|last| {
            let snapshot = self.store.snapshot();
            if let Some(last) = last
                && last.fresh == fresh
                && same(&last.snapshot, snapshot)
            {
                return false;
            }
            *last = Some(Reading { snapshot: Arc::new(snapshot.clone()), fresh });
            true
        });
        self.problems.send_if_modified(|last| {
            let changed = **last != *self.store.problems();
            if changed {
                *last = Arc::new(self.store.problems().clone());
            }
            changed
        });
        self.standings.send_if_modified(|last| {
            let changed = !last.ptr_eq(self.store.standings());
            if changed {
                *last = self.store.standings().clone();
            }
            changed
        });
    }
}

/// Whether the two share everything.
fn same(a: &Snapshot, b: &Snapshot) -> bool {
    a.nodes.ptr_eq(&b.nodes)
        && a.namespaces.ptr_eq(&b.namespaces)
        && a.pods.ptr_eq(&b.pods)
        && a.services.ptr_eq(&b.services)
        && a.endpoint_slices.ptr_eq(&b.endpoint_slices)
        && a.policies.ptr_eq(&b.policies)
        && a.service_cidrs.ptr_eq(&b.service_cidrs)
        && a.cluster_policies.ptr_eq(&b.cluster_policies)
        && a.traffic_tiers.ptr_eq(&b.traffic_tiers)
        && a.network_sets.ptr_eq(&b.network_sets)
        && a.traffic_policies.ptr_eq(&b.traffic_policies)
        && a.tenants.ptr_eq(&b.tenants)
        && a.load_balancer_pools.ptr_eq(&b.load_balancer_pools)
        && a.l2_announcements.ptr_eq(&b.l2_announcements)
}

async fn follow_all(client: Client, kinds: &'static [Kind], changes: mpsc::Sender<Change>) {
    let Some(streaming) = streams(&client, &changes).await else { return };
    macro_rules! follow {
        ($($kind:ident),*) => { $(
            if kinds.contains(&Kind::$kind) {
                tokio::spawn(follow::<$kind>(client.clone(), Kind::$kind, streaming, changes.clone()));
            }
        )* };
    }
    follow!(
        Node,
        Namespace,
        Pod,
        Service,
        EndpointSlice,
        NetworkPolicy,
        ServiceCIDR,
        ClusterNetworkPolicy,
        TrafficTier,
        NetworkSet,
        ClusterTrafficPolicy,
        TrafficPolicy,
        Tenant,
        L2Announcement,
        LoadBalancerPool
    );
}

/// Whether the server can be asked for streaming lists: on by default in 1.32 and from 1.34. `None` when nobody
/// listens any more.
async fn streams(client: &Client, changes: &mpsc::Sender<Change>) -> Option<bool> {
    let mut said = false;
    while !changes.is_closed() {
        match client.apiserver_version().await {
            Ok(version) => {
                info!(version = version.git_version, "the API server answers");
                let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
                return Some(minor.parse().unwrap_or(0) >= 32);
            }
            Err(error) if said => debug!("{error}"),
            Err(error) => {
                said = true;
                warn!(
                    "the API server does not answer, trying again: {}; check kubernetes.apiServer or intake.kubeconfig",
                    chain(&error)
                );
            }
        }
        sleep(RETRY).await;
    }
    None
}

async fn look_up(client: Client, key: ObjectKey, changes: mpsc::Sender<Change>) {
    let api: Api<Pod> = Api::namespaced(client, &key.namespace);
    match timeout(LOOKUP, api.get_opt(&key.name)).await {
        Ok(Ok(Some(pod))) => drop(changes.send(Change::Found(trimmed(pod))).await),
        Ok(Ok(None)) => debug!(pod = %key, "the API server has no such pod"),
        Ok(Err(error)) => warn!(pod = %key, "cannot ask for the pod: {}", chain(&error)),
        Err(_) => warn!(pod = %key, "no answer within {LOOKUP:?} to the question for the pod"),
    }
}
