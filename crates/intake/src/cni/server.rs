//! The socket: one connection per request, served concurrently.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sheetbend_cni_wire::{MAX_BYTES, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

/// A plugin writes its request in one go; a peer that takes longer is none.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Who answers requests. Called concurrently, also for the same attachment.
pub trait Handler: Send + Sync + 'static {
    /// Serves one request to its end, even when the plugin that sent it is gone.
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send;
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The path cannot be bound.
    #[error("cannot listen for CNI requests at {path}: {source}; is the directory there and writable?", path = path.display())]
    Bind {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The socket takes no connections any more.
    #[error("cannot accept CNI requests any more: {0}")]
    Accept(io::Error),
}

/// A bound socket. Runtimes can connect from now on, and wait until [`Server::serve`] runs.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
}

impl Server {
    /// Binds `path`, readable by its owner alone. An older socket there is replaced in one step, so that a runtime
    /// finds either the old agent or the new one.
    ///
    /// # Errors
    /// [`ServeError::Bind`].
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let error = |source| ServeError::Bind { path: path.to_owned(), source };
        let fresh = path.with_extension(format!("{}.new", std::process::id()));
        match std::fs::remove_file(&fresh) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(error)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).map_err(error)?;
        std::fs::rename(&fresh, path).map_err(error)?;
        Ok(Self { listener })
    }

    /// Serves requests until the future is dropped. Requests under way go on in tasks of their own.
    ///
    /// # Errors
    /// [`ServeError::Accept`]; a shortage of memory or files is waited out.
    pub async fn serve<H: Handler>(self, handler: Arc<H>) -> Result<(), ServeError> {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(answer(stream, Arc::clone(&handler)));
                }
                Err(error) if is_shortage(&error) => {
                    warn!(%error, "cannot accept a CNI request; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(ServeError::Accept(error)),
            }
        }
    }
}

/// What accept(2) says when the machine, not the socket, is at its limit.
fn is_shortage(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
        || matches!(error.kind(), io::ErrorKind::OutOfMemory | io::ErrorKind::ConnectionAborted)
}

async fn answer<H: Handler>(mut stream: UnixStream, handler: Arc<H>) {
    let mut text = Vec::new();
    let mut limited = (&mut stream).take(MAX_BYTES);
    match tokio::time::timeout(READ_TIMEOUT, limited.read_to_end(&mut text)).await {
        Ok(Ok(_)) if !text.is_empty() => {}
        Ok(Ok(_)) => return, // A plugin that only looks whether someone listens.
        Ok(Err(error)) => return debug!(%error, "a CNI request broke off"),
        Err(_) => return debug!("a CNI request did not end within {READ_TIMEOUT:?}"),
    }
    let response = match serde_json::from_slice::<Request>(&text) {
        Ok(request) => handler.handle(request).await,
        Err(error) => Response::Error(super::wire::CniError::new(
            super::wire::code::DECODE,
            format!("the agent does not understand the plugin: {error}"),
            "install the sheetbend-cni that came with this agent",
        )),
    };
    let Ok(text) = serde_json::to_vec(&response) else { return };
    if let Err(error) = stream.write_all(&text).await {
        debug!(%error, "the plugin did not wait for its answer");
    }
}
