//! One query to one server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::Query;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::answer::Answer;
use crate::wire;

/// Asks by UDP, and by TCP where the answer does not fit (RFC 7766 §5).
pub(super) async fn ask(
    server: SocketAddr,
    question: &Query,
    dnssec_ok: bool,
    checking_disabled: bool,
) -> io::Result<Answer> {
    // RFC 5452 §9.2: nobody who cannot see the query shall guess its number; its port is the kernel's random choice.
    let id = rand::random();
    let query = wire::query(id, question, dnssec_ok, checking_disabled)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name does not fit a query"))?;
    let (answer, truncated) = by_udp(server, &query, id, question).await?;
    if truncated { by_tcp(server, &query, id, question).await } else { Ok(answer) }
}

async fn by_udp(server: SocketAddr, query: &[u8], id: u16, question: &Query) -> io::Result<(Answer, bool)> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = [0; 4096];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // What does not match is somebody's guess; the real answer may still come.
        if let Some(answer) = wire::read_answer(&buffer[..len], id, question) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, query: &[u8], id: u16, question: &Query) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    // RFC 7766 §8: length and message in one segment.
    let mut framed = Vec::with_capacity(query.len() + 2);
    framed.extend((query.len() as u16).to_be_bytes());
    framed.extend(query);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut bytes = vec![0; len.into()];
    stream.read_exact(&mut bytes).await?;
    let (answer, _) = wire::read_answer(&bytes, id, question).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the answer by TCP does not match the question")
    })?;
    Ok(answer)
}
