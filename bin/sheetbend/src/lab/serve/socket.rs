//! Listening sockets that see exactly one family, and which of their addresses a datagram was sent to.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    SockaddrStorage, bind, listen, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use sheetbend_model::types::Family;

/// A listener on every address of `family`.
pub(super) fn tcp_listener(family: Family, port: u16) -> nix::Result<TcpListener> {
    let fd = open(family, SockType::Stream)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &any(family, port))?;
    listen(&fd, Backlog::new(1024)?)?;
    Ok(TcpListener::from(fd))
}

/// A datagram socket on every address of `family` that tells which one was meant.
pub(super) fn udp(family: Family, port: u16) -> nix::Result<UdpSocket> {
    let fd = open(family, SockType::Datagram)?;
    match family {
        Family::IPv4 => setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?,
        Family::IPv6 => setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    bind(fd.as_raw_fd(), &any(family, port))?;
    Ok(UdpSocket::from(fd))
}

fn open(family: Family, kind: SockType) -> nix::Result<OwnedFd> {
    let domain = match family {
        Family::IPv4 => AddressFamily::Inet,
        Family::IPv6 => AddressFamily::Inet6,
    };
    let fd = socket(domain, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    if family == Family::IPv6 {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(fd)
}

fn any(family: Family, port: u16) -> SockaddrStorage {
    let address: IpAddr = match family {
        Family::IPv4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::IPv6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(address, port).into()
}

/// Receives one datagram: its sender and the address it was sent to.
pub(super) fn receive(socket: &impl AsRawFd) -> nix::Result<(SocketAddr, IpAddr)> {
    let mut payload = [0u8; 2048];
    let mut control = cmsg_space!(libc::in6_pktinfo);
    let mut buffers = [IoSliceMut::new(&mut payload)];
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffers, Some(&mut control), MsgFlags::empty())?;
    let client = message.address.as_ref().and_then(to_std).ok_or(nix::Error::EINVAL)?;
    let mut local = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4PacketInfo(info) = part {
            local = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
        } else if let ControlMessageOwned::Ipv6PacketInfo(info) = part {
            local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
        }
    }
    Ok((client, local.ok_or(nix::Error::EINVAL)?))
}

/// Sends `payload` to `client` from `local`.
pub(super) fn reply(
    socket: &impl AsRawFd,
    client: SocketAddr,
    local: IpAddr,
    payload: &[u8],
) -> nix::Result<()> {
    let buffers = [IoSlice::new(payload)];
    let to = SockaddrStorage::from(client);
    let (ipv4, ipv6);
    let from = match local {
        IpAddr::V4(addr) => {
            ipv4 = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(addr.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            ControlMessage::Ipv4PacketInfo(&ipv4)
        }
        IpAddr::V6(addr) => {
            ipv6 =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: addr.octets() }, ipi6_ifindex: 0 };
            ControlMessage::Ipv6PacketInfo(&ipv6)
        }
    };
    sendmsg(socket.as_raw_fd(), &buffers, &[from], MsgFlags::empty(), Some(&to)).map(drop)
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(ipv4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(ipv4.ip().into(), ipv4.port()));
    }
    address.as_sockaddr_in6().map(|ipv6| SocketAddr::new(ipv6.ip().into(), ipv6.port()))
}
