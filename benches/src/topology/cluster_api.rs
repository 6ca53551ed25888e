//! An API server on a node's loopback, for agents and kube-proxy alike.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sheetbend_testkit::api_server::ApiServer;

use super::agent::{NAMESPACE, service_object, slice_object};
use super::kube_proxy::cluster_ip;
use crate::netns::Netns;
use crate::traffic::port;

/// The Service whose endpoints come and go; its address is the one after all others'.
pub(crate) const MOVING: &str = "moving";
/// Service 0 leads to the tools, however many others there are.
const HOT: &str = "s0";

/// An API server as long as it is kept.
pub(crate) struct ClusterApi {
    server: ApiServer,
    kubeconfig: PathBuf,
}

/// How many Services and endpoints a cluster has beside the one that changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Services with the port of new connections, in both families.
    pub(crate) services: u32,
    /// Endpoints per Service that nobody is behind; 0: the server is the only one. Service 0 and the last one lead to
    /// the server in any case.
    pub(crate) dummies: u32,
}

impl ClusterApi {
    /// Serves in `netns`, and writes a kubeconfig into `directory`.
    pub(crate) fn start(netns: &Netns, directory: &Path) -> anyhow::Result<Self> {
        let server = netns.enter(|| ApiServer::start_at(Ipv4Addr::LOCALHOST))?;
        fs::create_dir_all(directory)?;
        let kubeconfig = directory.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": server.url()}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            "users": [{"name": "bench", "user": {}}],
        });
        fs::write(&kubeconfig, config.to_string())?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        server.put("namespaces", namespace);
        Ok(Self { server, kubeconfig })
    }

    /// How its clients find it.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, object: Value) {
        let resource = resource(&object);
        self.server.put(&resource, object);
    }

    /// Deletes what [`ClusterApi::put`] made.
    pub(crate) fn delete(&self, object: &Value) {
        let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
        self.server.delete(&resource(object), field("namespace"), field("name"));
    }

    /// Services that lead to `server`, and the moving one, which leads nowhere. What there was before is no longer
    /// known as history, so that watches begin with a list.
    pub(crate) fn fill(&self, load: Load, server: [IpAddr; 2]) {
        let connect = [json!({"name": "connect", "protocol": "TCP", "port": port::TCP_CONNECT})];
        let all: Vec<Value> = port::ALL
            .iter()
            .map(|(protocol, port)| {
                json!({"name": format!("p{port}"), "protocol": protocol.to_uppercase(), "port": port})
            })
            .collect();
        for index in 0..load.services {
            let name = format!("s{index}");
            let ports = if name == HOT { all.as_slice() } else { &connect };
            self.put(service_object(&name, [cluster_ip(false, index), cluster_ip(true, index)], ports));
            let is_dummy = load.dummies > 0 && index > 0 && index + 1 < load.services;
            let first = 0x0a80_0002 + index * load.dummies; // 10.128.0.0/9
            let dummies = || (first..first + load.dummies).map(|bits| Ipv4Addr::from_bits(bits).to_string());
            let [v4, v6] = server.map(|address| vec![address.to_string()]);
            let v4 = if is_dummy { dummies().collect() } else { v4 };
            self.put(slice_object(&name, "IPv4", &v4, ports));
            if !is_dummy {
                self.put(slice_object(&name, "IPv6", &v6, ports));
            }
        }
        let moving = [false, true].map(|v6| cluster_ip(v6, load.services));
        self.put(service_object(MOVING, moving, &connect));
        self.put(slice_object(MOVING, "IPv4", &[], &connect));
        self.server.forget();
    }

    /// The moving Service gets its endpoint, or loses it.
    pub(crate) fn move_endpoint(&self, server: Option<IpAddr>) {
        let connect = [json!({"name": "connect", "protocol": "TCP", "port": port::TCP_CONNECT})];
        let endpoints: Vec<String> = server.iter().map(ToString::to_string).collect();
        self.put(slice_object(MOVING, "IPv4", &endpoints, &connect));
    }
}

/// The resource of an object's kind: `networkpolicies`.
fn resource(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    kind.strip_suffix('y').map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"))
}
