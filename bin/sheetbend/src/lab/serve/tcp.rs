//! TCP: each line gets an answer; an HTTP/1.1 GET gets one as a response (RFC 9112).

use std::time::Duration;

use sheetbend_model::types::Protocol;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Answer, Identity};

/// Longest line or header section accepted, bytes.
const MAX_LINE: u64 = 64 * 1024;

/// Accepts until aborted.
pub(super) async fn accept(listener: TcpListener, identity: Identity) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let identity = identity.clone();
                // The client may leave whenever it likes.
                tokio::spawn(async move { converse(stream, &identity).await.unwrap_or_default() });
            }
            // Out of file descriptors, or the connection went away in the queue.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, identity: &Identity) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = Answer::line(identity, stream.peer_addr()?, stream.local_addr()?, Protocol::Tcp);
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line.starts_with(b"GET ") {
            skip_headers(&mut reader).await?;
            return writer.write_all(&response(&answer)).await;
        }
        writer.write_all(&answer).await?;
    }
}

async fn skip_headers(reader: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<()> {
    let mut left = MAX_LINE;
    let mut line = Vec::new();
    while left > 0 {
        line.clear();
        let read = (&mut *reader).take(left).read_until(b'\n', &mut line).await?;
        left = left.saturating_sub(read as u64);
        if read == 0 || line == b"\r\n" || line == b"\n" {
            break;
        }
    }
    Ok(())
}

fn response(answer: &[u8]) -> Vec<u8> {
    let length = answer.len();
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .into_bytes();
    response.extend_from_slice(answer);
    response
}
