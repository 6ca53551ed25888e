//! What the core shows of itself: names for events, and the document of `sheetbend status`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use serde_json::{Value, json};
use sheetbend_apply::bpf::{Kernel, Names};
use sheetbend_compile::Compiler;
use sheetbend_model::plan::{
    Condition, Entry, EntryKey, HealthCheck, LocalPod, Origin, Overlay, Posture, Route, Step,
};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::{AddrKey, Port};

/// How the node's own processes reach Services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    /// `node.cgroup`.
    pub(crate) cgroup: Option<PathBuf>,
    /// Why they do not.
    pub(crate) error: Option<String>,
}

/// The core after one round. Cheap: what is large is shared.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The cluster that is compiled.
    pub(crate) snapshot: Snapshot,
    /// Ranges of cluster addresses.
    pub(crate) service_ranges: Vec<IpNet>,
    /// What the numbers in events mean.
    pub(crate) names: Arc<Names>,
    /// Whether the kernel holds all that is wanted.
    pub(crate) synced: bool,
    version: String,
    overlay: Overlay,
    conditions: Vec<Condition>,
    /// What load balancers are told.
    pub(crate) health_checks: BTreeMap<Port, HealthCheck>,
    pods: Vec<LocalPod>,
    sockets: Sockets,
    /// Built when the first event of this state asks.
    owners: OnceLock<HashMap<AddrKey, Arc<str>>>,
    /// The same.
    logged: OnceLock<BTreeSet<u32>>,
}

impl View {
    pub(crate) fn new(compiler: &Compiler, kernel: &Kernel, synced: bool, sockets: Sockets) -> Self {
        Self {
            snapshot: compiler.snapshot().clone(),
            service_ranges: service_ranges(compiler),
            names: kernel.names(),
            synced,
            version: kernel.version().to_owned(),
            overlay: compiler.overlay().clone(),
            conditions: compiler.conditions().into_iter().collect(),
            health_checks: compiler.health_checks(),
            pods: compiler.pods().map(|(_, pod)| pod.clone()).collect(),
            sockets,
            owners: OnceLock::new(),
            logged: OnceLock::new(),
        }
    }

    /// `namespace/name` of the pod or Service, or the name of the node, that has this address.
    pub(crate) fn owner(&self, addr: AddrKey) -> Option<Arc<str>> {
        self.owners.get_or_init(|| owners(&self.snapshot)).get(&addr).cloned()
    }

    /// Origins, by their numbers, whose rules say `log`. Mostly none.
    pub(crate) fn logged(&self) -> &BTreeSet<u32> {
        self.logged.get_or_init(|| logged(&self.snapshot, &self.names))
    }

    /// The document of `/status`. `drops` is (reason → packets) since the node booted.
    /// `foreign` are other people's rules that drop what our programs hand to the stack.
    pub(crate) fn status(
        &self,
        node: &str,
        drops: &BTreeMap<&'static str, u64>,
        foreign: &[String],
    ) -> Value {
        let pods: Vec<Value> = self.pods.iter().map(pod).collect();
        let conditions: Vec<Value> = self.conditions.iter().map(condition).collect();
        json!({
            "node": node,
            "synced": self.synced,
            "mode": self.overlay.mode.to_string(),
            "nodeAddresses": self.overlay.node_addresses,
            "routerAddresses": self.overlay.router_addresses,
            "podCIDRs": self.overlay.pod_cidrs,
            "programs": self.version,
            "cluster": {
                "nodes": self.snapshot.nodes.len(),
                "pods": self.snapshot.pods.len(),
                "services": self.snapshot.services.len(),
                "networkPolicies": self.snapshot.policies.len(),
                "clusterNetworkPolicies":
                    self.snapshot.cluster_policies.values().filter(|policy| policy.tier.is_standard()).count(),
                "trafficPolicies": self.snapshot.traffic_policies.len(),
                "stagedPolicies": self.snapshot.staged.len(),
                "auditedNamespaces": if self.snapshot.audit {
                    self.snapshot.namespaces.len()
                } else {
                    self.snapshot.namespaces.values().filter(|namespace| namespace.audit).count()
                },
            },
            "pods": pods,
            "conditions": conditions,
            "sockets": { "cgroup": self.sockets.cgroup, "error": self.sockets.error },
            "foreignRules": foreign,
            "counters": drops,
        })
    }
}

