//! Pods → nodes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use sheetbend_model::types::NodeName;

use super::{Assigned, Cluster, Wanted};
use crate::file::error::{Notice, Place};
use crate::file::manifests::Manifests;
use crate::file::object::Object;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// The cluster's nodes, and which of them stands for which node of the manifests.
pub(super) struct Nodes {
    /// In the cluster's order.
    order: Vec<NodeName>,
    /// A node's labels: those of the first Node object that it stands for.
    pub(super) labels: BTreeMap<NodeName, BTreeMap<String, String>>,
    /// Name in the manifests → node of the cluster.
    stands_for: BTreeMap<String, NodeName>,
}

/// Names that are the cluster's stand for themselves; the others, in name order, for the cluster's nodes in turn.
pub(super) fn nodes(manifests: &Manifests, cluster: &Cluster) -> Nodes {
    let mut names = BTreeSet::new();
    for manifest in manifests.objects.values() {
        match &*manifest.object {
            Object::Node(node) => names.extend(node.metadata.name.clone()),
            Object::Pod(pod) => names.extend(pod.spec.as_ref().and_then(|spec| spec.node_name.clone())),
            Object::Namespace(_)
            | Object::Service(_)
            | Object::Deployment(_)
            | Object::StatefulSet(_)
            | Object::DaemonSet(_)
            | Object::ReplicaSet(_)
            | Object::Job(_)
            | Object::EndpointSlice(_)
            | Object::NetworkPolicy(_)
            | Object::ServiceCIDR(_)
            | Object::ClusterNetworkPolicy(_)
            | Object::Tenant(_)
            | Object::TrafficTier(_)
            | Object::NetworkSet(_)
            | Object::ClusterTrafficPolicy(_)
            | Object::TrafficPolicy(_)
            | Object::LoadBalancerPool(_)
            | Object::L2Announcement(_) => {}
        }
    }
    let (own, foreign): (Vec<_>, Vec<_>) = names
        .into_iter()
        .filter(|name| !name.is_empty())
        .partition(|name| cluster.nodes.iter().any(|node| *node.0 == **name));
    let stands_for: BTreeMap<String, NodeName> = own
        .into_iter()
        .map(|name| (name.clone(), NodeName::new(name)))
        .chain(foreign.into_iter().zip(cluster.nodes.iter().cycle().cloned()))
        .collect();
    let mut labels: BTreeMap<NodeName, BTreeMap<String, String>> = BTreeMap::new();
    for manifest in manifests.objects.values() {
        if let Object::Node(node) = &*manifest.object
            && let Some(name) = node.metadata.name.as_ref().and_then(|name| stands_for.get(name))
        {
            labels.entry(name.clone()).or_insert_with(|| node.metadata.labels.clone().unwrap_or_default());
        }
    }
    for node in &cluster.nodes {
        let labels = labels.entry(node.clone()).or_default();
        labels.insert(HOSTNAME.to_owned(), node.to_string());
        labels.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
    }
    Nodes { order: cluster.nodes.clone(), labels, stands_for }
}

impl Nodes {
    /// The nodes that a pod may run on, in order: `nodeName`, else `nodeSelector` as far as the nodes have such
    /// labels. What cannot be fulfilled is said and not asked for.
    pub(super) fn eligible(
        &self,
        spec: Option<&PodSpec>,
        place: &Place,
        notices: &mut Vec<Notice>,
    ) -> Vec<NodeName> {
        let Some(spec) = spec else { return self.order.clone() };
        if let Some(node) = spec.node_name.as_ref().filter(|name| !name.is_empty()) {
            let node = self.stands_for.get(node).or_else(|| self.order.iter().find(|own| *own.0 == **node));
            if let Some(node) = node {
                return vec![node.clone()];
            }
        }
        let mut eligible = self.order.clone();
        for (key, value) in spec.node_selector.iter().flatten() {
            let value = match self.stands_for.get(value).filter(|_| key == HOSTNAME) {
                Some(node) => node.to_string(),
                None => value.clone(),
            };
            let has =
                |node: &NodeName| self.labels.get(node).and_then(|labels| labels.get(key)) == Some(&value);
            if eligible.iter().any(has) {
                eligible.retain(has);
            } else {
                let text = format!("nodeSelector {key}={value} fits no node here; it is left out");
                notices.push(Notice { place: Some(place.clone()), text });
            }
        }
        eligible
    }

    fn position(&self, node: &NodeName) -> usize {
        self.order.iter().position(|own| own == node).unwrap_or(usize::MAX)
    }
}

/// Puts each pod on a node: where it was before; else of the nodes that it may run on the one with the fewest pods
/// (for pods that may run anywhere that is round robin, in the order of names and ordinals).
pub(super) fn place(
    mut pods: Vec<Wanted>,
    nodes: &Nodes,
    assigned: &Assigned,
    notices: &mut Vec<Notice>,
) -> Vec<Pod> {
    pods.sort_by_cached_key(order);
    let mut load: BTreeMap<NodeName, usize> = nodes.order.iter().map(|node| (node.clone(), 0)).collect();
    let mut open = Vec::new();
    let mut placed = Vec::new();
    for wanted in pods {
        let eligible = match &wanted.pinned {
            Some(node) => vec![node.clone()],
            None => nodes.eligible(wanted.pod.spec.as_ref(), &wanted.place, notices),
        };
        let before = assigned.nodes.get(&wanted.key()).filter(|node| eligible.contains(node)).cloned();
        let fixed = before.or_else(|| eligible.first().filter(|_| eligible.len() == 1).cloned());
        match fixed {
            Some(node) => {
                // A node's own share (DaemonSets, pinned pods) does not push others away.
                if eligible.len() > 1
                    && let Some(count) = load.get_mut(&node)
                {
                    *count += 1;
                }
                placed.push((wanted, node));
            }
            None => open.push((wanted, eligible)),
        }
    }
    for (wanted, eligible) in open {
        let fewest = |node: &&NodeName| (load.get(*node).copied().unwrap_or_default(), nodes.position(node));
        let Some(node) = eligible.iter().min_by_key(fewest).cloned() else { continue };
        if let Some(count) = load.get_mut(&node) {
            *count += 1;
        }
        placed.push((wanted, node));
    }
    placed
        .into_iter()
        .map(|(mut wanted, node)| {
            wanted.pod.spec.get_or_insert_default().node_name = Some(node.to_string());
            wanted.pod
        })
        .collect()
}

/// Namespace, name without ordinal, ordinal.
fn order(wanted: &Wanted) -> (String, String, u64, String) {
    let key = wanted.key();
    let (stem, ordinal) = match key.name.rsplit_once('-') {
        Some((stem, ordinal)) => match ordinal.parse() {
            Ok(ordinal) => (stem, ordinal),
            Err(_) => (&*key.name, 0),
        },
        None => (&*key.name, 0),
    };
    (key.namespace.to_string(), stem.to_owned(), ordinal, key.name.to_string())
}
