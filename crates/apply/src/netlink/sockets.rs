//! Ends sockets of processes (`sock_diag(7)`): one that is connected to a backend which is gone would send to nobody, or
//! to whoever gets the address next, for as long as its process lives.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_UDP, SOCK_DESTROY};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};

use super::NetlinkError;

/// The kernel fills at most 32 KiB per datagram of a dump.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Length of `struct nlmsghdr`; its type is at [`TYPE`].
const HEADER_BYTES: usize = 16;
const TYPE: std::ops::Range<usize> = 4..6;

/// Ends the connected UDP sockets with these cookies in the network namespace `netns`, or in the caller's own: what their
/// processes call on them fails with `ECONNABORTED` (`udp_abort` of Linux). Returns how many there were.
///
/// # Errors
/// The namespace cannot be entered, or the kernel cannot be asked (`CONFIG_INET_DIAG_DESTROY`).
pub fn end_udp_sockets(netns: Option<&Path>, cookies: &BTreeSet<u64>) -> Result<usize, NetlinkError> {
    let Some(path) = netns else { return Diag::open()?.end(cookies) };
    let error = |source| NetlinkError::Namespace { path: path.to_owned(), source };
    let file = File::open(path).map_err(error)?;
    // A thread of its own that ends in there, so that none of the caller's is left in a pod's namespace.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| error(errno.into()))?;
            Diag::open()?.end(cookies)
        });
        inside.join().unwrap_or_else(|_| Err(error(std::io::Error::other("the thread that enters it died"))))
    })
}

struct Diag {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Diag {
    fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, buffer: vec![0; RECEIVE_BYTES] })
    }

    fn end(&mut self, cookies: &BTreeSet<u64>) -> Result<usize, NetlinkError> {
        let mut ended = 0;
        for family in [AF_INET, AF_INET6] {
            let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
            for id in self.ask(family, any, NLM_F_DUMP)? {
                if cookies.contains(&u64::from_ne_bytes(id.cookie)) {
                    self.ask(family, id, NLM_F_ACK)?;
                    ended += 1;
                }
            }
        }
        Ok(ended)
    }

    /// Lists the family's UDP sockets, or with [`NLM_F_ACK`] ends the one that is named.
    fn ask(&mut self, family: u8, socket_id: SocketId, flags: u16) -> Result<Vec<SocketId>, NetlinkError> {
        let request = InetRequest {
            family,
            protocol: IPPROTO_UDP,
            extensions: ExtensionFlags::empty(),
            // One that is not connected asks for a backend with each datagram.
            states: StateFlags::ESTABLISHED,
            socket_id,
        };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let payload = NetlinkPayload::from(SockDiagMessage::InetRequest(request));
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut datagram = vec![0; message.buffer_len()];
        message.serialize(&mut datagram);
        if flags == NLM_F_ACK {
            // The library knows the type for asking only; the body is the same.
            datagram[TYPE].copy_from_slice(&SOCK_DESTROY.to_ne_bytes());
        }
        self.socket.send(&datagram, 0)?;
        let mut found = Vec::new();
        while !self.receive(&mut found)? {}
        Ok(found)
    }

    /// Takes one datagram in; returns whether it was the last.
    fn receive(&mut self, found: &mut Vec<SocketId>) -> Result<bool, NetlinkError> {
        let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
        let mut rest = &self.buffer[..length];
        while rest.len() >= HEADER_BYTES {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| NetlinkError::Decode(error.to_string()))?;
            let size = (message.header.length as usize).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(response.header.socket_id);
                }
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(answer) => {
                    let errno = answer.code.map_or(0, |code| -code.get());
                    // Another ended it first.
                    if errno == 0 || errno == libc::ENOENT {
                        return Ok(true);
                    }
                    return Err(NetlinkError::Refused {
                        what: "list or end sockets".to_owned(),
                        source: std::io::Error::from_raw_os_error(errno),
                        hint: "the kernel needs CONFIG_INET_DIAG_DESTROY".to_owned(),
                    });
                }
                // A dump of sockets has nothing else in it.
                NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | NetlinkPayload::InnerMessage(_) | _ => {}
            }
            rest = &rest[size.min(rest.len())..];
        }
        Ok(false)
    }
}
