//! What `sheetbend policy` is told: the documents `/policy/why`, `/policy/lint` and `/snapshot`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use sheetbend_intake::last_good;
use sheetbend_shell::admin::DocumentFn;
use sheetbend_shell::exit;
use tokio::sync::watch;

use super::view::View;
use crate::ask::Answer;
use crate::policy::lint::Findings;
use crate::policy::why::{Destination, Reply, Target, explain, protocol_of};
use crate::source::Cluster;

/// `/policy/why` with `source=`, `destination=`, `port=` and `protocol=`, and `/policy/lint`. What they take is spent on a
/// thread of its own: neither the core nor other requests wait for it.
pub(super) fn documents(views: watch::Receiver<Arc<View>>) -> [(&'static str, DocumentFn); 2] {
    let document = |make: fn(&View, &str) -> Value| -> DocumentFn {
        let views = views.clone();
        Arc::new(move |query| {
            let view = Arc::clone(&views.borrow());
            Box::pin(async move {
                let made = tokio::task::spawn_blocking(move || make(&view, &query));
                made.await.unwrap_or_else(|error| value(&Answer::<()>::Error(error.to_string())))
            })
        })
    };
    [("/policy/why", document(why)), ("/policy/lint", document(lint))]
}

/// `/snapshot`: the cluster as objects say it, for who compares it with another: that takes memory which the agent has not.
pub(super) fn snapshot(clusters: watch::Receiver<Option<Cluster>>) -> DocumentFn {
    Arc::new(move |_query| {
        let known = clusters.borrow().as_ref().map(|cluster| Arc::clone(&cluster.snapshot));
        Box::pin(async move {
            let Some(snapshot) = known else {
                return value(&Answer::<()>::Error("the cluster is not known yet".to_owned()));
            };
            let made = tokio::task::spawn_blocking(move || match last_good::text(&snapshot) {
                Ok(text) => value(&Answer::Found(text)),
                Err(error) => value(&Answer::<()>::Error(error.to_string())),
            });
            made.await.unwrap_or_else(|error| value(&Answer::<()>::Error(error.to_string())))
        })
    })
}

fn value(answer: &Answer<impl Serialize>) -> Value {
    serde_json::to_value(answer).unwrap_or(Value::Null)
}

fn lint(view: &View, _query: &str) -> Value {
    value(&Answer::Found(Findings::of(&view.snapshot)))
}

fn why(view: &View, query: &str) -> Value {
    let explained = asked(query).map_err(|text| (exit::USAGE, text)).and_then(|(source, destination)| {
        explain(&view.snapshot, &view.service_ranges, &source, &destination)
    });
    let reply = match explained {
        Ok(mut why) => {
            if !view.synced {
                why.notes.push(
                    "this node's kernel does not hold all of this yet; see `sheetbend status`".to_owned(),
                );
            }
            if !why.at_source && why.misses_a_name() {
                why.notes.push(
                    "the sender is no pod of this node: ask the agent of its node, which knows the domain names that it was \
                     told of"
                        .to_owned(),
                );
            }
            Reply::Explained(Box::new(why))
        }
        Err(failure) => Reply::Refused(failure),
    };
    value(&Answer::Found(reply))
}

/// The question. Names of objects and addresses need no escapes.
fn asked(query: &str) -> Result<(Target, Destination), String> {
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
    };
    let needed = |name| parameter(name).ok_or_else(|| format!("the request has no {name}"));
    let protocol = protocol_of(needed("protocol")?).ok_or("the request names no protocol")?;
    let port = parameter("port").map(str::parse).transpose()?;
    Ok((needed("source")?.parse()?, Destination { target: needed("destination")?.parse()?, port, protocol }))
}
