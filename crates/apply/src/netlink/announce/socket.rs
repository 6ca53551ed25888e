//! Sockets that see ARP and neighbour solicitations of one interface, and nothing else.
#![allow(unsafe_code, reason = "packet sockets have no safe interface")]

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `ETH_P_ARP` and `ETH_P_IPV6` (linux/if_ether.h).
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

/// Offsets in a frame: next header of IPv6, type of ICMPv6.
const NEXT_HEADER: u32 = 14 + 6;
const ICMP_TYPE: u32 = 14 + 40;

/// A packet socket (packet(7)) bound to one interface and protocol.
#[derive(Debug)]
pub(super) struct Packets {
    fd: OwnedFd,
}

impl Packets {
    pub(super) fn arp(ifindex: u32) -> io::Result<Self> {
        let socket = Self::unbound()?;
        socket.bind(ifindex, ETH_P_ARP)?;
        Ok(socket)
    }

    /// Sees neighbour solicitations only: the kernel filters, so that other IPv6 traffic costs no copy.
    pub(super) fn solicitations(ifindex: u32) -> io::Result<Self> {
        let socket = Self::unbound()?;
        socket.filter()?;
        socket.bind(ifindex, ETH_P_IPV6)?;
        Ok(socket)
    }

    /// Of no protocol yet: nothing arrives before it is bound and filtered.
    fn unbound() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave this descriptor, and nobody else has it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    fn bind(&self, ifindex: u32, protocol: u16) -> io::Result<()> {
        // SAFETY: all bytes zero is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer is to a sockaddr_ll of that length, which outlives the call.
        let result = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), length) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Classic BPF (linux/filter.h): IPv6's next header is ICMPv6 and its type 135.
    fn filter(&self) -> io::Result<()> {
        let load = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
        let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        let verdict = (libc::BPF_RET | libc::BPF_K) as u16;
        let step = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
        let mut steps = [
            step(load, 0, NEXT_HEADER),
            step(equal, 3, 58),
            step(load, 0, ICMP_TYPE),
            step(equal, 1, 135),
            step(verdict, 0, u32::MAX),
            step(verdict, 0, 0),
        ];
        let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        // SAFETY: the kernel copies the program, whose steps outlive the call.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                (&raw const program).cast(),
                size_of::<libc::sock_fprog>() as libc::socklen_t,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends a whole frame.
    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are of one slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The length of the next frame, cut to `buffer`; `None` when none waits.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: the pointer and length are of one slice, which nobody else uses.
            let got = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if let Ok(length) = usize::try_from(got) {
                return Ok(Some(length));
            }
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                return Ok(None);
            }
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Multicast groups that this node is in: switches send it their traffic (MLD, RFC 3810), its device takes it in. Left
/// with the socket.
#[derive(Debug)]
pub(super) struct Groups {
    socket: UdpSocket,
    ifindex: u32,
    joined: BTreeSet<Ipv6Addr>,
}

impl Groups {
    pub(super) fn open(ifindex: u32) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        Ok(Self { socket, ifindex, joined: BTreeSet::new() })
    }

    /// Is in `wanted` and no others; the first error after all were tried.
    pub(super) fn set(&mut self, wanted: BTreeSet<Ipv6Addr>) -> io::Result<()> {
        let mut result = Ok(());
        for group in self.joined.difference(&wanted) {
            // An interface that is gone has left by itself.
            let _ = self.socket.leave_multicast_v6(group, self.ifindex);
        }
        self.joined.retain(|group| wanted.contains(group));
        for group in wanted {
            if self.joined.contains(&group) {
                continue;
            }
            match self.socket.join_multicast_v6(&group, self.ifindex) {
                Ok(()) => drop(self.joined.insert(group)),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }
}
