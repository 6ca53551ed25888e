//! Connections: queries one after the other, each behind its length (RFC 1035 §4.2.2, RFC 7766).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};

use crate::metrics::Transport;
use crate::responder::{Reply, Responder};

/// How long a connection may be silent (RFC 7766 §6.2.3: some seconds).
const IDLE: Duration = Duration::from_secs(10);

/// Connections at once, at most; more wait to be accepted.
const MAX_CONNECTIONS: usize = 1_000;

/// How long accepting rests after an error that may last, such as too many open files.
const REST: Duration = Duration::from_millis(50);

/// Accepts connections until `stopping`; those that it has end when their client is silent.
pub(super) async fn serve(listener: TcpListener, responder: Arc<Responder>, stopping: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut ending = stopping.clone();
    loop {
        let accepted = tokio::select! {
            // What waits to be accepted is accepted before the listener goes.
            biased;
            accepted = accept(&listener, &slots) => accepted,
            _ = ending.wait_for(|stopping| *stopping) => return,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (responder, stopping) = (Arc::clone(&responder), stopping.clone());
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &responder, stopping).await {
                        debug!(%error, "a connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

async fn converse(
    mut stream: TcpStream,
    responder: &Responder,
    mut stopping: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let query = tokio::select! {
            biased;
            query = tokio::time::timeout(IDLE, read(&mut stream)) => query,
            _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
        };
        let Some(query) = query.unwrap_or(Ok(None))? else { return Ok(()) };
        let bytes = match responder.respond(&query, Transport::Tcp, Instant::now()) {
            Reply::Now(bytes) => Some(bytes),
            Reply::Later(forward) => responder.finish(*forward).await,
            Reply::Withheld(withheld) => Some(withheld.release().await),
            Reply::Nothing => None,
        };
        let Some(bytes) = bytes else { return Ok(()) };
        let Ok(len) = u16::try_from(bytes.len()) else { return Ok(()) };
        // RFC 7766 §8: length and message in one segment.
        let framed = [&len.to_be_bytes()[..], &bytes].concat();
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// `None` where the client has ended.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u16().await {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut query = vec![0; len.into()];
    stream.read_exact(&mut query).await?;
    Ok(Some(query))
}
