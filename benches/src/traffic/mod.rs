//! The measuring tools: answers that are checked, on connections that are kept.
//!
//! Every tool has a responder in the server's namespace and a client socket in the client's. The calling thread is the
//! client, pinned to CPU 0; responders of round trips share that CPU, those of streams have CPU 1.

mod connect;
mod datagram;
pub(crate) mod flood;
pub(crate) mod holder;
mod pingpong;
mod responder;
mod stream;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use serde::Serialize;

use crate::netns::Netns;

pub(crate) use connect::Client as ConnectClient;
pub(crate) use responder::Responder;

/// Where each responder listens.
pub(crate) mod port {
    pub(crate) const TCP_PINGPONG: u16 = 7001;
    pub(crate) const TCP_STREAM: u16 = 7002;
    pub(crate) const TCP_CONNECT: u16 = 7003;
    pub(crate) const UDP_PINGPONG: u16 = 7004;
    pub(crate) const UDP_STREAM: u16 = 7005;
    /// All of them, with the protocol's name.
    pub(crate) const ALL: [(&str, u16); 5] = [
        ("tcp", TCP_PINGPONG),
        ("tcp", TCP_STREAM),
        ("tcp", TCP_CONNECT),
        ("udp", UDP_PINGPONG),
        ("udp", UDP_STREAM),
    ];
}

/// An answer that has not come after this long never will.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Tool {
    /// One byte there, one byte back, one connection.
    TcpRoundTrip,
    /// One datagram there, one back, one socket.
    UdpRoundTrip,
    /// Connect, one byte there, one back, close.
    TcpConnect,
    /// A new socket, one datagram there, one back.
    UdpConnect,
    /// Bytes one way.
    TcpStream,
    /// Datagrams one way, a window of 32.
    UdpStream,
}

impl Tool {
    pub(crate) const ALL: [Tool; 6] = [
        Tool::TcpRoundTrip,
        Tool::UdpRoundTrip,
        Tool::TcpConnect,
        Tool::UdpConnect,
        Tool::TcpStream,
        Tool::UdpStream,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Tool::TcpRoundTrip => "TCP round trip",
            Tool::UdpRoundTrip => "UDP round trip",
            Tool::TcpConnect => "TCP connect, request, response",
            Tool::UdpConnect => "UDP first packet and answer",
            Tool::TcpStream => "TCP stream",
            Tool::UdpStream => "UDP stream",
        }
    }

    pub(crate) fn is_stream(self) -> bool {
        matches!(self, Tool::TcpStream | Tool::UdpStream)
    }

    /// Unit of [`Session::rate`].
    pub(crate) fn unit(self) -> &'static str {
        if self.is_stream() { "Gbit/s" } else { "µs" }
    }

    /// A rate as people read it: µs per transaction, or Gbit/s.
    pub(crate) fn display(self, rate: f64) -> f64 {
        if self.is_stream() { rate * 8.0 / 1e9 } else { 1e6 / rate }
    }
}

/// An open conversation of one tool.
pub(crate) enum Session {
    Tcp(pingpong::Client),
    Udp(datagram::Client),
    Connect(connect::Client),
    Stream(stream::Client),
    Datagrams(datagram::StreamClient),
}

impl Session {
    /// Opens it from namespace `client` to a [`Responder`] reachable at `server`.
    pub(crate) fn open(tool: Tool, client: &Netns, server: IpAddr) -> anyhow::Result<Self> {
        let open = || -> anyhow::Result<Self> {
            Ok(match tool {
                Tool::TcpRoundTrip => Self::Tcp(pingpong::Client::open(server)?),
                Tool::UdpRoundTrip => Self::Udp(datagram::Client::open(server)?),
                Tool::TcpConnect => Self::Connect(connect::Client::new(client, server, false)),
                Tool::UdpConnect => Self::Connect(connect::Client::new(client, server, true)),
                Tool::TcpStream => Self::Stream(stream::Client::open(server)?),
                Tool::UdpStream => Self::Datagrams(datagram::StreamClient::open(server)?),
            })
        };
        client.enter(open)?.with_context(|| format!("{} from {} to {server}", tool.name(), client.name()))
    }

    /// Runs for about `duration` and returns transactions or bytes per second.
    pub(crate) fn rate(&mut self, duration: Duration) -> anyhow::Result<f64> {
        pin(0)?;
        match self {
            Self::Tcp(client) => client.rate(duration),
            Self::Udp(client) => client.rate(duration),
            Self::Connect(client) => client.rate(duration),
            Self::Stream(client) => client.rate(duration),
            Self::Datagrams(client) => client.rate(duration),
        }
    }
}

/// Gives a socket buffers of a fixed size, so that the kernel's tuning does not change from burst to burst.
fn fix_buffers(socket: &impl AsFd) -> anyhow::Result<()> {
    const BYTES: usize = 4 << 20;
    setsockopt(socket, sockopt::SndBufForce, &BYTES).context("setting a send buffer")?;
    setsockopt(socket, sockopt::RcvBufForce, &BYTES).context("setting a receive buffer")
}

/// Keeps the calling thread on one CPU, or on the only one there is.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    if sched_setaffinity(Pid::from_raw(0), &set).is_err() {
        let mut first = CpuSet::new();
        first.set(0)?;
        sched_setaffinity(Pid::from_raw(0), &first).context("pinning a thread to CPU 0")?;
    }
    Ok(())
}
