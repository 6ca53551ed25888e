//! A worker: one UDP socket and one thread that answers what it can at once.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime;
use tracing::{debug, warn};

use super::socket::{MAX_QUERY, Path, leave, receive, send};
use crate::metrics::Transport;
use crate::responder::{Reply, Responder};

/// How long a worker waits for a query before it looks whether it shall end.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// How long a worker rests after an error that may last.
const REST: Duration = Duration::from_millis(10);

/// Answers until `stopping`, then leaves the group, answers what has arrived, and ends.
pub(super) fn work(
    socket: UdpSocket,
    responder: &Arc<Responder>,
    runtime: &runtime::Handle,
    stopping: &AtomicBool,
) {
    let socket = Arc::new(socket);
    let mut buffer = [0; MAX_QUERY];
    let mut left = false;
    loop {
        if !left && stopping.load(Ordering::Relaxed) {
            left = true;
            if let Err(error) = leave(&socket) {
                warn!(%error, "queries that arrive now may be lost");
                // Then what has arrived is all that is read.
                let _ = socket.set_nonblocking(true);
            }
        }
        match receive(&socket, &mut buffer) {
            Ok((len, path)) => answer(&socket, &buffer[..len], path, responder, runtime),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && left => return,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                warn!(%error, "cannot receive");
                std::thread::sleep(REST);
            }
        }
    }
}

fn answer(
    socket: &Arc<UdpSocket>,
    query: &[u8],
    path: Path,
    responder: &Arc<Responder>,
    runtime: &runtime::Handle,
) {
    match responder.respond(query, Transport::Udp, Instant::now()) {
        Reply::Now(bytes) => deliver(socket, &bytes, &path),
        Reply::Nothing => {}
        Reply::Withheld(withheld) => {
            let socket = Arc::clone(socket);
            runtime.spawn(async move { deliver(&socket, &withheld.release().await, &path) });
        }
        Reply::Later(forward) => {
            let (socket, responder) = (Arc::clone(socket), Arc::clone(responder));
            runtime.spawn(async move {
                if let Some(bytes) = responder.finish(*forward).await {
                    deliver(&socket, &bytes, &path);
                }
            });
        }
    }
}

fn deliver(socket: &UdpSocket, bytes: &[u8], path: &Path) {
    if let Err(error) = send(socket, bytes, path) {
        debug!(%error, "an answer was not sent");
    }
}
