//! One exchange on one socket.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, socket};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::{Seen, Speech};

/// Source ports of probes. Above them lie the ports that nodes masquerade with.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 20_000;

/// Hands out a different source port for each probe of a namespace.
#[derive(Debug)]
pub(super) struct Ports(AtomicU16);

impl Ports {
    /// Starts at a place given by `seed`, so that two runs rarely use the same flow again.
    pub(super) fn new(seed: u16) -> Self {
        Self(AtomicU16::new(seed % PORTS))
    }

    fn next(&self) -> u16 {
        FIRST_PORT + self.0.fetch_add(1, Ordering::Relaxed) % PORTS
    }
}

/// A bound socket that has sent nothing yet.
pub(super) enum Prepared {
    Tcp(TcpSocket, SocketAddr),
    Datagram(UdpSocket, SocketAddr, Speech),
}

impl Prepared {
    /// Binds a socket of the current namespace to `from` and a free port.
    pub(super) fn bind(speech: Speech, from: IpAddr, ports: &Ports) -> io::Result<Self> {
        for _ in 0..PORTS {
            let local = SocketAddr::new(from, ports.next());
            match Self::bind_to(speech, local) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                done => return done,
            }
        }
        Err(io::Error::new(ErrorKind::AddrInUse, "every source port is in use"))
    }

    fn bind_to(speech: Speech, local: SocketAddr) -> io::Result<Self> {
        match speech {
            Speech::Tcp => {
                let socket = if local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                // Ports of ended connections rest for a minute (TIME-WAIT); other destinations may use them.
                socket.set_reuseaddr(true)?;
                socket.bind(local)?;
                Ok(Prepared::Tcp(socket, local))
            }
            Speech::Udp => {
                let socket = std::net::UdpSocket::bind(local)?;
                socket.set_nonblocking(true)?;
                Ok(Prepared::Datagram(UdpSocket::from_std(socket)?, local, speech))
            }
            Speech::Echo => Ok(Prepared::Datagram(UdpSocket::from_std(echo_socket(local)?)?, local, speech)),
        }
    }

    /// Where the flow comes from.
    pub(super) fn local(&self) -> SocketAddr {
        match self {
            Prepared::Tcp(_, local) | Prepared::Datagram(_, local, _) => *local,
        }
    }

    /// Asks `to` and waits for whatever comes. Does not end when nothing comes.
    pub(super) async fn ask(self, to: SocketAddr) -> Seen {
        let asked = match self {
            Prepared::Tcp(socket, _) => match socket.connect(to).await {
                Ok(stream) => ask_stream(stream).await,
                Err(error) => Err(error),
            },
            Prepared::Datagram(socket, _, speech) => ask_datagram(&socket, to, speech).await,
        };
        asked.unwrap_or_else(|error| classify(&error))
    }
}

/// An ICMP socket whose "port" is the echo identifier (net.ipv4.ping_group_range allows it).
fn echo_socket(local: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let (domain, protocol) = match local {
        SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(domain, SockType::Datagram, flags, protocol)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(local))?;
    Ok(std::net::UdpSocket::from(fd))
}

async fn ask_stream(mut stream: TcpStream) -> io::Result<Seen> {
    stream.set_nodelay(true)?;
    stream.write_all(b"who\n").await?;
    let mut line = String::new();
    let length = BufReader::new(&mut stream).read_line(&mut line).await?;
    if length == 0 {
        return Ok(Seen::Failed("the connection was closed without an answer".to_owned()));
    }
    Ok(match serde_json::from_str(&line) {
        Ok(answer) => Seen::Answer(Some(answer)),
        Err(error) => Seen::Failed(format!("something else answered ({error})")),
    })
}

async fn ask_datagram(socket: &UdpSocket, to: SocketAddr, speech: Speech) -> io::Result<Seen> {
    socket.connect(to).await?;
    // The kernel fills in identifier and checksum (RFC 792, RFC 4443 §4.1).
    let echo = [if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 0, 0, 1, b's', b'b'];
    let payload: &[u8] = if speech == Speech::Echo { &echo } else { b"who\n" };
    socket.send(payload).await?;
    let mut buffer = [0u8; 2048];
    let length = socket.recv(&mut buffer).await?;
    if speech == Speech::Echo {
        return Ok(Seen::Answer(None));
    }
    Ok(match serde_json::from_slice(buffer.get(..length).unwrap_or_default()) {
        Ok(answer) => Seen::Answer(Some(answer)),
        Err(error) => Seen::Failed(format!("something else answered ({error})")),
    })
}

/// RST and ICMP errors are refusals; anything else is a fault of the source's own end.
fn classify(error: &io::Error) -> Seen {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Seen::Refused("connection refused".to_owned()),
        Some(libc::ECONNRESET) => Seen::Refused("connection reset".to_owned()),
        Some(libc::EHOSTUNREACH) => Seen::Refused("host unreachable".to_owned()),
        Some(libc::EACCES) => Seen::Refused("administratively prohibited".to_owned()),
        Some(libc::ETIMEDOUT) => Seen::Nothing,
        _ => Seen::Failed(error.to_string()),
    }
}
