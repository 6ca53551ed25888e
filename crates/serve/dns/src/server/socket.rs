//! Sockets that several processes may bind at once.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    SockaddrStorage, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Bytes of a UDP socket's receive queue: about two thousand queries, for bursts while the workers wait for a CPU.
const RECEIVE_BUFFER: usize = 2 << 20;

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 1024;

/// The largest query taken, bytes. Queries have one question and an OPT record; larger ones come by TCP.
pub(super) const MAX_QUERY: usize = 4096;

/// Where a datagram came from and which of our addresses it was sent to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) client: SocketAddr,
    /// The answer's source, where the socket listens on every address.
    local: Option<Local>,
}

#[derive(Clone, Copy, Debug)]
enum Local {
    V4(nix::libc::in_pktinfo),
    V6(nix::libc::in6_pktinfo),
}

/// A socket on `addr` beside those that others have there: SO_REUSEPORT spreads the flows over all. The address may
/// come to the machine later (IP_FREEBIND).
fn open(addr: SocketAddr, kind: SockType) -> nix::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    if addr.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(fd)
}

/// A UDP socket whose reads wait at most `patience`.
pub(super) fn udp(addr: SocketAddr, patience: Duration) -> io::Result<UdpSocket> {
    let fd = open(addr, SockType::Datagram)?;
    if addr.is_ipv4() {
        setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    // Above net.core.rmem_max only with CAP_NET_ADMIN.
    if setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    let patience = TimeVal::milliseconds(i64::try_from(patience.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    Ok(fd.into())
}

/// A TCP listener, not blocking.
pub(super) fn tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let fd = open(addr, SockType::Stream)?;
    // Connections of a process that ended do not keep the next from listening.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Waits for a datagram. What is longer than `buffer` is cut off, and then no query.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
    let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty())?;
    let client =
        message.address.and_then(|addr| std_address(&addr)).ok_or(io::ErrorKind::AddrNotAvailable)?;
    // The route, not the interface that the query came by, decides which way the answer goes: index 0.
    let local = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::Ipv4PacketInfo(info) = control {
            Some(Local::V4(nix::libc::in_pktinfo { ipi_ifindex: 0, ..info }))
        } else if let ControlMessageOwned::Ipv6PacketInfo(info) = control {
            Some(Local::V6(nix::libc::in6_pktinfo { ipi6_ifindex: 0, ..info }))
        } else {
            None
        }
    });
    Ok((message.bytes, Path { client, local }))
}

/// Answers on the way that a datagram came.
pub(super) fn send(socket: &UdpSocket, bytes: &[u8], path: &Path) -> io::Result<()> {
    let to = SockaddrStorage::from(path.client);
    let slices = [IoSlice::new(bytes)];
    let control = path.local.as_ref().map(|local| match local {
        Local::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Local::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    });
    let control = control.as_slice();
    sendmsg(socket.as_raw_fd(), &slices, control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}

/// Takes a UDP socket out of the group that shares its address: a connected socket gets no datagram of others, so new
/// queries go to the rest of the group while those that have arrived stay to be read.
pub(super) fn leave(socket: &UdpSocket) -> io::Result<()> {
    let addr = match socket.local_addr()?.ip() {
        IpAddr::V4(addr) if addr.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(addr) if addr.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        addr @ (IpAddr::V4(_) | IpAddr::V6(_)) => addr,
    };
    // Port 1 (tcpmux, RFC 1078) has no UDP service that could send.
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(addr, 1)))?;
    socket.set_nonblocking(true)
}

fn std_address(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = addr.as_sockaddr_in().map(|addr| SocketAddr::V4((*addr).into()));
    v4.or_else(|| addr.as_sockaddr_in6().map(|addr| SocketAddr::V6((*addr).into())))
}
