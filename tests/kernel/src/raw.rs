#![allow(unsafe_code, reason = "neither std nor nix opens a raw socket of any protocol")]
//! Raw sockets (`raw(7)`): packets of a transport protocol that the kernel need not have.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::program::frame::{Body, Frame, Seen, read_packet, sum};

/// IANA number of SCTP.
const SCTP: i32 = 132;

/// IANA number of ICMP for an address.
fn icmp(addr: IpAddr) -> i32 {
    if addr.is_ipv4() { nix::libc::IPPROTO_ICMP } else { nix::libc::IPPROTO_ICMPV6 }
}

/// SCTP packets, or ICMP messages that are only sent, from and to one address of the thread's network namespace.
pub struct Raw {
    /// The calls are the same; ports are 0.
    socket: UdpSocket,
    own: IpAddr,
}

impl Raw {
    /// A socket bound to `own`, which waits `patience` for a packet.
    pub fn new(own: IpAddr, patience: Duration) -> Result<Self> {
        Self::of(SCTP, own, patience)
    }

    /// The same for ICMP messages.
    pub fn icmp(own: IpAddr) -> Result<Self> {
        Self::of(icmp(own), own, Duration::from_secs(1))
    }

    fn of(protocol: i32, own: IpAddr, patience: Duration) -> Result<Self> {
        let family = if own.is_ipv4() { nix::libc::AF_INET } else { nix::libc::AF_INET6 };
        // SAFETY: plain values.
        let fd =
            unsafe { nix::libc::socket(family, nix::libc::SOCK_RAW | nix::libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context("a raw socket");
        }
        // SAFETY: a new descriptor, which nobody else has.
        let socket = UdpSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
        nix::sys::socket::bind(fd, &nix::sys::socket::SockaddrStorage::from(SocketAddr::new(own, 0)))
            .with_context(|| format!("cannot bind {own}"))?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket, own })
    }

    /// Only from and to `peer`, whose ICMP errors end a wait.
    pub fn connect(&self, peer: IpAddr) -> Result<()> {
        Ok(self.socket.connect(SocketAddr::new(peer, 0))?)
    }

    /// Sends `body` to `peer`, with right checksums.
    pub fn send(&self, peer: IpAddr, body: Body) -> Result<()> {
        let packet = read_packet(&Frame::new([0; 6], [0; 6], self.own, peer, body).packet())?;
        self.socket.send_to(&packet.transport, SocketAddr::new(peer, 0)).with_context(|| peer.to_string())?;
        Ok(())
    }

    /// Sends an ICMP error, (type, code), that says `mtu` and quotes `packet`.
    pub fn send_error(&self, peer: IpAddr, (kind, code): (u8, u8), mtu: u16, packet: &[u8]) -> Result<()> {
        let quoted = &packet[..packet.len().min(256)];
        let mut message = vec![kind, code, 0, 0, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(quoted);
        if self.own.is_ipv4() {
            // The kernel sums up those of ICMPv6 itself.
            let sum = !sum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        self.socket.send_to(&message, SocketAddr::new(peer, 0)).with_context(|| peer.to_string())?;
        Ok(())
    }

    /// The next packet, whose checksums are right.
    ///
    /// # Errors
    /// `WouldBlock` when none came, what an ICMP error says, `InvalidData` for a wrong checksum.
    pub fn receive(&self) -> io::Result<Seen> {
        let mut buffer = [0; 2048];
        let (size, from) = self.socket.recv_from(&mut buffer)?;
        let bytes = &buffer[..size];
        let seen = match (from.ip(), self.own) {
            (IpAddr::V6(from), IpAddr::V6(own)) => {
                // The kernel keeps the IPv6 header to itself.
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend((size as u16).to_be_bytes());
                packet.extend([SCTP as u8, 64]);
                packet.extend(from.octets());
                packet.extend(own.octets());
                packet.extend(bytes);
                read_packet(&packet)
            }
            _ => read_packet(bytes),
        };
        seen.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{error:#}")))
    }
}
