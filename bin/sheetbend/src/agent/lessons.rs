//! Where this node's name servers tell what they are about to say: the agent's side of [`crate::learnt`].

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sheetbend_model::types::DomainPattern;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, warn};

use crate::learnt::wire::{Answer, FromAgent};

/// Longer than a name server waits; what nobody waits for any more is not kept.
const PATIENCE: Duration = Duration::from_secs(5);

/// Addresses that a name server is about to say.
#[derive(Debug)]
pub(crate) struct Lesson {
    /// What it says.
    pub(crate) answer: Answer,
    /// The kernel knows.
    pub(crate) done: oneshot::Sender<()>,
}

/// What policies in force on the node ask about; `None` until they are known.
pub(crate) type Patterns = Option<BTreeSet<DomainPattern>>;

/// A socket that only this user reaches: whoever teaches opens addresses.
fn listener(socket: &Path) -> std::io::Result<UnixListener> {
    let fresh = socket.with_extension("new");
    sheetbend_shell::admin::remove_stale(&fresh)?;
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, socket)?;
    Ok(listener)
}

/// Listens at `socket` and hands on what is told, for as long as the process lives.
///
/// # Errors
/// The socket cannot be made.
pub(super) fn spawn(
    socket: &Path,
    lessons: mpsc::Sender<Lesson>,
    patterns: watch::Receiver<Patterns>,
) -> anyhow::Result<()> {
    if let Some(parent) = socket.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    }
    let listener = listener(socket).with_context(|| format!("listening at {}", socket.display()))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (lessons, patterns) = (lessons.clone(), patterns.clone());
                    tokio::spawn(async move {
                        if let Err(error) = listen(stream, lessons, patterns).await {
                            debug!("a name server has gone: {error:#}");
                        }
                    });
                }
                Err(error) => {
                    warn!("cannot accept a name server: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(())
}

async fn listen(
    mut stream: UnixStream,
    lessons: mpsc::Sender<Lesson>,
    mut patterns: watch::Receiver<Patterns>,
) -> anyhow::Result<()> {
    let (from, mut to) = stream.split();
    let mut lines = BufReader::new(from).lines();
    let (known, mut done) = mpsc::unbounded_channel();
    patterns.mark_changed();
    loop {
        let said = tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let answer: Answer = serde_json::from_str(&line).context("reading what it says")?;
                let (number, known) = (answer.number, known.clone());
                let (done, heard) = oneshot::channel();
                lessons.send(Lesson { answer, done }).await?;
                tokio::spawn(async move {
                    if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, heard).await {
                        // Who asked may have gone.
                        let _ = known.send(number);
                    }
                });
                continue;
            }
            Some(number) = done.recv() => FromAgent::Done(number),
            changed = patterns.changed() => {
                changed?;
                let known = patterns.borrow_and_update().clone();
                // What an earlier agent said holds until this one knows better.
                let Some(known) = known else { continue };
                FromAgent::Patterns(known)
            }
        };
        let mut line = serde_json::to_vec(&said)?;
        line.push(b'\n');
        to.write_all(&line).await?;
    }
}
