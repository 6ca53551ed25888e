//! The pods attached to this node, and the policy set each has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sheetbend_model::plan::{Condition, LocalPod, PolicySet, Posture};
use sheetbend_model::state::{Attachment, AttachmentId, Pod, Snapshot};
use sheetbend_model::types::{AddrKey, ObjectKey};

use super::document::Document;
use super::isolation::serves_names;
use super::matcher::NamespaceLabels;
use super::set::{self, SetNode};
use super::terms::TermTable;
use super::tier::{self, TierDocument};
use crate::changes::{Changes, in_namespace};

/// A row of `Dataplane::pods` that differs.
#[derive(Clone, Debug)]
pub(crate) struct PodChange {
    pub(crate) id: AttachmentId,
    pub(crate) old: Option<LocalPod>,
    pub(crate) new: Option<LocalPod>,
}

#[derive(Debug)]
struct Local {
    row: LocalPod,
    /// Policies that select it, sorted. Empty for a closed one.
    selected: Vec<ObjectKey>,
    /// ClusterNetworkPolicies that apply to it, sorted by name. Empty for a closed one.
    tiers: Vec<Arc<str>>,
}

/// Attachments of this node, and the policies and sets in force for them.
#[derive(Debug, Default)]
pub(crate) struct Locals {
    rows: BTreeMap<AttachmentId, Local>,
    by_pod: BTreeMap<ObjectKey, Vec<AttachmentId>>,
    documents: BTreeMap<ObjectKey, Arc<Document>>,
    tier_documents: BTreeMap<Arc<str>, Arc<TierDocument>>,
    sets: BTreeMap<PolicySet, Arc<SetNode>>,
}

/// What an update did to the pods and their sets.
#[derive(Debug, Default)]
pub(crate) struct LocalDelta {
    pub(crate) pods: Vec<PodChange>,
    pub(crate) appeared: Vec<Arc<SetNode>>,
    pub(crate) vanished: Vec<Arc<SetNode>>,
    /// Pods whose policies were looked for, and policies whose rules were built.
    pub(crate) recompiled: (u64, u64),
}

