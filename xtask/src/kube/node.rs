//! A node's services: containerd and kubelet, at the paths every node has them. Pure.

use std::collections::BTreeMap;

use anyhow::Result;

use super::images::PAUSE;
use super::pki::Authority;
use super::plan::{Endpoint, PROGRAMS, Service};
use super::settings::Settings;

/// The runtime's socket, inside the node.
pub(super) const CONTAINERD: &str = "/run/containerd/containerd.sock";
const PKI: &str = "/var/lib/kubelet/pki";

/// A node's files: path → content. `machine` is its place in [`Settings::machines`].
pub(super) fn files(
    settings: &Settings,
    authority: &Authority,
    machine: usize,
) -> Result<BTreeMap<String, String>> {
    let name = &settings.machines()[machine];
    let server = authority.sign(name, None, &[name], &settings.addresses(machine))?;
    let user = format!("system:node:{name}");
    let kubeconfig = authority.kubeconfig(&settings.api_url(), &user, Some("system:nodes"))?;
    Ok(BTreeMap::from([
        ("/etc/containerd/config.toml".to_owned(), containerd_config()),
        ("/etc/kubernetes/kubelet.conf".to_owned(), kubeconfig),
        ("/var/lib/kubelet/config.yaml".to_owned(), kubelet_config(settings)),
        (format!("{PKI}/ca.crt"), authority.pair.certificate.clone()),
        (format!("{PKI}/kubelet.crt"), server.certificate),
        (format!("{PKI}/kubelet.key"), server.key),
    ]))
}

/// containerd and kubelet.
pub(super) fn services(settings: &Settings, machine: usize, libraries: &str) -> Vec<Service> {
    let mut containerd = Service::new("containerd", &[("config", "/etc/containerd/config.toml")], None);
    // runc comes with its libseccomp, which the machine may lack.
    containerd.environment.insert("LD_LIBRARY_PATH".to_owned(), libraries.to_owned());
    let addresses: Vec<String> = settings.addresses(machine).iter().map(ToString::to_string).collect();
    let name = &settings.machines()[machine];
    let flags = [
        ("config", "/var/lib/kubelet/config.yaml"),
        ("kubeconfig", "/etc/kubernetes/kubelet.conf"),
        ("hostname-override", name),
        ("node-ip", &addresses.join(",")),
        ("node-labels", &format!("topology.kubernetes.io/zone={}", zone(machine))),
    ];
    let kubelet = Service::new("kubelet", &flags, Some(Endpoint::Unix(CONTAINERD.into())));
    vec![containerd, kubelet]
}

/// Nodes are dealt to three zones, so that of four two share one.
fn zone(machine: usize) -> String {
    format!("zone{}", (machine + 2) % 3 + 1)
}

fn containerd_config() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Without CAP_SYS_RESOURCE runc cannot lower the score, and says so only as "can't get final child's PID".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{PROGRAMS}/runc"
"#
    )
}

fn kubelet_config(settings: &Settings) -> String {
    // JSON is YAML: no second format to escape.
    let config = serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{PKI}/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": settings.dns_service(),
        "clusterDomain": "cluster.local",
        "cgroupDriver": "cgroupfs",
        // The node's cgroup namespace makes its own cgroup the root.
        "cgroupRoot": "/",
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "resolvConf": "/etc/resolv.conf",
        "staticPodPath": "/etc/kubernetes/manifests",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "tlsCertFile": format!("{PKI}/kubelet.crt"),
        "tlsPrivateKeyFile": format!("{PKI}/kubelet.key"),
        // All nodes share one disk: a full one is not this node's doing, and there is no registry to pull from again.
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "1000h",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "maxPods": 110,
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::super::settings::{Family, Network};
    use super::*;

    #[test]
    fn a_dual_stack_node_names_both_addresses() {
        let settings = Settings::new("a", 2, Family::Dual, Network::None).unwrap();
        let services = services(&settings, 1, "/lib");
        assert!(services[1].command.contains(&"--node-ip=172.31.0.11,fd00:172:31::11".to_owned()));
        assert_eq!([1, 2, 3, 4].map(zone), ["zone1", "zone2", "zone3", "zone1"]);
        let config: serde_json::Value = serde_json::from_str(&kubelet_config(&settings)).unwrap();
        assert_eq!(config["clusterDNS"], serde_json::json!(["10.96.0.10", "fd00:10:96::a"]));
    }
}
