//! UDP: each datagram gets an answer, from the address it was sent to.

use std::net::SocketAddr;

use sheetbend_model::types::Protocol;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{Answer, Identity, socket};

/// Answers until aborted.
pub(super) async fn answer(socket: UdpSocket, identity: Identity) {
    let port = socket.local_addr().map_or(0, |addr| addr.port());
    loop {
        // A failed receive is an earlier answer's ICMP error: the next datagram is waiting behind it.
        let received = socket.async_io(Interest::READABLE, || Ok(socket::receive(&socket)?)).await;
        if let Ok((client, local)) = received {
            let line = Answer::line(&identity, client, SocketAddr::new(local, port), Protocol::Udp);
            // A full buffer or a route that went away loses the answer, as a network may.
            let _ = socket::reply(&socket, client, local, &line);
        }
    }
}
