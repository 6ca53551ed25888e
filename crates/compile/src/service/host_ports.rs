//! Host ports: ports of this node that lead to one of its pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sheetbend_model::plan::{Backend, Condition, Frontend, Reach, ServiceEntry};
use sheetbend_model::state::{Algorithm, Pod, Snapshot};
use sheetbend_model::types::{Family, NodeName, ObjectKey};

use super::{frontends, sctp};
use crate::changes::Changes;

/// Which pods of this node claim which frontends.
#[derive(Debug)]
pub(super) struct HostPorts {
    node: NodeName,
    /// Frontend → pods that claim it; the first has it.
    claims: BTreeMap<Frontend, BTreeSet<ObjectKey>>,
    conditions: BTreeMap<(ObjectKey, Frontend), Condition>,
    /// Pods with host ports that no translation leads to.
    untranslated: BTreeMap<ObjectKey, Vec<Condition>>,
}

impl HostPorts {
    pub(super) fn new(node: NodeName) -> Self {
        Self { node, claims: BTreeMap::new(), conditions: BTreeMap::new(), untranslated: BTreeMap::new() }
    }

    fn of(&self, pod: Option<&Arc<Pod>>) -> Vec<Frontend> {
        let all = pod.map(|pod| frontends::of_pod(pod, &self.node)).unwrap_or_default();
        all.into_iter().map(|(frontend, _)| frontend).collect()
    }

    /// The frontends of pods that changed.
    pub(super) fn touched(&self, changes: &Changes<'_>) -> BTreeSet<Frontend> {
        let pods = changes.pods.iter().flat_map(|change| [change.old, change.new]);
        pods.flat_map(|pod| self.of(pod)).collect()
    }

    /// Takes in the pods that changed.
    pub(super) fn update(&mut self, changes: &Changes<'_>) {
        for change in &changes.pods {
            for frontend in self.of(change.old) {
                if let Some(pods) = self.claims.get_mut(&frontend) {
                    pods.remove(change.key);
                    if pods.is_empty() {
                        self.claims.remove(&frontend);
                    }
                }
            }
            for frontend in self.of(change.new) {
                self.claims.entry(frontend).or_default().insert(change.key.clone());
            }
            match change.new.map(|pod| sctp::of_pod(pod, &self.node)) {
                Some(found) if !found.is_empty() => {
                    self.untranslated.insert(change.key.clone(), found);
                }
                _ => {
                    self.untranslated.remove(change.key);
                }
            }
        }
    }

    /// Says of each of `frontends` which pods do not get it. `service` tells a Service that has it.
    pub(super) fn judge<'a>(
        &mut self,
        snapshot: &Snapshot,
        frontends: &BTreeSet<Frontend>,
        service: impl Fn(&Frontend) -> Option<&'a ObjectKey>,
    ) {
        self.conditions.retain(|(_, frontend), _| !frontends.contains(frontend));
        for frontend in frontends {
            let Some(pods) = self.claims.get(frontend) else { continue };
            let owner = service(frontend).map(|key| format!("Service {key}"));
            let first = owner.clone().or_else(|| pods.first().map(|key| format!("Pod {key}")));
            let losers = pods.iter().skip(usize::from(owner.is_none()));
            for pod in losers.filter(|pod| snapshot.pods.contains_key(*pod)) {
                let message = format!(
                    "host port {frontend} belongs to {}; give the pod another hostPort or hostIP",
                    first.as_deref().unwrap_or_default()
                );
                let condition = Condition {
                    kind: "Pod",
                    object: pod.clone(),
                    reason: "HostPortConflict",
                    message: message.into(),
                };
                self.conditions.insert((pod.clone(), *frontend), condition);
            }
        }
    }

    pub(super) fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.claims.keys()
    }

    pub(super) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.values().chain(self.untranslated.values().flatten())
    }

    /// The pod that has `frontend`, as its only backend.
    pub(super) fn entry(&self, snapshot: &Snapshot, frontend: &Frontend) -> Option<ServiceEntry> {
        let pod = snapshot.pods.get(self.claims.get(frontend)?.first()?)?;
        let (_, port) = frontends::of_pod(pod, &self.node).into_iter().find(|(own, _)| own == frontend)?;
        let backend = Backend {
            network: pod.network,
            addr: pod.address(Family::of(frontend.addr))?.to_canonical(),
            protocol: port.protocol,
            port: port.port,
            pod_uid: pod.uid.clone(),
        };
        Some(ServiceEntry {
            service: pod.key.clone(),
            port_name: port.name.clone().unwrap_or_default(),
            reach: Reach::ThisNode,
            only_remote: false,
            sources: None,
            algorithm: Algorithm::default(),
            affinity_timeout: None,
            backends: [backend].into(),
            weights: [].into(),
            draining: [].into(),
        })
    }
}
