//! Directories of Kubernetes objects of any size, as a cluster's dump looks.

use std::path::Path;

use serde_json::{Value, json};

use crate::topology::agent::{NAMESPACE, service_object, slice_object, write_object};

/// Objects in one file.
const PER_FILE: u32 = 200;
/// Values of pods' label `app`.
const APPS: u32 = 500;

/// How many objects of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Nodes' addresses are `192.168.<net>.<number>`, one link as host-gw needs it.
    pub(crate) net: u8,
    /// Nodes, the first included, whose object somebody else writes.
    pub(crate) nodes: u32,
    /// Pods, dealt to the nodes in turn.
    pub(crate) pods: u32,
    /// Services, each with an IPv4 EndpointSlice.
    pub(crate) services: u32,
    /// Endpoints in all slices.
    pub(crate) endpoints: u32,
    /// NetworkPolicies, each selecting one app for ingress from another: several for one app where they are more.
    pub(crate) policies: u32,
}

impl Amount {
    /// Pods on the first node, at most 110.
    pub(crate) fn local_pods(self) -> u32 {
        (self.pods / self.nodes).min(110)
    }
}

/// Writes them all.
pub(crate) fn write(directory: &Path, amount: Amount) -> anyhow::Result<()> {
    many(directory, "nodes", 1..amount.nodes, |index| node(index, amount))?;
    many(directory, "pods", 0..amount.pods, |index| pod(index, amount))?;
    many(directory, "services", 0..amount.services, service)?;
    many(directory, "slices", 0..amount.services, |index| slice(index, amount))?;
    many(directory, "policies", 0..amount.policies, policy)
}

/// The same one after the other, for an API server.
pub(crate) fn each(amount: Amount, mut take: impl FnMut(Value)) {
    (1..amount.nodes).for_each(|index| take(node(index, amount)));
    (0..amount.pods).for_each(|index| take(pod(index, amount)));
    (0..amount.services).for_each(|index| take(service(index)));
    (0..amount.services).for_each(|index| take(slice(index, amount)));
    (0..amount.policies).for_each(|index| take(policy(index)));
}

/// Name of pod `index`, which is also its namespace on disk.
pub(crate) fn pod_name(index: u32) -> String {
    format!("pod-{index}")
}

/// App of pod `index`, as in its label `app: app-N`.
pub(crate) fn app(index: u32) -> u32 {
    index % APPS
}

/// Pod ranges of node `index`.
pub(crate) fn pod_cidrs(index: u32) -> [String; 2] {
    let [_, _, high, low] = index.to_be_bytes();
    [format!("10.{}.{low}.0/24", 100 + high), format!("fd10:{index:x}::/64")]
}

fn many(
    directory: &Path,
    name: &str,
    range: std::ops::Range<u32>,
    object: impl Fn(u32) -> Value,
) -> anyhow::Result<()> {
    let all: Vec<u32> = range.collect();
    for (number, indices) in all.chunks(PER_FILE as usize).enumerate() {
        let text: String = indices.iter().map(|index| format!("---\n{}\n", object(*index))).collect();
        write_object(directory, &format!("{name}-{number:04}.yaml"), &text)?;
    }
    Ok(())
}

fn node(index: u32, amount: Amount) -> Value {
    let cidrs = pod_cidrs(index);
    let (net, last) = (amount.net, index + 1);
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("n{}", index + 1), "labels": {"kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": [
            {"type": "InternalIP", "address": format!("192.168.{net}.{last}")},
            {"type": "InternalIP", "address": format!("fd77:{net}::{last:x}")},
        ]},
    })
}

fn pod(index: u32, amount: Amount) -> Value {
    let (node, place) = (index % amount.nodes, index / amount.nodes + 2);
    let status = if node == 0 {
        json!({"phase": "Running"}) // its addresses come from ADD
    } else {
        let ips = addresses(node, place);
        json!({
            "phase": "Running", "podIP": ips[0], "podIPs": [{"ip": ips[0]}, {"ip": ips[1]}],
            "conditions": [{"type": "Ready", "status": "True"}],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod_name(index), "namespace": NAMESPACE, "uid": format!("00000000-0000-4000-8000-{index:012}"),
            "labels": {"app": format!("app-{}", app(index)), "pod-template-hash": format!("{:x}", app(index))},
        },
        "spec": {
            "nodeName": format!("n{}", node + 1),
            "containers": [{"name": "main", "image": "bench", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": status,
    })
}

/// Addresses of the pod in `place` on `node`: more than a /24 holds go on in the next one's place of the text only.
fn addresses(node: u32, place: u32) -> [String; 2] {
    let [_, _, high, low] = node.to_be_bytes();
    let [_, _, up, last] = place.to_be_bytes();
    // 256 nodes' ranges a step: places above 255 lie in 10.(110 + n).0.0/16, which no range covers.
    let second = if up == 0 { 100 + high } else { 110 + up };
    [format!("10.{second}.{low}.{last}"), format!("fd10:{node:x}::{place:x}")]
}

fn ports() -> [Value; 1] {
    [json!({"name": "http", "protocol": "TCP", "port": 8080})]
}

fn service(index: u32) -> Value {
    let [a, b, c, d] = (0x0a60_0001 + index).to_be_bytes(); // 10.96.0.0/12
    let v6 = std::net::Ipv6Addr::from_bits(0xfd96u128 << 112 | u128::from(index + 1));
    let v4 = std::net::Ipv4Addr::new(a, b, c, d);
    service_object(&format!("service-{index}"), [v4.into(), v6.into()], &ports())
}

fn slice(index: u32, amount: Amount) -> Value {
    let count = amount.endpoints / amount.services + u32::from(index < amount.endpoints % amount.services);
    let first = (u64::from(index) * u64::from(amount.endpoints) / u64::from(amount.services)) as u32;
    let endpoints: Vec<String> = (first..first + count)
        .map(|number| {
            let [a, b, c, d] = (0x0a80_0002 + number).to_be_bytes(); // 10.128.0.0/9
            format!("{a}.{b}.{c}.{d}")
        })
        .collect();
    slice_object(&format!("service-{index}"), "IPv4", &endpoints, &ports())
}

fn policy(index: u32) -> Value {
    // More policies than apps: each of an app's own has another peer and another port.
    let (app, turn) = (index % APPS, index / APPS);
    between_apps(&format!("policy-{index}"), app, app + 1 + turn, 8080 + turn)
}

/// A NetworkPolicy that lets pods of app `from` reach those of app `to` at a TCP port.
pub(crate) fn between_apps(name: &str, to: u32, from: u32, port: u32) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": {"app": format!("app-{to}")}},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"app": format!("app-{}", from % APPS)}}}],
                "ports": [{"protocol": "TCP", "port": port}],
            }],
        },
    })
}
