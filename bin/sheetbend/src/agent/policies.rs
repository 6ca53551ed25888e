//! What `sheetbend policy` is told: the document `/policy/why`.

use std::sync::Arc;

use serde_json::Value;
use sheetbend_shell::admin::DocumentFn;
use sheetbend_shell::exit;
use tokio::sync::watch;

use super::view::View;
use crate::ask::Answer;
use crate::policy::why::{Destination, Reply, Target, explain, protocol_of};

/// `/policy/why` with `source=`, `destination=`, `port=` and `protocol=`. What it takes is spent on a thread of its own:
/// neither the core nor other requests wait for it.
pub(super) fn documents(views: watch::Receiver<Arc<View>>) -> [(&'static str, DocumentFn); 1] {
    let why: DocumentFn = Arc::new(move |query| {
        let view = Arc::clone(&views.borrow());
        Box::pin(async move {
            let made = tokio::task::spawn_blocking(move || why(&view, &query));
            made.await.unwrap_or_else(|error| value(&Answer::Error(error.to_string())))
        })
    });
    [("/policy/why", why)]
}

fn value(answer: &Answer<Reply>) -> Value {
    serde_json::to_value(answer).unwrap_or(Value::Null)
}

fn why(view: &View, query: &str) -> Value {
    let explained = asked(query)
        .map_err(|text| (exit::USAGE, text))
        .and_then(|(source, destination)| explain(&view.snapshot, &source, &destination));
    let reply = match explained {
        Ok(mut why) => {
            if !view.synced {
                why.notes.push(
                    "this node's kernel does not hold all of this yet; see `sheetbend status`".to_owned(),
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
