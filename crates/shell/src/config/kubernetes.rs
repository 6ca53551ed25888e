//! `kubernetes.*`, `intake.kubeconfig`, `cni.*` and `ipam.clusterPool`: what an installation in Kubernetes adds.

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use super::source::Sources;
use super::{absolute_path, parse_cidr};

/// How the API server is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KubernetesConfig {
    /// `intake.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `kubernetes.apiServer`.
    pub api_server: Option<String>,
}

/// Where the container runtime finds its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CniConfig {
    /// `cni.version`; `None` = the highest that the node's runtime reads.
    pub version: Option<String>,
    /// `cni.configDir`.
    pub config_dir: PathBuf,
    /// `cni.pluginDir`.
    pub plugin_dir: PathBuf,
}

/// Where `sheetbend controller` takes nodes' ranges from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPoolConfig {
    /// `ipam.clusterPool`; empty = somebody else gives Nodes their podCIDRs.
    pub blocks: Vec<IpNet>,
    /// `ipam.nodeMaskSizeIPv4`, bits.
    pub node_mask_ipv4: u8,
    /// `ipam.nodeMaskSizeIPv6`, bits.
    pub node_mask_ipv6: u8,
}

impl Default for CniConfig {
    fn default() -> Self {
        Self { version: None, config_dir: "/etc/cni/net.d".into(), plugin_dir: "/opt/cni/bin".into() }
    }
}

impl Default for ClusterPoolConfig {
    fn default() -> Self {
        Self { blocks: Vec::new(), node_mask_ipv4: 24, node_mask_ipv6: 64 }
    }
}

impl KubernetesConfig {
    pub(super) fn load(sources: &mut Sources) -> Self {
        Self {
            kubeconfig: sources.text("intake.kubeconfig", absolute_path),
            api_server: sources.text("kubernetes.apiServer", url),
        }
    }
}

impl CniConfig {
    pub(super) fn load(sources: &mut Sources) -> Self {
        let defaults = Self::default();
        Self {
            version: sources.text("cni.version", cni_version),
            config_dir: sources.text("cni.configDir", absolute_path).unwrap_or(defaults.config_dir),
            plugin_dir: sources.text("cni.pluginDir", absolute_path).unwrap_or(defaults.plugin_dir),
        }
    }
}

impl ClusterPoolConfig {
    pub(super) fn load(sources: &mut Sources) -> Self {
        let defaults = Self::default();
        let pool = Self {
            blocks: sources.list("ipam.clusterPool", parse_cidr),
            node_mask_ipv4: sources
                .text("ipam.nodeMaskSizeIPv4", mask::<30>)
                .unwrap_or(defaults.node_mask_ipv4),
            node_mask_ipv6: sources
                .text("ipam.nodeMaskSizeIPv6", mask::<126>)
                .unwrap_or(defaults.node_mask_ipv6),
        };
        for block in &pool.blocks {
            let (key, mask) = match block {
                IpNet::V4(_) => ("ipam.nodeMaskSizeIPv4", pool.node_mask_ipv4),
                IpNet::V6(_) => ("ipam.nodeMaskSizeIPv6", pool.node_mask_ipv6),
            };
            // More than 65,536 nodes are no cluster.
            if mask < block.prefix_len() || mask - block.prefix_len() > 16 {
                sources.wrong(
                    "ipam.clusterPool",
                    format!("{block} cannot be cut into /{mask} for nodes; write a block between /{} and /{mask}, or set {key}",
                        mask.saturating_sub(16)),
                );
            }
        }
        pool
    }
}

fn url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(format!("{text:?} is no URL; write one like https://192.0.2.10:6443"));
    }
    Ok(text.to_owned())
}

fn cni_version(text: &str) -> Result<String, String> {
    match text {
        "0.3.0" | "0.3.1" | "0.4.0" | "1.0.0" | "1.1.0" => Ok(text.to_owned()),
        _ => Err(format!(
            "{text:?} is no CNI version that the plugin speaks; use 0.3.0, 0.3.1, 0.4.0, 1.0.0 or 1.1.0"
        )),
    }
}

fn mask<const MAX: u8>(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(bits) if (1..=MAX).contains(&bits) => Ok(bits),
        _ => Err(format!("{text:?} is no prefix length of a node; use 1 to {MAX}")),
    }
}
