//! What a network owes its Node: the runtime's configuration when pods can be attached, the condition and the taint
//! that keep pods away until then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use sheetbend_intake::kube::Client;
use sheetbend_model::types::NodeName;
use sheetbend_shell::config::CniConfig;
use sheetbend_shell::ready::Ready;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::install::{self, Install};
use crate::source::Cluster;

/// Start-up taint: whoever registers nodes with it keeps pods away until their network is there.
pub(crate) const TAINT: &str = "sheetbend.dev/not-ready";
/// Between two looks at the Node although nothing was heard of it.
const LOOK: Duration = Duration::from_secs(300);
/// Between two tries.
const RETRY: Duration = Duration::from_secs(5);

/// What the duties need to know.
pub(crate) struct Duties {
    pub(crate) client: Client,
    pub(crate) node: NodeName,
    pub(crate) cni: CniConfig,
    pub(crate) run_dir: PathBuf,
    /// With which the agent began.
    pub(crate) pod_cidrs: Vec<IpNet>,
}

impl Duties {
    /// Works until the Node's ranges change, which needs another process.
    ///
    /// # Errors
    /// The Node has other podCIDRs now.
    pub(crate) async fn run(
        self,
        ready: Ready,
        mut clusters: watch::Receiver<Option<Cluster>>,
    ) -> anyhow::Result<()> {
        let mut all = ready.subscribe();
        all.wait_for(|all| *all).await.context("the agent is ending")?;
        let mut wait = Duration::ZERO;
        let mut seen = None;
        loop {
            tokio::time::timeout(wait, self.changed(&mut clusters, &mut seen)).await.unwrap_or(Ok(()))?;
            wait = match self.fulfil().await {
                Ok(()) => LOOK,
                Err(error) => {
                    warn!("cannot tell that this node's network is ready, trying again: {error:#}");
                    RETRY
                }
            };
        }
    }

    /// Returns when the Node is another object than `seen`.
    async fn changed(
        &self,
        clusters: &mut watch::Receiver<Option<Cluster>>,
        seen: &mut Option<Arc<sheetbend_model::state::Node>>,
    ) -> anyhow::Result<()> {
        loop {
            let node = clusters
                .borrow_and_update()
                .as_ref()
                .and_then(|cluster| cluster.snapshot.nodes.get(&self.node).cloned());
            if let Some(node) = &node
                && !node.pod_cidrs.is_empty()
                && node.pod_cidrs != self.pod_cidrs
            {
                bail!(
                    "Node {} has the podCIDRs {:?} now, not {:?}; starting anew with them. Pods that have addresses of the old ranges keep them until they are deleted",
                    self.node,
                    node.pod_cidrs,
                    self.pod_cidrs
                );
            }
            if node.is_some() && node != *seen {
                *seen = node;
                return Ok(());
            }
            clusters.changed().await.context("the intake has ended")?;
        }
    }

    async fn fulfil(&self) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut node = nodes.get(&self.node.0).await.context("reading the Node")?;
        self.install(&node).await?;
        if let Some(patch) = condition(&node) {
            node = nodes
                .patch_status(&self.node.0, &PatchParams::default(), &Patch::Strategic(&patch))
                .await
                .context("clearing the Node's condition NetworkUnavailable")?;
            info!("the Node's condition NetworkUnavailable is False");
        }
        if let Some(patch) = untainted(&node) {
            nodes
                .patch(&self.node.0, &PatchParams::default(), &Patch::Merge(&patch))
                .await
                .with_context(|| format!("removing the Node's taint {TAINT}"))?;
            info!("the Node's taint {TAINT} is removed");
        }
        Ok(())
    }

    async fn install(&self, node: &Node) -> anyhow::Result<()> {
        let runtime = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        let runtime = runtime.map(|info| info.container_runtime_version.as_str()).unwrap_or_default();
        let version = self.cni.version.clone();
        let install = Install {
            config_dir: self.cni.config_dir.clone(),
            plugin_dir: self.cni.plugin_dir.clone(),
            run_dir: self.run_dir.clone(),
            version: version.unwrap_or_else(|| install::cni_version(runtime).to_owned()),
        };
        let steps = tokio::task::spawn_blocking(move || install.carry_out()).await??;
        for step in steps {
            info!(runtime, "{step}");
        }
        Ok(())
    }
}

/// What clears NetworkUnavailable; `None` where it is clear.
fn condition(node: &Node) -> Option<Value> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let clear = conditions
        .filter(|condition| condition.type_ == "NetworkUnavailable")
        .any(|condition| condition.status == "False");
    (!clear).then(|| {
        let now = k8s_openapi::jiff::Timestamp::now().to_string();
        json!({"status": {"conditions": [{
            "type": "NetworkUnavailable", "status": "False", "reason": "SheetbendIsUp",
            "message": "Sheetbend attaches pods on this node",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }]}})
    })
}

/// The taints without ours, valid for this version of the Node only; `None` where ours is not there.
fn untainted(node: &Node) -> Option<Value> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let kept: Vec<_> = taints.iter().filter(|taint| taint.key != TAINT).collect();
    (kept.len() < taints.len()).then(|| {
        json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": kept},
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    fn node(value: Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_condition_is_cleared_once() {
        let unavailable =
            json!({"status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]}});
        for open in [json!({}), unavailable] {
            let patch = condition(&node(open)).unwrap();
            assert_eq!(patch["status"]["conditions"][0]["status"], "False");
            let cleared = json!({"status": {"conditions": patch["status"]["conditions"]}});
            assert_eq!(condition(&node(cleared)), None);
        }
    }

    #[test]
    fn only_our_taint_goes() {
        let tainted = node(json!({
            "metadata": {"resourceVersion": "7"},
            "spec": {"taints": [{"key": TAINT, "effect": "NoSchedule"}, {"key": "other", "effect": "NoExecute"}]},
        }));
        let patch = untainted(&tainted).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(patch["spec"]["taints"].as_array().unwrap().len(), 1);
        assert_eq!(patch["spec"]["taints"][0]["key"], "other");
        assert_eq!(
            untainted(&node(json!({"spec": {"taints": [{"key": "other", "effect": "NoExecute"}]}}))),
            None
        );
    }
}
