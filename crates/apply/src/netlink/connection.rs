//! One rtnetlink socket: batches of changes with one send, and dumps.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::NetlinkError;

/// The kernel fills at most 32 KiB per datagram of a dump; acknowledgements are small.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Length of `struct nlmsghdr`, which an error message repeats.
const HEADER_BYTES: usize = 16;
/// `NLMSGERR_ATTR_MSG` of linux/netlink.h.
const EXT_ACK_MESSAGE: u16 = 1;

/// How a change treats what is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Must be new.
    Create,
    /// New or instead of what has the same key.
    Replace,
    /// Changes or removes what is there.
    Modify,
}

impl Change {
    fn flags(self) -> u16 {
        match self {
            Change::Create => NLM_F_CREATE | NLM_F_EXCL,
            Change::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Change::Modify => 0,
        }
    }
}

/// One change and its name for people, as "add route 10.244.1.5/32".
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) what: String,
    pub(super) change: Change,
    pub(super) message: RouteNetlinkMessage,
    /// An errno that means "already as wanted".
    pub(super) accept: Option<i32>,
}

impl Request {
    pub(super) fn new(what: impl Into<String>, change: Change, message: RouteNetlinkMessage) -> Self {
        Self { what: what.into(), change, message, accept: None }
    }

    /// Takes `errno` for success.
    pub(super) fn accepting(mut self, errno: i32) -> Self {
        self.accept = Some(errno);
        self
    }
}

/// A socket in the namespace in which it was opened.
pub(super) struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a socket in the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Sends all requests in one datagram and waits for every acknowledgement. The kernel carries out each, also
    /// those behind a refused one.
    ///
    /// # Errors
    /// The first refusal.
    pub(super) fn run(&mut self, requests: Vec<Request>) -> Result<(), NetlinkError> {
        if requests.is_empty() {
            return Ok(());
        }
        let first = self.sequence + 1;
        let mut datagram = Vec::with_capacity(requests.len() * 96);
        let mut expected = Vec::with_capacity(requests.len());
        for request in requests {
            let flags = NLM_F_REQUEST | NLM_F_ACK | request.change.flags();
            self.serialize(request.message, flags, &mut datagram);
            expected.push((request.what, request.accept));
        }
        self.socket.send(&datagram, 0)?;
        let mut failure = None;
        let mut open = expected.len();
        while open > 0 {
            self.receive(|message| {
                let index = message.header.sequence_number.wrapping_sub(first) as usize;
                let (Some((what, accept)), NetlinkPayload::Error(answer)) =
                    (expected.get(index), message.payload)
                else {
                    return;
                };
                open -= 1;
                let errno = answer.code.map_or(0, |code| -code.get());
                if errno != 0 && Some(errno) != *accept && failure.is_none() {
                    failure = Some(NetlinkError::Refused {
                        what: what.clone(),
                        source: io::Error::from_raw_os_error(errno),
                        hint: extended_message(&answer.header),
                    });
                }
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// All answers to one request: a dump, or with `single` the one object it names.
    fn ask(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        single: bool,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut datagram = Vec::with_capacity(64);
        let flags = NLM_F_REQUEST | if single { NLM_F_ACK } else { NLM_F_DUMP };
        self.serialize(message, flags, &mut datagram);
        let sequence = self.sequence;
        self.socket.send(&datagram, 0)?;
        let (mut found, mut done, mut failure) = (Vec::new(), false, None);
        while !done {
            self.receive(|message| {
                if message.header.sequence_number != sequence {
                    return;
                }
                if let NetlinkPayload::InnerMessage(inner) = message.payload {
                    found.push(inner);
                } else if let NetlinkPayload::Error(answer) = message.payload {
                    done = true;
                    failure = answer.code.map(|code| NetlinkError::Refused {
                        what: what.to_owned(),
                        source: io::Error::from_raw_os_error(-code.get()),
                        hint: extended_message(&answer.header),
                    });
                } else if let NetlinkPayload::Done(_) = message.payload {
                    done = true;
                }
            })?;
        }
        failure.map_or(Ok(found), Err)
    }

    /// Everything that matches `message`.
    pub(super) fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.ask(what, message, false)
    }

    /// The one object that `message` names.
    pub(super) fn get(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        Ok(self.ask(what, message, true)?.pop())
    }

    fn serialize(&mut self, message: RouteNetlinkMessage, flags: u16, datagram: &mut Vec<u8>) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut datagram[start..]);
    }

    /// Receives one datagram and hands each message of it to `take`.
    fn receive(
        &mut self,
        mut take: impl FnMut(NetlinkMessage<RouteNetlinkMessage>),
    ) -> Result<(), NetlinkError> {
        let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
        let mut rest = &self.buffer[..length];
        while rest.len() >= HEADER_BYTES {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if size < HEADER_BYTES || size > rest.len() {
                return Err(NetlinkError::Decode(format!(
                    "a message of {size} bytes in {} bytes",
                    rest.len()
                )));
            }
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..size])
                .map_err(|error| NetlinkError::Decode(error.to_string()))?;
            take(message);
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }
}

/// The kernel's own words behind the repeated header of a refused request.
fn extended_message(repeated: &[u8]) -> String {
    let attributes = repeated.get(HEADER_BYTES..).unwrap_or_default();
    NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == EXT_ACK_MESSAGE)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
        .unwrap_or_default()
}
