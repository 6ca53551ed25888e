//! The API server and its controllers: the user's objects, what controllers make of them, and the pods' status, as
//! the files that every agent reads.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{HostIP, Pod, PodCondition, PodIP, PodStatus};
use sheetbend_intake::file::Object;
use sheetbend_model::types::ObjectKey;

use super::cluster::Publisher;
use super::pod::{PodPlan, may_be_ready};
use crate::lab::names;
use crate::lab::objects::{self, Cluster};

/// What the kubelet knows of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodState {
    /// Its addresses, once it has some.
    pub(super) addresses: Vec<IpAddr>,
    /// Its node's addresses.
    pub(super) host_addresses: Vec<IpAddr>,
    /// Whether it has answered.
    pub(super) running: bool,
    /// `metadata.deletionTimestamp`, RFC 3339.
    pub(super) deleted_at: Option<String>,
}

/// The API server of one lab.
#[derive(Debug)]
pub(super) struct Api {
    cluster: Cluster,
    states: BTreeMap<ObjectKey, PodState>,
    /// Pods whose object is gone and whose grace period runs.
    leaving: BTreeMap<ObjectKey, Object>,
    publisher: Publisher,
    /// How many nodes the lab has.
    nodes: u8,
}

impl Api {
    /// Serves `cluster`, which has `nodes` nodes, through the link `link`.
    pub(super) fn new(mut cluster: Cluster, nodes: u8, link: PathBuf, root: PathBuf) -> anyhow::Result<Self> {
        let publisher = Publisher::new(link, root)?;
        give_uids(&mut cluster, &BTreeMap::new());
        Ok(Self { cluster, states: BTreeMap::new(), leaving: BTreeMap::new(), publisher, nodes })
    }

    /// What shall run.
    pub(super) fn plans(&self, keep_addresses: bool) -> anyhow::Result<Vec<PodPlan>> {
        plans(&self.cluster, keep_addresses)
    }

    /// The Pod object of `key`, the leaving included.
    pub(super) fn pod(&self, key: &ObjectKey) -> Option<&Object> {
        self.leaving.get(key).or_else(|| self.cluster.pods.get(key))
    }

    /// The state of `key`.
    pub(super) fn state(&self, key: &ObjectKey) -> PodState {
        self.states.get(key).cloned().unwrap_or_default()
    }

    /// Sets the state of `key`.
    pub(super) fn set_state(&mut self, key: &ObjectKey, state: PodState) {
        self.states.insert(key.clone(), state);
    }

    /// Serves `cluster` from now on. Pods of `leaving` stay, terminating, until [`Api::forget`].
    pub(super) fn replace(&mut self, mut cluster: Cluster, leaving: &[ObjectKey], now: &str) {
        for key in leaving {
            if let Some(object) = self.cluster.pods.get(key) {
                self.leaving.insert(key.clone(), object.clone());
                self.states.entry(key.clone()).or_default().deleted_at = Some(now.to_owned());
            }
        }
        let mut kept = std::mem::take(&mut self.cluster.pods);
        kept.retain(|key, _| !leaving.contains(key));
        give_uids(&mut cluster, &kept);
        self.cluster = cluster;
    }

    /// The pod has ended.
    pub(super) fn forget(&mut self, key: &ObjectKey) {
        self.leaving.remove(key);
        self.states.remove(key);
    }

    /// Whether the pod is ready, as its condition says.
    pub(super) fn is_ready(&self, key: &ObjectKey) -> bool {
        self.pod(key).is_some_and(may_be_ready) && self.state(key).running
    }

    /// Makes the present state the newest generation; returns its name.
    pub(super) fn publish(&mut self) -> anyhow::Result<String> {
        let mut pods: BTreeMap<ObjectKey, Object> = self.cluster.pods.clone();
        pods.extend(self.leaving.clone());
        for (key, object) in &mut pods {
            if let Object::Pod(pod) = object {
                let state = self.states.get(key).cloned().unwrap_or_default();
                write_status(pod, &state, self.is_ready(key))?;
            }
        }
        let slices = objects::endpoint_slices(&self.cluster, &pods);
        let dns = names::objects(&self.cluster.others, self.nodes);
        let all = self.cluster.others.iter().chain(pods.values()).chain(&slices).chain(&dns);
        let mut files = BTreeMap::new();
        for object in all {
            files.insert(object.id().file_name(), object.to_json()?);
        }
        self.publisher.publish(files)
    }
}

/// What shall run of `cluster`.
pub(super) fn plans(cluster: &Cluster, keep_addresses: bool) -> anyhow::Result<Vec<PodPlan>> {
    cluster.pods.values().filter_map(|pod| PodPlan::of(pod, keep_addresses).transpose()).collect()
}

/// Gives a uid to every pod without one: that of `kept`, or a new one.
fn give_uids(cluster: &mut Cluster, kept: &BTreeMap<ObjectKey, Object>) {
    for (key, object) in &mut cluster.pods {
        let kept = kept.get(key).and_then(|object| object.metadata().uid.clone());
        let uid = &mut object.metadata_mut().uid;
        if uid.as_ref().is_none_or(String::is_empty) {
            *uid = kept.or_else(|| Some(random_uid()));
        }
    }
}

/// A random UUID (RFC 9562 §5.4).
fn random_uid() -> String {
    let bits: u128 = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or_default());
    parts.join("-")
}

/// Writes what the kubelet knows into the object.
fn write_status(pod: &mut Pod, state: &PodState, ready: bool) -> anyhow::Result<()> {
    if let Some(time) = &state.deleted_at {
        pod.metadata.deletion_timestamp = Some(serde_json::from_value(time.as_str().into())?);
    }
    let condition = |name: &str, holds: bool| PodCondition {
        type_: name.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        ..PodCondition::default()
    };
    let ips = |all: &[IpAddr]| all.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let (pod_ips, host_ips) = (ips(&state.addresses), ips(&state.host_addresses));
    pod.status = Some(PodStatus {
        phase: Some(if state.running { "Running" } else { "Pending" }.to_owned()),
        conditions: Some(vec![
            condition("PodScheduled", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ]),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: Some(pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        ..PodStatus::default()
    });
    Ok(())
}
