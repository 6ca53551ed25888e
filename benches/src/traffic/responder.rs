//! The answering ends of all tools at one address.

use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::Context;

use super::{connect, datagram, fix_buffers, pin, pingpong, port, stream};
use crate::netns::Netns;

/// Threads that answer at one address of one namespace, until the sandbox ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Responder;

impl Responder {
    /// Starts one per tool.
    pub(crate) fn start(server: &Netns, address: IpAddr) -> anyhow::Result<Self> {
        server
            .enter(|| Self::listen(address))?
            .with_context(|| format!("listening on {address} in {}", server.name()))?;
        Ok(Self)
    }

    fn listen(address: IpAddr) -> anyhow::Result<()> {
        let pingpong = TcpListener::bind((address, port::TCP_PINGPONG))?;
        let stream = TcpListener::bind((address, port::TCP_STREAM))?;
        fix_buffers(&stream)?;
        let connect = TcpListener::bind((address, port::TCP_CONNECT))?;
        let datagram = UdpSocket::bind((address, port::UDP_PINGPONG))?;
        let datagrams = UdpSocket::bind((address, port::UDP_STREAM))?;
        // These threads inherit the namespace of the one that starts them; their sockets would stay there anyway.
        thread::spawn(move || pin(0).map(|()| accept(&pingpong, pingpong::respond)));
        thread::spawn(move || pin(1).map(|()| accept(&stream, stream::respond)));
        thread::spawn(move || pin(0).map(|()| connect::serve(&connect)));
        thread::spawn(move || pin(0).map(|()| datagram::serve(&datagram)));
        thread::spawn(move || pin(1).map(|()| datagram::serve_stream(&datagrams)));
        Ok(())
    }
}

/// A thread per connection, on the CPU of the accepting one.
fn accept(listener: &TcpListener, respond: fn(TcpStream)) {
    for stream in listener.incoming().flatten() {
        if stream.set_nodelay(true).is_ok() {
            thread::spawn(move || respond(stream));
        }
    }
}
