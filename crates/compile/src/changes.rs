//! What differs between two Snapshots, found by what they do not share.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use sheetbend_model::state::{
    Attachment, AttachmentId, ClusterNetworkPolicy, EndpointSlice, Namespace, NetworkPolicy, Node, Pod,
    Service, ServiceCidr, Snapshot,
};
use sheetbend_model::types::{NodeName, ObjectKey};

/// One object that came, went or changed.
#[derive(Debug)]
pub(crate) struct Change<'a, K, V> {
    pub(crate) key: &'a K,
    pub(crate) old: Option<&'a Arc<V>>,
    pub(crate) new: Option<&'a Arc<V>>,
}

/// Every object that differs, by kind, in key order.
#[derive(Debug)]
pub(crate) struct Changes<'a> {
    pub(crate) nodes: Vec<Change<'a, NodeName, Node>>,
    pub(crate) namespaces: Vec<Change<'a, Arc<str>, Namespace>>,
    pub(crate) pods: Vec<Change<'a, ObjectKey, Pod>>,
    pub(crate) services: Vec<Change<'a, ObjectKey, Service>>,
    pub(crate) service_cidrs: Vec<Change<'a, Arc<str>, ServiceCidr>>,
    pub(crate) endpoint_slices: Vec<Change<'a, ObjectKey, EndpointSlice>>,
    pub(crate) policies: Vec<Change<'a, ObjectKey, NetworkPolicy>>,
    pub(crate) cluster_policies: Vec<Change<'a, Arc<str>, ClusterNetworkPolicy>>,
    pub(crate) learnt_names: Vec<Change<'a, Arc<str>, BTreeSet<IpAddr>>>,
    pub(crate) attachments: Vec<Change<'a, AttachmentId, Attachment>>,
    /// Whether all pods are in audit is said otherwise.
    pub(crate) audit: bool,
}

impl<'a> Changes<'a> {
    pub(crate) fn between(old: &'a Snapshot, new: &'a Snapshot) -> Self {
        Self {
            nodes: changed(&old.nodes, &new.nodes),
            namespaces: changed(&old.namespaces, &new.namespaces),
            pods: changed(&old.pods, &new.pods),
            services: changed(&old.services, &new.services),
            service_cidrs: changed(&old.service_cidrs, &new.service_cidrs),
            endpoint_slices: changed(&old.endpoint_slices, &new.endpoint_slices),
            policies: changed(&old.policies, &new.policies),
            cluster_policies: changed(&old.cluster_policies, &new.cluster_policies),
            learnt_names: changed(&old.learnt_names, &new.learnt_names),
            attachments: changed(&old.attachments, &new.attachments),
            audit: old.audit != new.audit,
        }
    }

    /// Every Service and EndpointSlice of `new`, as if they had just come; nothing of the other kinds.
    pub(crate) fn services_of(new: &'a Snapshot) -> Self {
        Self {
            nodes: Vec::new(),
            namespaces: Vec::new(),
            pods: Vec::new(),
            services: all(&new.services),
            service_cidrs: Vec::new(),
            endpoint_slices: all(&new.endpoint_slices),
            policies: Vec::new(),
            cluster_policies: Vec::new(),
            learnt_names: Vec::new(),
            attachments: Vec::new(),
            audit: false,
        }
    }
}

fn changed<'a, K: Ord, V: Eq>(
    old: &'a OrdMap<K, Arc<V>>,
    new: &'a OrdMap<K, Arc<V>>,
) -> Vec<Change<'a, K, V>> {
    old.diff(new)
        .map(|item| match item {
            DiffItem::Add(key, value) => Change { key, old: None, new: Some(value) },
            DiffItem::Update { old: (_, old), new: (key, new) } => {
                Change { key, old: Some(old), new: Some(new) }
            }
            DiffItem::Remove(key, value) => Change { key, old: Some(value), new: None },
        })
        .collect()
}

fn all<K: Ord, V>(new: &OrdMap<K, Arc<V>>) -> Vec<Change<'_, K, V>> {
    new.iter().map(|(key, value)| Change { key, old: None, new: Some(value) }).collect()
}

/// The entries of `map` in one namespace, in key order.
pub(crate) fn in_namespace<'a, V: Clone>(
    map: &'a OrdMap<ObjectKey, V>,
    namespace: &'a Arc<str>,
) -> impl Iterator<Item = (&'a ObjectKey, &'a V)> {
    let first = ObjectKey { namespace: namespace.clone(), name: Arc::from("") };
    map.range(first..).take_while(move |(key, _)| key.namespace == *namespace)
}