impl Locals {
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&AttachmentId, &LocalPod)> {
        self.rows.iter().map(|(id, local)| (id, &local.row))
    }

    pub(crate) fn row(&self, id: &AttachmentId) -> Option<&LocalPod> {
        self.rows.get(id).map(|local| &local.row)
    }

    pub(crate) fn set(&self, symbol: &PolicySet) -> Option<&Arc<SetNode>> {
        self.sets.get(symbol)
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = &Arc<SetNode>> {
        self.sets.values()
    }

    /// What is wrong with the policies in force.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = Condition> {
        let policies = self.documents.values().flat_map(|document| &document.conditions);
        let tiers = self.tier_documents.values().flat_map(|document| &document.conditions);
        policies.chain(tiers).cloned().chain(tier::overlaps(self.sets.keys().map(|set| set.tiers.iter())))
    }

    /// The attachments of a pod.
    pub(crate) fn of_pod(&self, pod: &ObjectKey) -> &[AttachmentId] {
        self.by_pod.get(pod).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn update(
        &mut self,
        next: &Snapshot,
        changes: &Changes<'_>,
        terms: &mut TermTable,
    ) -> LocalDelta {
        let mut delta = LocalDelta::default();
        let mut before: BTreeMap<AttachmentId, Option<LocalPod>> = BTreeMap::new();
        let dirty = self.dirty(changes);
        for id in dirty {
            before.insert(id.clone(), self.rows.remove(&id).map(|local| local.row));
            if let Some(attachment) = next.attachments.get(&id) {
                delta.recompiled.0 += 1;
                self.rows.insert(id.clone(), Local::new(attachment, next));
            }
        }
        let mut again: BTreeSet<AttachmentId> = before.keys().cloned().collect();
        self.reselect(next, changes, &mut again);
        self.reselect_tiers(next, changes, &mut again);
        self.audit(next, changes, &mut before);
        again.extend(before.keys().cloned());
        if again.is_empty() {
            return delta;
        }
        delta.recompiled.1 = self.redocument(next, terms) + self.redocument_tiers(next, terms);
        for id in again {
            delta.appeared.extend(self.reset(next, &id, &mut before));
        }
        self.forget_unused(&mut delta);
        for (id, old) in before {
            let new = self.rows.get(&id).map(|local| local.row.clone());
            if old != new {
                delta.pods.push(PodChange { id, old, new });
            }
        }
        delta
    }

    /// Attachments that changed, or whose pod did. Keeps `by_pod`.
    fn dirty(&mut self, changes: &Changes<'_>) -> BTreeSet<AttachmentId> {
        let mut dirty = BTreeSet::new();
        for change in &changes.attachments {
            dirty.insert(change.key.clone());
            if let Some(pod) = change.old.and_then(|old| old.pod.as_ref())
                && let Some(ids) = self.by_pod.get_mut(pod)
            {
                ids.retain(|id| id != change.key);
                if ids.is_empty() {
                    self.by_pod.remove(pod);
                }
            }
            if let Some(pod) = change.new.and_then(|new| new.pod.as_ref()) {
                self.by_pod.entry(pod.clone()).or_default().push(change.key.clone());
            }
        }
        for change in &changes.pods {
            dirty.extend(self.of_pod(change.key).iter().cloned());
        }
        dirty
    }

    /// Asks of each changed policy which pods it selects now.
    fn reselect(&mut self, next: &Snapshot, changes: &Changes<'_>, again: &mut BTreeSet<AttachmentId>) {
        for change in &changes.policies {
            for (id, local) in &mut self.rows {
                let Some(pod) =
                    local.judged_pod(next).filter(|pod| pod.key.namespace == change.key.namespace)
                else {
                    continue;
                };
                let selects = change.new.is_some_and(|policy| policy.pod_selector.matches(&pod.labels));
                match (local.selected.binary_search(change.key), selects) {
                    (Ok(_), true) => {}
                    (Ok(index), false) => drop(local.selected.remove(index)),
                    (Err(index), true) => local.selected.insert(index, change.key.clone()),
                    (Err(_), false) => continue,
                }
                again.insert(id.clone());
            }
        }
    }

    /// The same for ClusterNetworkPolicies, whose subject depends on the labels of namespaces too.
    fn reselect_tiers(&mut self, next: &Snapshot, changes: &Changes<'_>, again: &mut BTreeSet<AttachmentId>) {
        if changes.cluster_policies.is_empty() && changes.namespaces.is_empty() {
            return;
        }
        for (id, local) in &mut self.rows {
            let Some(pod) = local.judged_pod(next) else { continue };
            let namespace = &pod.key.namespace;
            let mut touched = false;
            if changes.namespaces.iter().any(|change| change.key == namespace) {
                let selecting = tier::selecting(next, pod);
                touched = selecting != local.tiers;
                local.tiers = selecting;
            }
            let labels = NamespaceLabels::of(next, namespace);
            for change in &changes.cluster_policies {
                let applies = change.new.is_some_and(|policy| tier::applies(policy, pod, &labels));
                match (local.tiers.binary_search(change.key), applies) {
                    (Ok(_), true) => {}
                    (Ok(index), false) => drop(local.tiers.remove(index)),
                    (Err(index), true) => local.tiers.insert(index, change.key.clone()),
                    (Err(_), false) => continue,
                }
                touched = true;
            }
            if touched {
                again.insert(id.clone());
            }
        }
    }

    /// Asks of each pod whether its namespace is in audit now.
    fn audit(
        &mut self,
        next: &Snapshot,
        changes: &Changes<'_>,
        before: &mut BTreeMap<AttachmentId, Option<LocalPod>>,
    ) {
        if !changes.audit && changes.namespaces.is_empty() {
            return;
        }
        for (id, local) in &mut self.rows {
            let Some(pod) = local.judged_pod(next) else { continue };
            let namespace = &pod.key.namespace;
            if !changes.audit && !changes.namespaces.iter().any(|change| change.key == namespace) {
                continue;
            }
            let audited = next.audits(namespace);
            if audited != local.row.audited {
                before.entry(id.clone()).or_insert_with(|| Some(local.row.clone()));
                local.row.audited = audited;
            }
        }
    }

    /// Keeps a document for exactly the policies that select a pod. Returns how many were built.
    fn redocument(&mut self, next: &Snapshot, terms: &mut TermTable) -> u64 {
        let needed: BTreeSet<&ObjectKey> =
            self.rows.values().flat_map(|local| local.selected.iter()).collect();
        let mut built = BTreeMap::new();
        for key in &needed {
            let Some(policy) = next.policies.get(*key) else { continue };
            let current = self
                .documents
                .get(*key)
                .is_some_and(|have| Arc::ptr_eq(&have.source, policy) || have.source == *policy);
            if !current {
                built.insert((*key).clone(), Arc::new(Document::new(policy, terms)));
            }
        }
        let count = built.len() as u64;
        let gone: Vec<ObjectKey> =
            self.documents.keys().filter(|key| !needed.contains(key)).cloned().collect();
        // New uses first, so that a term that both versions use is never out of force.
        for key in gone {
            if let Some(document) = self.documents.remove(&key) {
                document.uses.release(terms);
            }
        }
        for (key, document) in built {
            if let Some(old) = self.documents.insert(key, document) {
                old.uses.release(terms);
            }
        }
        count
    }

    /// The same for ClusterNetworkPolicies.
    fn redocument_tiers(&mut self, next: &Snapshot, terms: &mut TermTable) -> u64 {
        let needed: BTreeSet<&Arc<str>> = self.rows.values().flat_map(|local| local.tiers.iter()).collect();
        let mut built = BTreeMap::new();
        for name in &needed {
            let Some(policy) = next.cluster_policies.get(*name) else { continue };
            let current = self
                .tier_documents
                .get(*name)
                .is_some_and(|have| Arc::ptr_eq(&have.source, policy) || have.source == *policy);
            if !current {
                built.insert((*name).clone(), Arc::new(TierDocument::new(policy, terms)));
            }
        }
        let count = built.len() as u64;
        let gone: Vec<Arc<str>> =
            self.tier_documents.keys().filter(|name| !needed.contains(name)).cloned().collect();
        for name in gone {
            if let Some(document) = self.tier_documents.remove(&name) {
                document.uses.release(terms);
            }
        }
        for (name, document) in built {
            if let Some(old) = self.tier_documents.insert(name, document) {
                old.uses.release(terms);
            }
        }
        count
    }

    /// Gives one pod its set. Returns it when it is new.
    fn reset(
        &mut self,
        next: &Snapshot,
        id: &AttachmentId,
        before: &mut BTreeMap<AttachmentId, Option<LocalPod>>,
    ) -> Option<Arc<SetNode>> {
        let local = self.rows.get_mut(id)?;
        let pod = local.judged_pod(next)?;
        let documents = || local.selected.iter().filter_map(|key| self.documents.get(key)).map(AsRef::as_ref);
        let mut tiers: Vec<&TierDocument> =
            local.tiers.iter().filter_map(|name| self.tier_documents.get(name)).map(AsRef::as_ref).collect();
        tiers.sort_by(|a, b| a.reference.cmp(&b.reference));
        let symbol = set::symbol(documents(), &tiers, pod);
        let (symbol, appeared) = match self.sets.get(&symbol) {
            Some(known) => (known.symbol.clone(), None),
            None => {
                let node = Arc::new(SetNode::new(symbol.clone(), documents(), &tiers));
                self.sets.insert(symbol.clone(), node.clone());
                (symbol, Some(node))
            }
        };
        // A name server asks others on behalf of whoever asks it, and not itself.
        let asks_names = symbol.has_names() && !serves_names(pod);
        let posture = Posture::Judged(symbol);
        if local.row.posture != posture || local.row.asks_names != asks_names {
            before.entry(id.clone()).or_insert_with(|| Some(local.row.clone()));
            local.row.posture = posture;
            local.row.asks_names = asks_names;
        }
        appeared
    }

    /// Forgets sets that no pod has.
    fn forget_unused(&mut self, delta: &mut LocalDelta) {
        let used: BTreeSet<&PolicySet> = self
            .rows
            .values()
            .filter_map(|local| match &local.row.posture {
                Posture::Judged(set) => Some(set),
                Posture::Closed => None,
            })
            .collect();
        self.sets.retain(|symbol, node| {
            let keep = used.contains(symbol);
            if !keep {
                delta.vanished.push(node.clone());
            }
            keep
        });
    }
}

