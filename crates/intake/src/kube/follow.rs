//! One kind's watch: lists, resumes, lists anew when the server has forgotten (410), and waits longer and longer, with
//! jitter, while nobody answers.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::store::Change;
use crate::file::{Kind, Object};

/// Follows all objects of `K` until nobody listens. `streaming`: the server may send the first list as watch events
/// (KEP-3157), which spares both sides the whole list in memory.
pub(super) async fn follow<K>(client: Client, kind: Kind, mut streaming: bool, changes: mpsc::Sender<Change>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Into<Object> + 'static,
{
    loop {
        let config = watcher::Config::default();
        let config = if streaming { config.streaming_lists() } else { config.page_size(500) };
        let mut events =
            pin!(kube::runtime::watcher(Api::<K>::all(client.clone()), config).default_backoff());
        let (mut failing, mut absent, mut forbidden) = (false, false, false);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // That a list begins is said before anything was asked.
                    if !matches!(event, Event::Init) {
                        (absent, forbidden) = (false, false);
                        if std::mem::take(&mut failing) {
                            info!(kind = kind.name(), "the API server answers again");
                        }
                    }
                    if changes.send(change(kind, event)).await.is_err() {
                        return;
                    }
                }
                Err(error) if streaming && refuses_streaming(&error) => {
                    debug!(kind = kind.name(), "no streaming lists here; asking for pages");
                    break;
                }
                Err(error) if kind.is_optional() && is_absent(&error) => {
                    // Nobody installed the resource: there are none. It is looked for again and again.
                    if !std::mem::replace(&mut absent, true) {
                        info!(kind = kind.name(), "the cluster does not have this resource");
                        for change in [Change::Begin(kind), Change::End(kind)] {
                            if changes.send(change).await.is_err() {
                                return;
                            }
                        }
                    }
                }
                Err(error) if kind.is_optional() && is_forbidden(&error) => {
                    // The cluster works without it, and an older ClusterRole does not know it. It is asked for again.
                    if !std::mem::replace(&mut forbidden, true) {
                        warn!(
                            kind = kind.name(),
                            "this resource may not be read (403), so that it has no effect here: {}; add it to the \
                             ClusterRole (deploy/kubernetes/base/rbac.yaml)",
                            chain(&error)
                        );
                        if changes.send(Change::Forbidden(kind)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) if is_gone(&error) => {
                    info!(
                        kind = kind.name(),
                        "the API server has forgotten where we were (410); listing anew"
                    );
                }
                Err(error) if failing => debug!(kind = kind.name(), "{error}"),
                Err(error) => {
                    failing = true;
                    warn!(
                        kind = kind.name(),
                        "the watch broke off: {}; what was known stays in force",
                        chain(&error)
                    );
                }
            }
        }
        streaming = false;
    }
}

fn change<K: Resource<DynamicType = ()> + Into<Object>>(kind: Kind, event: Event<K>) -> Change {
    match event {
        Event::Init => Change::Begin(kind),
        Event::InitApply(object) => Change::Listed(trimmed(object)),
        Event::InitDone => Change::End(kind),
        Event::Apply(object) => Change::Put(trimmed(object)),
        Event::Delete(object) => Change::Gone(trimmed(object).id()),
    }
}

/// Without what is large and nobody reads; the channel holds some hundred objects.
pub(super) fn trimmed<K: Resource<DynamicType = ()> + Into<Object>>(mut object: K) -> Object {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    metadata.owner_references = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|key, _| key.starts_with("sheetbend.dev/"));
    }
    let mut object = object.into();
    if let Object::Pod(pod) = &mut object
        && let Some(spec) = &mut pod.spec
    {
        spec.volumes = None;
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            container.env = None;
            container.volume_mounts = None;
            container.command = None;
            container.args = None;
        }
    }
    object
}

fn status(error: &watcher::Error) -> Option<u16> {
    if let watcher::Error::WatchError(status) = error {
        return Some(status.code);
    }
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return None;
    };
    if let kube::Error::Api(status) = cause { Some(status.code) } else { None }
}

/// A server without the WatchList feature says that the request is invalid; one whose etcd is older than 3.4.31 or
/// 3.5.13 (no progress on request, KEP-2340) has an internal error.
fn refuses_streaming(error: &watcher::Error) -> bool {
    matches!(status(error), Some(400 | 422 | 500))
}

/// The resource is not there; an API server that does not know yet says 503.
fn is_absent(error: &watcher::Error) -> bool {
    status(error) == Some(404)
}

/// The service account may not read it.
fn is_forbidden(error: &watcher::Error) -> bool {
    status(error) == Some(403)
}

fn is_gone(error: &watcher::Error) -> bool {
    status(error) == Some(410)
}

/// The error with all its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
