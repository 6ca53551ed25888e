//! ClusterNetworkPolicies that share tier and priority and select a common pod, whatever its node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use sheetbend_model::plan::{Condition, TierRef};
use sheetbend_model::state::{ClusterNetworkPolicy, Namespace, PodsByLabels, Snapshot};

use super::matcher::NamespaceLabels;
use super::tier;
use crate::changes::in_namespace;

/// What [`follow`](Self::follow) remembers: which namespaces may have such pods, so that a pod that comes or goes costs
/// nothing where policies share no place, or only in namespaces of their own.
#[derive(Debug, Default)]
pub struct SharedPlaces {
    policies: OrdMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    namespaces: OrdMap<Arc<str>, Arc<Namespace>>,
    /// Namespace → policies that may select a pod of it and share their place with another of these, in order.
    contested: Vec<(Arc<str>, Vec<Contender>)>,
}

/// A policy, and its place.
#[derive(Clone, Debug)]
struct Contender {
    place: TierRef,
    subject: PodsByLabels,
}

impl SharedPlaces {
    /// A Condition `OverlappingPriority` for each policy of `snapshot` that shares its place with another one that
    /// selects the same pod. It names one other; there may be more. Pods of namespaces that are not known yet do not count.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Vec<Condition> {
        let same =
            self.policies.ptr_eq(&snapshot.cluster_policies) && self.namespaces.ptr_eq(&snapshot.namespaces);
        if !same {
            self.policies = snapshot.cluster_policies.clone();
            self.namespaces = snapshot.namespaces.clone();
            self.contested = contested(snapshot);
        }
        let mut stacks: BTreeSet<Vec<&TierRef>> = BTreeSet::new();
        for (namespace, contenders) in &self.contested {
            for (_, pod) in in_namespace(&snapshot.pods, namespace).filter(|(_, pod)| pod.is_peer()) {
                let selecting = contenders
                    .iter()
                    .filter(|one| one.subject.pods.matches(&pod.labels) && one.subject.has_account(pod));
                stacks.insert(selecting.map(|one| &one.place).collect());
            }
        }
        tier::overlaps(stacks.iter().map(|stack| stack.iter().copied()))
    }
}

fn contested(snapshot: &Snapshot) -> Vec<(Arc<str>, Vec<Contender>)> {
    let mut places: BTreeMap<_, Vec<Contender>> = BTreeMap::new();
    for policy in snapshot.cluster_policies.values().filter(|policy| policy.tier.is_standard()) {
        let place = TierRef {
            tier: policy.tier.clone(),
            priority: policy.priority,
            name: Arc::clone(&policy.name),
            digest: 0,
            ingress: !policy.ingress.is_empty(),
            egress: !policy.egress.is_empty(),
            names: false,
        };
        if place.ingress || place.egress {
            let contender = Contender { place, subject: policy.subject.clone() };
            places.entry((policy.tier.clone(), policy.priority)).or_default().push(contender);
        }
    }
    places.retain(|_, contenders| contenders.len() > 1);
    let in_namespace = |namespace: &Arc<str>| {
        let labels = NamespaceLabels::of(snapshot, namespace);
        let of_place = places.values().map(|contenders| {
            let here = contenders.iter().filter(|one| one.subject.namespaces.matches(labels.get()));
            here.cloned().collect::<Vec<_>>()
        });
        of_place.filter(|contenders| contenders.len() > 1).flatten().collect::<Vec<_>>()
    };
    let namespaces = snapshot.namespaces.keys().map(|name| (Arc::clone(name), in_namespace(name)));
    namespaces.filter(|(_, contenders)| !contenders.is_empty()).collect()
}
