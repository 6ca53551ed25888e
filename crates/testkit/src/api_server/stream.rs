//! Watches: events as lines of JSON.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::answer::kind_of;
use super::path::Target;
use super::state::{State, Tick};

struct Watch {
    state: Arc<State>,
    target: Target,
    version: u64,
    ticks: watch::Receiver<Tick>,
    broken: u64,
    /// Lines to send first.
    first: VecDeque<String>,
    over: bool,
}

/// Everything after `version`. `initial`: the objects there are first, then the bookmark that ends them.
pub(super) fn events(state: &Arc<State>, target: Target, version: u64, initial: bool) -> Body {
    let ticks = state.ticks();
    let broken = ticks.borrow().1;
    let mut watch = Watch {
        state: Arc::clone(state),
        target,
        version,
        ticks,
        broken,
        first: VecDeque::new(),
        over: false,
    };
    if initial {
        let (objects, version) = state.list(&watch.target.resource, &watch.target.namespace);
        let (kind, api_version) = kind_of(&objects);
        let end = json!({"kind": kind, "apiVersion": api_version, "metadata": {
            "resourceVersion": version.to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"},
        }});
        watch.first = objects.into_iter().map(|object| line("ADDED", &object)).collect();
        watch.first.push_back(line("BOOKMARK", &end));
        watch.version = version;
    }
    Body::from_stream(futures::stream::unfold(watch, next))
}

/// Ends at once with an internal error.
pub(super) fn broken() -> Body {
    let error = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "the required storage feature RequestWatchProgress is disabled", "reason": "InternalError",
        "code": 500});
    Body::from(line("ERROR", &error))
}

fn line(what: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": what, "object": object}))
}

async fn next(mut watch: Watch) -> Option<(Result<String, Infallible>, Watch)> {
    loop {
        if let Some(line) = watch.first.pop_front() {
            return Some((Ok(line), watch));
        }
        if watch.over {
            return None;
        }
        let tick = *watch.ticks.borrow_and_update();
        if tick.1 != watch.broken {
            return None;
        }
        match watch.state.since(watch.version, &watch.target.resource, &watch.target.namespace) {
            None => {
                let gone = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "too old resource version", "reason": "Expired", "code": 410});
                watch.first.push_back(line("ERROR", &gone));
                watch.over = true;
            }
            Some(happened) if happened.is_empty() => watch.ticks.changed().await.ok()?,
            Some(happened) => {
                watch.version = happened.last().map_or(watch.version, |last| last.version);
                watch.first.extend(happened.iter().map(|one| line(one.what, &one.object)));
            }
        }
    }
}
