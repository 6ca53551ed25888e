//! What is left of pods that are gone: files, links, programs and rows of tables that nothing needs, and what is missing.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sheetbend_apply::bpf::Mismatch;
use sheetbend_apply::netlink;
use sheetbend_apply::store::{boot_id, read_back};
use sheetbend_shell::admin::DocumentFn;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use crate::source::Cluster;

/// One thing that should not be so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Leak {
    /// `address`, `attachment`, `link`, `program`, `entry` or `missing`.
    pub(crate) kind: String,
    /// Its name, as whoever looks for it knows it.
    pub(crate) object: String,
    /// Why it should not be there, or should.
    pub(crate) why: String,
}

/// What the core sees in the kernel.
#[derive(Debug)]
pub(super) struct Held {
    /// Rows of tables that are not as compiled.
    pub(super) rows: Vec<Mismatch>,
    /// Pinned links on devices of nobody.
    pub(super) pins: Vec<String>,
}

/// Where the core answers.
pub(super) type Question = oneshot::Sender<anyhow::Result<Held>>;

/// Makes the document of `/leaks`: `{"leaks": [Leak]}`, or `{"error": S}`. What is under way shows up in it too.
pub(super) fn document(
    state_dir: PathBuf,
    core: mpsc::Sender<Question>,
    clusters: watch::Receiver<Option<Cluster>>,
) -> DocumentFn {
    Arc::new(move |_| {
        let (state_dir, core, clusters) = (state_dir.clone(), core.clone(), clusters.clone());
        Box::pin(async move {
            match look(state_dir, &core, &clusters).await {
                Ok(leaks) => json!({ "leaks": leaks }),
                Err(error) => json!({ "error": format!("{error:#}") }),
            }
        })
    })
}

async fn look(
    state_dir: PathBuf,
    core: &mpsc::Sender<Question>,
    clusters: &watch::Receiver<Option<Cluster>>,
) -> anyhow::Result<Vec<Leak>> {
    let (question, answer) = oneshot::channel();
    core.send(question).await.context("the agent is ending")?;
    let held = answer.await.context("the agent is ending")??;
    let cluster = clusters.borrow().clone();
    let mut leaks = spawn_blocking(move || on_this_node(&state_dir, cluster.as_ref())).await??;
    leaks.extend(held.pins.into_iter().map(|pin| leak("program", pin, "its device is no pod's, or gone")));
    leaks.extend(held.rows.iter().map(row));
    Ok(leaks)
}

fn leak(kind: &str, object: impl ToString, why: impl Into<String>) -> Leak {
    Leak { kind: kind.to_owned(), object: object.to_string(), why: why.into() }
}

fn row(row: &Mismatch) -> Leak {
    let object = format!("{} {}", row.table, row.row);
    match (&row.wanted, &row.held) {
        (None, Some(held)) => leak("entry", object, format!("nothing needs it; it holds {held}")),
        (Some(wanted), None) => leak("missing", object, format!("it should hold {wanted}")),
        (wanted, held) => leak("entry", object, format!("it holds {held:?} and should hold {wanted:?}")),
    }
}

/// Files, links and the API server, compared with each other.
fn on_this_node(state_dir: &std::path::Path, cluster: Option<&Cluster>) -> anyhow::Result<Vec<Leak>> {
    let links = netlink::pod_links()?;
    let disk = read_back(state_dir, &boot_id()?)?;
    let mut leaks = Vec::new();
    let ids: BTreeSet<_> = disk.attachments.iter().map(|attachment| &attachment.id).collect();
    for (addr, holder) in disk.leases.iter().filter(|(_, holder)| !ids.contains(holder)) {
        leaks.push(leak("address", addr, format!("its container {} has no attachment", holder.container_id)));
    }
    for attachment in &disk.attachments {
        let name = match &attachment.pod {
            Some(pod) => format!("{pod} ({})", attachment.id.container_id),
            None => attachment.id.container_id.to_string(),
        };
        let link = links.get(&*attachment.host_ifname);
        if link.is_none_or(|link| link.host_ifindex != attachment.host_ifindex) {
            leaks.push(leak("attachment", &name, format!("its link {} is gone", attachment.host_ifname)));
        }
        let pods = cluster.filter(|cluster| cluster.fresh).map(|cluster| &cluster.snapshot.pods);
        if let (Some(pods), Some(pod)) = (pods, &attachment.pod)
            && !pods.contains_key(pod)
        {
            leaks.push(leak("attachment", name, "the API server has no such pod; the runtime owes a DEL"));
        }
    }
    let known: BTreeSet<&str> = disk.attachments.iter().map(|attachment| &*attachment.host_ifname).collect();
    let strange = links.keys().filter(|name| !known.contains(name.as_str()));
    leaks.extend(strange.map(|name| leak("link", name, "no attachment has it")));
    Ok(leaks)
}