impl Local {
    fn new(attachment: &Attachment, next: &Snapshot) -> Self {
        let addresses = attachment
            .addresses
            .iter()
            .map(|addr| AddrKey { network: attachment.network, addr: addr.to_canonical() })
            .collect();
        let posture = match &attachment.pod {
            Some(_) => Posture::Closed,
            // A container outside Kubernetes: no policy can select it.
            None => Posture::Judged(PolicySet::default()),
        };
        let row = LocalPod {
            pod: attachment.pod.clone(),
            addresses,
            host_ifindex: attachment.host_ifindex,
            posture,
            asks_names: false,
            audited: false,
        };
        let mut local = Self { row, selected: Vec::new(), tiers: Vec::new() };
        if let Some(pod) = known_pod(attachment, next) {
            let policies = in_namespace(&next.policies, &pod.key.namespace);
            let selecting = policies.filter(|(_, policy)| policy.pod_selector.matches(&pod.labels));
            local.selected = selecting.map(|(key, _)| key.clone()).collect();
            local.tiers = tier::selecting(next, pod);
            local.row.audited = next.audits(&pod.key.namespace);
            // The set follows when the policies have their documents.
            local.row.posture = Posture::Judged(PolicySet::default());
        }
        local
    }

    fn judged_pod<'a>(&self, next: &'a Snapshot) -> Option<&'a Arc<Pod>> {
        match self.row.posture {
            Posture::Closed => None,
            Posture::Judged(_) => next.pods.get(self.row.pod.as_ref()?),
        }
    }
}

/// The pod of an attachment, if it is known, has not ended and is the very one that was attached.
pub(crate) fn known_pod<'a>(attachment: &Attachment, snapshot: &'a Snapshot) -> Option<&'a Arc<Pod>> {
    let pod = snapshot.pods.get(attachment.pod.as_ref()?)?;
    let same = match &attachment.pod_uid {
        Some(uid) => uid.is_empty() || pod.uid.is_empty() || *uid == pod.uid,
        None => true,
    };
    (same && pod.is_peer()).then_some(pod)
}
