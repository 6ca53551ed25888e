//! Kubernetes objects: manifests as people write them, and what an API server sends.

use std::path::Path;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sheetbend_compile::{compile, lint, names};
use sheetbend_intake::file::{self, Object, Source};
use sheetbend_intake::resources::{
    ClusterNetworkPolicy, ClusterTrafficPolicy, L2Announcement, LoadBalancerPool, NetworkSet, Tenant,
    TrafficPolicy, TrafficTier,
};
use sheetbend_model::state::{NetworkConfig, Snapshot};
use sheetbend_model::types::NodeName;

pub(crate) const TOKENS: &[&str] = &[
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "---\n",
    "...\n",
    "|\n ",
    ">-\n ",
    "? ",
    "\t",
    "\r",
    "\u{feff}",
    "0x1f",
    ".inf",
    "2026-01-01",
    "::/0",
    "0.0.0.0/0",
    "10.0.0.0/33",
    "::ffff:10.0.0.1",
    "endPort: ",
    "podSelector: ",
    "matchExpressions: ",
    "NotIn",
    "Egress",
    "SCTP",
    "hostNetwork: true",
    "ipBlock: ",
    "except: ",
];

/// What is right is compiled for a node; what is wrong is told in words.
pub(crate) fn manifests(input: &[u8]) {
    let source = Source { name: Path::new("input.yaml").into(), bytes: input.to_vec() };
    match file::parse(&[source]) {
        Ok(manifests) => {
            manifests.notices.iter().for_each(|notice| drop(notice.to_string()));
            manifests.skipped.iter().for_each(|skipped| drop(skipped.to_string()));
            compiled(&file::snapshot(manifests.objects.values().map(|manifest| &*manifest.object)));
        }
        Err(errors) => errors.iter().for_each(|error| assert!(!error.to_string().is_empty())),
    }
}

/// A JSON object or a list of them: nobody has checked what an API server of another version lets through.
pub(crate) fn from_api_server(input: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return };
    let values = if let Value::Array(values) = value { values } else { vec![value] };
    let objects: Vec<Object> = values.into_iter().filter_map(object).collect();
    compiled(&file::snapshot(&objects));
}

fn object(value: Value) -> Option<Object> {
    fn read<T: DeserializeOwned + Into<Object>>(value: Value) -> Option<Object> {
        serde_json::from_value::<T>(value).ok().map(Into::into)
    }
    match value.get("kind")?.as_str()? {
        "Namespace" => read::<Namespace>(value),
        "Node" => read::<Node>(value),
        "Pod" => read::<Pod>(value),
        "Service" => read::<Service>(value),
        "EndpointSlice" => read::<EndpointSlice>(value),
        "NetworkPolicy" => read::<NetworkPolicy>(value),
        "ServiceCIDR" => read::<ServiceCIDR>(value),
        "ClusterNetworkPolicy" => read::<ClusterNetworkPolicy>(value),
        "ClusterTrafficPolicy" => read::<ClusterTrafficPolicy>(value),
        "TrafficPolicy" => read::<TrafficPolicy>(value),
        "TrafficTier" => read::<TrafficTier>(value),
        "NetworkSet" => read::<NetworkSet>(value),
        "Tenant" => read::<Tenant>(value),
        "LoadBalancerPool" => read::<LoadBalancerPool>(value),
        "L2Announcement" => read::<L2Announcement>(value),
        _ => None,
    }
}

/// Compile is total: every Snapshot has tables, names and findings.
pub(crate) fn compiled(snapshot: &Snapshot) {
    drop(compile(snapshot, &NodeName::new("node-a"), &NetworkConfig::default()));
    drop(names::zone(snapshot, "cluster.local"));
    drop(lint::lint(snapshot));
}
