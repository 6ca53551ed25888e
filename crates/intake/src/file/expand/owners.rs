//! Who made what: `ownerReferences` with `controller: true`, within the input.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::convert;
use crate::file::manifests::Manifests;
use crate::file::object::{Kind, Object, ObjectId};

/// The workloads that pods are made of: those that no other workload of the input owns, and that have no Pod in the
/// input yet.
pub(super) fn childless_roots(manifests: &Manifests) -> Vec<ObjectId> {
    let mut have_pods = BTreeSet::new();
    for (id, manifest) in &manifests.objects {
        if let Object::Pod(pod) = &*manifest.object {
            have_pods.extend(pod_owner(manifests, id, pod).map(|owner| root(manifests, owner)));
        }
    }
    manifests
        .objects
        .iter()
        .filter(|(id, _)| id.kind.is_workload() && !have_pods.contains(id))
        .filter(|(id, manifest)| controller(manifests, &id.namespace, manifest.object.metadata()).is_none())
        .map(|(id, _)| id.clone())
        .collect()
}

/// The owner's owner's … owner.
fn root(manifests: &Manifests, mut id: ObjectId) -> ObjectId {
    // A ring of owners, which no cluster makes, must not hang us.
    for _ in 0..8 {
        let owner = manifests
            .objects
            .get(&id)
            .and_then(|manifest| controller(manifests, &id.namespace, manifest.object.metadata()));
        match owner {
            Some(owner) => id = owner,
            None => break,
        }
    }
    id
}

/// The workload of the input that controls an object.
fn controller(manifests: &Manifests, namespace: &str, metadata: &ObjectMeta) -> Option<ObjectId> {
    let (kind, name) = controller_reference(metadata)?;
    let id = ObjectId::new(kind?, namespace, name);
    (id.kind.is_workload() && manifests.objects.contains_key(&id)).then_some(id)
}

/// The kind, if it is one of ours, and the name.
fn controller_reference(metadata: &ObjectMeta) -> Option<(Option<Kind>, &str)> {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let kind = Kind::named(&owner.kind).filter(|kind| kind.api_version() == owner.api_version);
    Some((kind, &owner.name))
}

/// A Pod's workload. A dump may hold Deployments and Pods without the ReplicaSets between them: then the ReplicaSet's
/// name, which is the Deployment's and a hash, leads to it.
fn pod_owner(manifests: &Manifests, id: &ObjectId, pod: &Pod) -> Option<ObjectId> {
    if let Some(owner) = controller(manifests, &id.namespace, &pod.metadata) {
        return Some(owner);
    }
    let (Some(Kind::ReplicaSet), name) = controller_reference(&pod.metadata)? else { return None };
    let (deployment, _) = name.rsplit_once('-')?;
    let owner = ObjectId::new(Kind::Deployment, &id.namespace, deployment);
    let Object::Deployment(deployment) = &*manifests.objects.get(&owner)?.object else { return None };
    let selector: &LabelSelector = &deployment.spec.as_ref()?.selector;
    let labels = convert::labels(pod.metadata.labels.as_ref());
    convert::selector(selector).matches(&labels).then_some(owner)
}
