//! What Sheetbend is compared with: the bridge plugin, static routes, kube-proxy in nftables mode, CoreDNS.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::enter;
use super::pki::Authority;
use super::plan::{Plan, Service};
use super::record::Record;
use super::settings::Settings;
use super::up::{pod_cidrs, route};
use super::wait::until;

const KUBECONFIG: &str = "/etc/kubernetes/kube-proxy.conf";
const CONFIG: &str = "/etc/kubernetes/kube-proxy.yaml";
const CONFLIST: &str = "etc/cni/net.d/10-bridge.conflist";
/// Account, role, configuration and Deployment; the Service depends on the cluster's families.
const COREDNS: &str = include_str!("coredns.yaml");
const LIMIT: Duration = Duration::from_secs(240);

/// kube-proxy's files on a node; `machine` is its place in [`Settings::machines`].
pub(super) fn files(
    settings: &Settings,
    authority: &Authority,
    machine: usize,
) -> Result<BTreeMap<String, String>> {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": settings.pod_cidrs(),
        "hostnameOverride": settings.machines()[machine],
        "clientConnection": {"kubeconfig": KUBECONFIG},
        // The table's size is one setting for the whole kernel.
        "conntrack": {"maxPerCore": 0},
    });
    let kubeconfig = authority.kubeconfig(&settings.api_url(), "system:kube-proxy", None)?;
    Ok(BTreeMap::from([(CONFIG.to_owned(), format!("{config:#}\n")), (KUBECONFIG.to_owned(), kubeconfig)]))
}

/// kube-proxy, on every node.
pub(super) fn kube_proxy() -> Service {
    Service::new("kube-proxy", &[("config", CONFIG)], None)
}

/// Writes each node's CNI configuration, routes Pod networks between nodes, and installs CoreDNS.
pub(super) fn install(record: &Record, plan: &Plan, kubectl: &Path) -> Result<()> {
    let ask = |arguments: &[&str]| {
        let mut command = enter::kubectl(record, kubectl)?;
        command.args(arguments);
        enter::output(command)
    };
    let nodes = record.settings.node_names();
    for (index, node) in nodes.iter().enumerate() {
        let cidrs = pod_cidrs(&ask, node)?;
        for other in nodes.iter().filter(|other| *other != node) {
            route(record, other, index + 1, &cidrs)?;
        }
        let path = enter::root_of(record, node)?.join(CONFLIST);
        std::fs::write(&path, conflist(&cidrs))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let manifest = super::record::directory(&record.settings.name).join("coredns.yaml");
    std::fs::write(&manifest, format!("{COREDNS}---\n{:#}\n", service(&record.settings)))?;
    ask(&["apply", "--filename", &manifest.display().to_string()])?;
    let available = ["wait", "--namespace=kube-system", "--for=condition=Available", "deployment/coredns"];
    let available = [&available[..], &["--timeout=1s"]].concat();
    until("CoreDNS", LIMIT, record, plan, || ask(&available))?;
    Ok(())
}

/// The bridge plugin's configuration for a node with these Pod networks.
fn conflist(cidrs: &[String]) -> String {
    let ranges: Vec<Value> = cidrs.iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let default = |cidr: &String| if cidr.contains(':') { "::/0" } else { "0.0.0.0/0" };
    let routes: Vec<Value> = cidrs.iter().map(|cidr| json!({"dst": default(cidr)})).collect();
    let config = json!({
        // The highest version that containerd 1.6 reads.
        "cniVersion": "1.0.0",
        "name": "bridge",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    format!("{config:#}\n")
}

fn service(settings: &Settings) -> Value {
    let addresses = settings.dns_service();
    let policy = if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilyPolicy": policy,
            "selector": {"k8s-app": "kube-dns"},
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn each_family_has_a_range_and_a_default_route() {
        let text = conflist(&["10.244.1.0/24".to_owned(), "fd00:10:244:1::/64".to_owned()]);
        let config: Value = serde_json::from_str(&text).unwrap();
        let ipam = &config["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][1][0]["subnet"], "fd00:10:244:1::/64");
        assert_eq!(ipam["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
    }
}
