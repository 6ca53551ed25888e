//! Nodes without podCIDRs get theirs from the cluster's pool.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use sheetbend_compile::ipam::{NodePool, assign};
use sheetbend_intake::kube::Client;
use sheetbend_model::state::Snapshot;
use sheetbend_shell::config::ClusterPoolConfig;
use tracing::{info, warn};

/// The configured blocks with their mask sizes.
pub(super) fn pools(config: &ClusterPoolConfig) -> Vec<NodePool> {
    let prefix = |block: &IpNet| match block {
        IpNet::V4(_) => config.node_mask_ipv4,
        IpNet::V6(_) => config.node_mask_ipv6,
    };
    config.blocks.iter().map(|block| NodePool { block: *block, node_prefix: prefix(block) }).collect()
}

/// Writes the ranges of every Node that lacks them. `false`: something was refused, and is to be tried again.
pub(super) async fn give(client: &Client, pools: &[NodePool], snapshot: &Snapshot) -> bool {
    if pools.is_empty() {
        return true;
    }
    let (assigned, exhausted) = assign(snapshot.nodes.values().map(AsRef::as_ref), pools);
    for problem in &exhausted {
        warn!("{problem}");
    }
    let api: Api<Node> = Api::all(client.clone());
    let mut done = true;
    for (node, ranges) in assigned {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let patch = json!({"spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}});
        match api.patch(&node.0, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => info!(%node, ?ranges, "has its podCIDRs"),
            // It is gone, or somebody else gave it some: the watch says which.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                info!(%node, "its podCIDRs were not taken: {status}");
            }
            Err(error) => {
                warn!(%node, "cannot write its podCIDRs: {error}");
                done = false;
            }
        }
    }
    done
}
