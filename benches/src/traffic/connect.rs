//! The first packets of new flows: connect, request, response, close.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{PATIENCE, pin, port};
use crate::netns::Netns;

pub(crate) struct Client {
    netns: Netns,
    servers: Vec<IpAddr>,
    udp: bool,
    next: usize,
    /// How long each took, s, since it was last asked.
    took: Vec<f64>,
}

impl Client {
    pub(super) fn new(netns: &Netns, server: IpAddr, udp: bool) -> Self {
        Self { netns: netns.clone(), servers: vec![server], udp, next: 0, took: Vec::new() }
    }

    /// TCP; each new flow goes to the next of `servers`.
    pub(crate) fn spread(netns: &Netns, servers: Vec<IpAddr>) -> Self {
        Self { netns: netns.clone(), servers, udp: false, next: 0, took: Vec::new() }
    }

    pub(crate) fn rate(&mut self, duration: Duration) -> anyhow::Result<f64> {
        let (servers, udp, first) = (&self.servers, self.udp, self.next);
        let (took, elapsed) = self.netns.enter(|| -> anyhow::Result<(Vec<f64>, Duration)> {
            pin(0)?;
            let mut took = Vec::new();
            let (start, mut last) = (Instant::now(), Duration::ZERO);
            while last < duration {
                let server = servers[(first + took.len()) % servers.len()];
                transaction(server, udp).with_context(|| format!("new flow to {server}"))?;
                let now = start.elapsed();
                took.push((now - last).as_secs_f64());
                last = now;
            }
            Ok((took, last))
        })??;
        self.next = (first + took.len()) % self.servers.len();
        let done = took.len();
        self.took.extend(took);
        Ok(done as f64 / elapsed.as_secs_f64())
    }

    /// How long each new flow took since this was last asked, seconds.
    pub(crate) fn take_times(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.took)
    }
}

fn transaction(server: IpAddr, udp: bool) -> anyhow::Result<()> {
    let mut answer = [0];
    if udp {
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((server, port::UDP_PINGPONG))?;
        socket.send(&[0x5b])?;
        socket.recv(&mut answer).context("no answer")?;
    } else {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, port::TCP_CONNECT), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[0x5b])?;
        stream.read_exact(&mut answer).context("no answer")?;
    }
    if answer[0] != !0x5b {
        bail!("expected {}, got {}", !0x5bu8, answer[0]);
    }
    Ok(())
}

/// Answers one byte per connection. The client closes first.
pub(super) fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() && stream.write_all(&[!byte[0]]).is_ok() {
            // Waiting for the client's FIN leaves TIME_WAIT at its end, and the listener's ports free.
            let _closed = stream.read(&mut byte);
        }
    }
}
