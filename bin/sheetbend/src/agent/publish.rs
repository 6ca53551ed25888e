//! What the agent tells the API server of its pods: each address at once, so that other nodes judge a new pod rightly
//! before the kubelet's status names it. And what it asks: a pod that no watch has named yet.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use sheetbend_intake::kube::{Client, POD_IPS};
use sheetbend_model::state::Attachment;
use sheetbend_model::types::ObjectKey;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{debug, warn};

use crate::source::Cluster;

/// Requests under way.
const PARALLEL: usize = 16;
/// After this the kubelet's status is as quick.
const PATIENCE: Duration = Duration::from_secs(5);

/// Works until nobody attaches any more.
pub(crate) async fn run(
    client: Client,
    mut attached: mpsc::UnboundedReceiver<Arc<Attachment>>,
    clusters: watch::Receiver<Option<Cluster>>,
    lookups: mpsc::Sender<ObjectKey>,
) {
    let permits = Arc::new(Semaphore::new(PARALLEL));
    while let Some(attachment) = attached.recv().await {
        let Some(pod) = attachment.pod.clone() else { continue };
        let known = |cluster: &Cluster| cluster.snapshot.pods.contains_key(&pod);
        if !clusters.borrow().as_ref().is_some_and(known) {
            // A full queue means that the API server is away; the runtime asks again.
            let _ = lookups.try_send(pod.clone());
        }
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let client = client.clone();
        tokio::spawn(async move {
            let patch = Patch::Merge(patch(&attachment));
            let api: Api<Pod> = Api::namespaced(client, &pod.namespace);
            let params = PatchParams::default();
            let sent = tokio::time::timeout(PATIENCE, api.patch_metadata(&pod.name, &params, &patch));
            match sent.await {
                Ok(Ok(_)) => {}
                // 404, 409: the pod is gone, or another of its name is there.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                    debug!(%pod, "not published: {status}");
                }
                Ok(Err(error)) => warn!(%pod, "other nodes learn its address from the kubelet: {error}"),
                Err(_) => {
                    warn!(%pod, "other nodes learn its address from the kubelet: no answer in {PATIENCE:?}")
                }
            }
            drop(permit);
        });
    }
}

/// Naming the uid makes the API server refuse it for another pod of the same name.
fn patch(attachment: &Attachment) -> Value {
    let addresses: Vec<String> = attachment.addresses.iter().map(ToString::to_string).collect();
    let mut patch = json!({"metadata": {"annotations": {POD_IPS: addresses.join(",")}}});
    if let Some(uid) = attachment.pod_uid.as_ref().filter(|uid| !uid.is_empty()) {
        patch["metadata"]["uid"] = json!(uid);
    }
    patch
}
