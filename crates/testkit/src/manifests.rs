//! Kubernetes objects of a Snapshot, as an API server would hand them out: what strangers' programs are asked with.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use sheetbend_model::state::{
    AUDIT, ContainerPort, ENFORCEMENT, LabelSelector, NetworkPolicy, Operator, Peer, Pod, PodPhase,
    PolicyPort, PolicyRule, PortMatch, Requirement, Snapshot,
};

/// Every Namespace that the Snapshot knows or a Pod or NetworkPolicy of it lives in: an API server has them all.
pub fn namespaces(snapshot: &Snapshot) -> Vec<Value> {
    let named = snapshot.pods.keys().chain(snapshot.policies.keys()).map(|key| &key.namespace);
    let metadata =
        |name: &Arc<str>| json!({ "name": name, "labels": { "kubernetes.io/metadata.name": name } });
    let mut all: BTreeMap<Arc<str>, Value> = named.map(|name| (Arc::clone(name), metadata(name))).collect();
    for (name, namespace) in &snapshot.namespaces {
        let mut metadata = json!({ "name": name, "labels": namespace.labels });
        if namespace.audit {
            metadata["annotations"] = json!({ ENFORCEMENT: AUDIT });
        }
        all.insert(Arc::clone(name), metadata);
    }
    all.into_values()
        .map(|metadata| json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }))
        .collect()
}

/// Every Pod. Each of its ports has a container of its own, as names of ports are unique in a container only.
pub fn pods(snapshot: &Snapshot) -> Vec<Value> {
    snapshot.pods.values().map(|pod| self::pod(pod)).collect()
}

/// Every NetworkPolicy that an API server can hold: its `policyTypes` are never empty.
pub fn policies(snapshot: &Snapshot) -> Vec<Value> {
    let held =
        snapshot.policies.values().filter(|policy| policy.ingress.is_some() || policy.egress.is_some());
    held.map(|policy| self::policy(policy)).collect()
}

fn pod(pod: &Pod) -> Value {
    let phase = match pod.phase {
        PodPhase::Pending => "Pending",
        PodPhase::Running => "Running",
        PodPhase::Succeeded => "Succeeded",
        PodPhase::Failed => "Failed",
        PodPhase::Unknown => "Unknown",
    };
    let mut containers: Vec<Value> = pod.ports.iter().enumerate().map(container).collect();
    if containers.is_empty() {
        containers.push(json!({ "name": "main", "image": "registry.test/main" }));
    }
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": pod.key.namespace,
            "name": pod.key.name,
            "uid": pod.uid.to_string(),
            "labels": *pod.labels,
        },
        "spec": {
            "hostNetwork": pod.host_network,
            "serviceAccountName": pod.service_account,
            "containers": containers,
        },
        "status": {
            "phase": phase,
            "podIPs": pod.addresses.iter().map(|addr| json!({ "ip": addr })).collect::<Vec<_>>(),
            "conditions": [{ "type": "Ready", "status": if pod.ready { "True" } else { "False" } }],
        },
    });
    if let Some(node) = &pod.node {
        object["spec"]["nodeName"] = json!(node.0);
    }
    if pod.terminating {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    object
}

fn container((index, port): (usize, &ContainerPort)) -> Value {
    let mut written = json!({ "containerPort": port.port, "protocol": port.protocol });
    if let Some(name) = &port.name {
        written["name"] = json!(name);
    }
    if let Some(number) = port.host_port {
        written["hostPort"] = json!(number);
    }
    if let Some(addr) = port.host_ip {
        written["hostIP"] = json!(addr);
    }
    json!({ "name": format!("port-{index}"), "image": "registry.test/main", "ports": [written] })
}

fn policy(policy: &NetworkPolicy) -> Value {
    let mut spec = json!({ "podSelector": selector(&policy.pod_selector) });
    let mut types = Vec::new();
    if let Some(rules) = &policy.ingress {
        types.push("Ingress");
        spec["ingress"] = rules.iter().map(|each| rule(each, "from")).collect();
    }
    if let Some(rules) = &policy.egress {
        types.push("Egress");
        spec["egress"] = rules.iter().map(|each| rule(each, "to")).collect();
    }
    spec["policyTypes"] = json!(types);
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "namespace": policy.key.namespace, "name": policy.key.name },
        "spec": spec,
    })
}

/// `peers` is what the list of peers is called: `from` or `to`.
fn rule(rule: &PolicyRule, peers: &str) -> Value {
    let mut object = json!({});
    if !rule.peers.is_empty() {
        object[peers] = rule.peers.iter().map(peer).collect();
    }
    if !rule.ports.is_empty() {
        object["ports"] = rule.ports.iter().map(port).collect();
    }
    object
}

fn peer(peer: &Peer) -> Value {
    match peer {
        Peer::Block(block) => json!({ "ipBlock": { "cidr": block.cidr, "except": block.except } }),
        Peer::Pods { namespaces, pods } => {
            let mut object = json!({});
            if let Some(namespaces) = namespaces {
                object["namespaceSelector"] = selector(namespaces);
            }
            if let Some(pods) = pods {
                object["podSelector"] = selector(pods);
            }
            object
        }
    }
}

fn port(port: &PolicyPort) -> Value {
    let mut object = json!({ "protocol": port.protocol });
    match &port.port {
        PortMatch::All => {}
        PortMatch::Named(name) => object["port"] = json!(name),
        PortMatch::Range(range) => {
            object["port"] = json!(range.first());
            if range.first() != range.last() {
                object["endPort"] = json!(range.last());
            }
        }
    }
    object
}

fn selector(selector: &LabelSelector) -> Value {
    json!({
        "matchLabels": selector.match_labels,
        "matchExpressions": selector.match_expressions.iter().map(requirement).collect::<Vec<_>>(),
    })
}

fn requirement(requirement: &Requirement) -> Value {
    let operator = match requirement.operator {
        Operator::In => "In",
        Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
    };
    let mut object = json!({ "key": requirement.key, "operator": operator });
    if !requirement.values.is_empty() {
        object["values"] = json!(requirement.values);
    }
    object
}
