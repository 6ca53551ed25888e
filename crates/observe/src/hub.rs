//! Events to any number of listeners on a Unix socket, one JSON object a line.

use std::io;
use std::path::Path;
use std::sync::Arc;

use sheetbend_model::events::PacketEvent;
use sheetbend_shell::admin::remove_stale;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tracing::{debug, warn};

/// Events kept for a listener that is behind; older ones are lost to it.
const BACKLOG: usize = 16_384;

/// Where events are put, to be sent to every listener of the moment.
#[derive(Clone, Debug)]
pub struct Hub(broadcast::Sender<Arc<str>>);

impl Default for Hub {
    fn default() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }
}

impl Hub {
    /// Whether anybody listens: without, an event need not even be decoded.
    pub fn has_listeners(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Sends an event to every listener. Never waits.
    pub fn publish(&self, event: &PacketEvent) {
        match serde_json::to_string(event) {
            // Nobody listening is no error.
            Ok(line) => drop(self.0.send(line.into())),
            Err(error) => warn!("an event cannot be written as JSON: {error}"),
        }
    }

    /// Accepts listeners at `path`, until the task is dropped.
    ///
    /// # Errors
    /// The socket cannot be bound, or accepting failed for good.
    pub async fn serve(self, path: &Path) -> io::Result<()> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let lines = self.0.subscribe();
            tokio::spawn(async move {
                if let Err(error) = send(stream, lines).await {
                    debug!("a listener of events has gone: {error}");
                }
            });
        }
    }
}

async fn send(mut stream: UnixStream, mut lines: broadcast::Receiver<Arc<str>>) -> io::Result<()> {
    // The listener knows from this line that it misses nothing from now on.
    stream.write_all(b"{\"listening\":true}\n").await?;
    let mut batch = String::new();
    loop {
        batch.clear();
        append(&mut batch, lines.recv().await)?;
        while batch.len() < 1 << 16 {
            match lines.try_recv() {
                Ok(line) => append(&mut batch, Ok(line))?,
                Err(_) => break, // empty, or lagged: the next recv says so
            }
        }
        stream.write_all(batch.as_bytes()).await?;
    }
}

fn append(batch: &mut String, line: Result<Arc<str>, RecvError>) -> io::Result<()> {
    match line {
        Ok(line) => batch.push_str(&line),
        Err(RecvError::Lagged(lost)) => batch.push_str(&format!("{{\"lost\":{lost}}}")),
        Err(RecvError::Closed) => return Err(io::ErrorKind::BrokenPipe.into()),
    }
    batch.push('\n');
    Ok(())
}
