//! Workloads → Pods called `<workload>-<ordinal>`.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use sheetbend_model::types::NodeName;

use super::schedule::Nodes;
use super::{Wanted, owners};
use crate::file::error::{Notice, Place};
use crate::file::manifests::Manifests;
use crate::file::object::{Kind, Object, ObjectId};

/// Pods of one workload.
struct Pods<'a> {
    template: &'a PodTemplateSpec,
    /// First ordinal and how many.
    first: i32,
    count: i32,
    /// One on each of these instead of `count`.
    per_node: Option<Vec<NodeName>>,
}

/// The Pods of every workload that has none in the input, by workload and ordinal.
pub(super) fn pods(manifests: &Manifests, nodes: &Nodes, notices: &mut Vec<Notice>) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for id in owners::childless_roots(manifests) {
        let Some(manifest) = manifests.objects.get(&id) else { continue };
        let Some(pods) = template(&manifest.object, nodes, &manifest.place, notices) else { continue };
        let uid = manifest.object.metadata().uid.as_deref().unwrap_or_default();
        for step in 0..pods.count {
            let ordinal = pods.first.saturating_add(step);
            let mut pod = from_template(&id, uid, ordinal, pods.template);
            controller_labels(&id, ordinal, &mut pod.metadata);
            if let Object::StatefulSet(set) = &*manifest.object {
                stable_name(set, &mut pod);
            }
            let pinned =
                usize::try_from(step).ok().and_then(|step| pods.per_node.as_ref()?.get(step).cloned());
            wanted.push(Wanted { pod, place: manifest.place.clone(), made_by: Some(id.kind), pinned });
        }
    }
    wanted
}

fn template<'a>(
    object: &'a Object,
    nodes: &Nodes,
    place: &Place,
    notices: &mut Vec<Notice>,
) -> Option<Pods<'a>> {
    let fixed = |template, count: i32| Some(Pods { template, first: 0, count, per_node: None });
    match object {
        Object::Deployment(deployment) => {
            let spec = deployment.spec.as_ref()?;
            fixed(&spec.template, spec.replicas.unwrap_or(1))
        }
        Object::ReplicaSet(set) => {
            let spec = set.spec.as_ref()?;
            fixed(spec.template.as_ref()?, spec.replicas.unwrap_or(1))
        }
        Object::StatefulSet(set) => {
            let spec = set.spec.as_ref()?;
            let first = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
            Some(Pods { first, ..fixed(&spec.template, spec.replicas.unwrap_or(1))? })
        }
        Object::Job(job) => {
            let spec = job.spec.as_ref()?;
            let parallel = spec.parallelism.unwrap_or(1).min(spec.completions.unwrap_or(i32::MAX));
            fixed(&spec.template, if spec.suspend == Some(true) { 0 } else { parallel })
        }
        Object::DaemonSet(set) => {
            let template = &set.spec.as_ref()?.template;
            let on = nodes.eligible(template.spec.as_ref(), place, notices);
            let count = i32::try_from(on.len()).unwrap_or(i32::MAX);
            Some(Pods { template, first: 0, count, per_node: Some(on) })
        }
        Object::Namespace(_)
        | Object::Node(_)
        | Object::Pod(_)
        | Object::Service(_)
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
        | Object::L2Announcement(_) => None,
    }
}

fn from_template(id: &ObjectId, uid: &str, ordinal: i32, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: id.kind.api_version().to_owned(),
        kind: id.kind.name().to_owned(),
        name: id.name.to_string(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{}-{ordinal}", id.name)),
            namespace: Some(id.namespace.to_string()),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The labels that controllers add and selectors may name.
fn controller_labels(id: &ObjectId, ordinal: i32, metadata: &mut ObjectMeta) {
    let name = metadata.name.clone().unwrap_or_default();
    let labels = metadata.labels.get_or_insert_default();
    if id.kind == Kind::StatefulSet {
        labels.insert("statefulset.kubernetes.io/pod-name".to_owned(), name);
        labels.insert("apps.kubernetes.io/pod-index".to_owned(), ordinal.to_string());
    } else if id.kind == Kind::Job {
        labels.insert("job-name".to_owned(), id.name.to_string());
        labels.insert("batch.kubernetes.io/job-name".to_owned(), id.name.to_string());
    }
}

/// The network identity of a StatefulSet's pod: `<pod>.<serviceName>`, which the Service's endpoints carry on.
fn stable_name(set: &StatefulSet, pod: &mut Pod) {
    let service = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname.clone_from(&pod.metadata.name);
    spec.subdomain = service.filter(|name| !name.is_empty());
}

/// Gives pods another name where two workloads, or a workload and a Pod, would have the same.
pub(super) fn unique_names(pods: &mut [Wanted], notices: &mut Vec<Notice>) {
    let mut taken = BTreeSet::new();
    for wanted in pods {
        let key = wanted.key();
        if taken.insert(key.clone()) {
            continue;
        }
        // Given Pods are unique and come first: this one was made, and its name ends in its ordinal.
        let kind = wanted.made_by.map_or("pod", Kind::name).to_lowercase();
        let (workload, ordinal) = key.name.rsplit_once('-').unwrap_or((&key.name, "0"));
        let name = format!("{workload}-{kind}-{ordinal}");
        let text = format!("Pod {key} exists already; the {kind}'s is called {name}");
        notices.push(Notice { place: Some(wanted.place.clone()), text });
        wanted.pod.metadata.name = Some(name);
        taken.insert(wanted.key());
    }
}