fn service_ranges(compiler: &Compiler) -> Vec<IpNet> {
    let ranges = compiler.routes().iter().filter(|(_, route)| matches!(route, Route::Service));
    ranges.map(|(key, _)| key.block).collect()
}

fn logged(snapshot: &Snapshot, names: &Names) -> BTreeSet<u32> {
    let mut policies = snapshot.traffic_policies.values();
    if !policies.any(|policy| policy.ingress.iter().chain(&policy.egress).any(|rule| rule.log)) {
        return BTreeSet::new();
    }
    let is_logged = |origin: &Origin| {
        let policy = snapshot.cluster_policies.get(&origin.policy.name);
        let mut rules = policy.into_iter().flat_map(|policy| policy.rules(origin.direction));
        origin.policy.namespace.is_empty() && rules.any(|rule| rule.index == origin.rule && rule.log)
    };
    names.origins.iter().filter(|(_, origin)| is_logged(origin)).map(|(number, _)| *number).collect()
}

fn owners(snapshot: &Snapshot) -> HashMap<AddrKey, Arc<str>> {
    let mut owners = HashMap::new();
    for node in snapshot.nodes.values() {
        owners.extend(node.addresses.iter().map(|addr| (AddrKey::new(*addr), Arc::clone(&node.name.0))));
    }
    for service in snapshot.services.values() {
        let name: Arc<str> = service.key.to_string().into();
        owners.extend(service.cluster_ips.iter().map(|addr| (AddrKey::new(*addr), Arc::clone(&name))));
    }
    for pod in snapshot.pods.values().filter(|pod| pod.is_peer()) {
        let name: Arc<str> = pod.key.to_string().into();
        let key = |addr| AddrKey { network: pod.network, addr };
        owners.extend(pod.addresses.iter().map(|addr| (key(addr), Arc::clone(&name))));
    }
    owners
}

fn pod(pod: &LocalPod) -> Value {
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    let policies: Vec<String> = match &pod.posture {
        Posture::Closed => Vec::new(),
        Posture::Judged(set) => {
            let own = set.policies.iter().map(|policy| policy.policy.to_string());
            own.chain(set.tiers.iter().map(|tier| tier.name.to_string())).collect()
        }
    };
    json!({
        "pod": pod.pod.as_ref().map(ToString::to_string),
        "addresses": addresses,
        "ready": pod.posture != Posture::Closed,
        "policies": policies,
    })
}

fn condition(condition: &Condition) -> Value {
    json!({
        "kind": condition.kind,
        "object": condition.object.to_string(),
        "reason": condition.reason,
        "message": condition.message,
    })
}

/// Whether a step touches where things are, so that the node's own routes must follow.
pub(crate) fn is_place(step: &Step) -> bool {
    match step {
        Step::Put(Entry::Overlay(_) | Entry::Route(..)) | Step::Delete(EntryKey::Route(_)) => true,
        Step::Put(
            Entry::Rule(..)
            | Entry::Block(..)
            | Entry::Class(..)
            | Entry::Service(..)
            | Entry::ServiceAddress(..)
            | Entry::Pod(..),
        )
        | Step::Delete(
            EntryKey::Rule(_)
            | EntryKey::Block(_)
            | EntryKey::Class(_)
            | EntryKey::Service(_)
            | EntryKey::ServiceAddress(_)
            | EntryKey::Pod(_),
        ) => false,
    }
}
