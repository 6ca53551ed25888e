//! What the stages of one packet tell one another.

use aya_ebpf::programs::TcContext;
use sheetbend_ebpf_abi::{
    Addr, CtEntry, CtKey, HAIRPIN_IPV4, HAIRPIN_IPV6, Hook, MARK_LEARN, MARK_MASK, MARK_OURS,
};

use crate::{maps::SCRATCH, parse};

/// An address as four words in network order: the same bytes as [`Addr`], but aligned, so that it is copied by words.
pub type Ip = [u32; 4];

/// An Ethernet address as it lies in a frame: its first four bytes, and its last two.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub u32, pub u16);

impl Mac {
    /// Six bytes of the ABI.
    #[inline(always)]
    pub const fn new(bytes: &[u8; 6]) -> Self {
        let [a, b, c, d, e, f] = *bytes;
        Self(u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]))
    }

    /// Reads one at `offset`.
    ///
    /// # Safety
    /// `offset + 6` bytes after `data` were checked.
    #[inline(always)]
    pub unsafe fn read(data: *const u8, offset: usize) -> Self {
        // SAFETY: checked by the caller.
        unsafe { Self(parse::read(data, offset), parse::read(data, offset + 4)) }
    }

    /// Writes it at `offset`.
    ///
    /// # Safety
    /// `offset + 6` bytes after `data` were checked.
    #[inline(always)]
    pub unsafe fn write(self, data: *mut u8, offset: usize) {
        // SAFETY: checked by the caller. Fields of a packet may be unaligned; see `parse::read`.
        unsafe {
            data.add(offset).cast::<u32>().write(self.0);
            data.add(offset + 4).cast::<u16>().write(self.1);
        }
    }
}

/// Third word of an IPv4-mapped address, `::ffff:0:0`.
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// Length of the Ethernet header, bytes.
pub const ETHERNET: usize = 14;
/// Where the transport header is without IPv4 options.
pub const TRANSPORT_V4: usize = ETHERNET + 20;
/// Where the transport header is without IPv6 extension headers.
pub const TRANSPORT_V6: usize = ETHERNET + 40;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_ACK: u8 = 16;
/// A flow begins or ends.
pub const SYN_OR_END: u8 = TCP_FIN | TCP_SYN | TCP_RST;

/// TCX verdict: go on to the next hook of the kernel.
pub const PASS: i32 = 0;
/// TCX verdict: drop.
pub const DROP: i32 = 2;

/// IPv4 options or IPv6 extension headers other than a fragment header.
pub const OPTIONS: u32 = 1;
/// First fragment: has the transport header.
pub const FIRST_FRAGMENT: u32 = 2;
/// Later fragment: has no transport header.
pub const LATER_FRAGMENT: u32 = 4;
/// An ICMP error about another packet.
pub const ICMP_ERROR: u32 = 8;
/// Echo request.
pub const ECHO_REQUEST: u32 = 16;
/// Echo request or reply.
pub const ECHO: u32 = 32;
/// The packet goes from the flow's responder to its initiator.
pub const REPLY: u32 = 64;
/// This packet began its flow, or the flow was judged anew.
pub const NEW: u32 = 128;
/// `frontend` holds the Service address that the client used.
pub const SERVICE: u32 = 256;
/// The flow comes from a pod back to itself through a Service.
pub const HAIRPIN: u32 = 512;
/// The node's own stack made the packet.
pub const OWN: u32 = 2048;

/// The flow's initiator is elsewhere and uses a Service of this node.
pub const OUTSIDE: u32 = 1 << 16;
/// The packet is as the client sent it, though `dst` and the ports name the backend: it goes to the backend's node like
/// that. Of a packet that another node passed on: not translated yet; `chosen` is the backend.
pub const DIRECT: u32 = 1 << 17;

/// What a pod's policy said about the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Judgement {
    /// `FLOW_STAGE_*`, 0 = not asked.
    pub stage: u32,
    /// Interface index of the pod.
    pub ifindex: u32,
    /// Policy set.
    pub set: u32,
    /// Class of the peer.
    pub class: u32,
    /// Origin of the rule.
    pub origin: u32,
    /// 1 = it denied, and the pod is in audit.
    pub audited: u32,
}

/// Per-CPU scratch space of the packet under way. Softirqs do not nest on a CPU, so it has one user at a time.
#[repr(C)]
pub struct Packet {
    /// An entry on its way into a map.
    pub entry: CtEntry,
    /// The flow's key, once made.
    pub key: CtKey,
    /// Source as it stands in the packet now.
    pub src: Ip,
    /// Destination as it stands in the packet now.
    pub dst: Ip,
    /// Host order; ICMP echo: identifier.
    pub src_port: u16,
    /// Host order; ICMP echo: identifier.
    pub dst_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Flags of the TCP header; of SCTP what its first chunk means in these words; else 0.
    pub tcp_flags: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// 1 = IPv6.
    pub v6: u8,
    /// Type of an ICMP message.
    pub icmp_type: u8,
    /// Code of an ICMP message.
    pub icmp_code: u8,
    /// Offset of the transport header.
    pub transport: u16,
    /// Offset behind the headers of TCP, UDP and SCTP.
    pub payload: u16,
    pub pad: u16,
    /// Length with the link header of the longest packet that this one will be segmented into: itself without that.
    pub largest: u32,
    /// Constants of this module.
    pub flags: u32,
    /// Length with the link header.
    pub len: u32,
    /// Network number.
    pub network: u32,
    /// [`Hook`].
    pub hook: u32,
    /// Interface index of the sending pod, or 0.
    pub from: u32,
    /// Interface index of the receiving pod, or 0.
    pub to: u32,
    /// Identification of the fragmented datagram.
    pub fragment_id: u32,
    /// Backend number of a Service flow, or 0.
    pub backend: u32,
    /// With [`SERVICE`]: what the client used.
    pub frontend: Ip,
    /// With [`SERVICE`]: host order.
    pub frontend_port: u16,
    /// With [`SERVICE`] or [`REPLY`]: the port that the client uses, host order.
    pub client_port: u16,
    /// What the policies said: of the sending and of the receiving pod.
    pub judged: [Judgement; 2],
    /// Which of the two denied, else 2.
    pub denied: u32,
    /// Outer source of a tunnelled packet.
    pub outer: Ip,
    /// The Ethernet address that the packet's sender was found to have as another node's link; first part 0 = none.
    pub link: Mac,
    /// Of a packet that another node passed on, and of an ICMP error about an answer: the backend's address.
    pub chosen: Ip,
    /// The same: its port.
    pub chosen_port: u16,
    pub pad2: u16,
    /// Space for a header that does not lie at a fixed place.
    pub header: [u32; 15],
}

impl Packet {
    #[inline(always)]
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.v6 != 0
    }

    /// TCP, UDP and SCTP have ports.
    #[inline(always)]
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | SCTP)
    }
}

/// The scratch space, ready for a packet that has just arrived at `hook`.
#[inline(always)]
pub fn arrived(ctx: &TcContext, hook: Hook) -> Option<&'static mut Packet> {
    let packet = current()?;
    packet.hook = hook as u32;
    packet.flags = 0;
    packet.len = ctx.len();
    packet.largest = packet.len;
    packet.network = 0;
    packet.from = 0;
    packet.to = 0;
    packet.src_port = 0;
    packet.dst_port = 0;
    packet.tcp_flags = 0;
    packet.icmp_type = 0;
    packet.icmp_code = 0;
    packet.backend = 0;
    packet.link = Mac(0, 0);
    packet.payload = 0;
    packet.denied = 2;
    packet.judged[0].stage = 0;
    packet.judged[1].stage = 0;
    Some(packet)
}

/// The scratch space as the calling stage left it.
#[inline(always)]
pub fn current() -> Option<&'static mut Packet> {
    // SAFETY: a per-CPU value that only the packet under way on this CPU uses; the reference does not outlive the
    // program.
    SCRATCH.get_ptr_mut(0).map(|packet| unsafe { &mut *packet })
}

/// Reads an address of an ABI struct, all of which keep addresses on 4-byte boundaries.
#[inline(always)]
pub fn words(addr: &Addr) -> Ip {
    // SAFETY: same size, and aligned as said above.
    unsafe { core::ptr::from_ref(addr).cast::<Ip>().read() }
}

/// Writes an address of an ABI struct, all of which keep addresses on 4-byte boundaries.
#[inline(always)]
pub fn put(addr: &mut Addr, ip: &Ip) {
    // SAFETY: same size, and aligned as said above.
    unsafe { core::ptr::from_mut(addr).cast::<Ip>().write(*ip) }
}

const fn constant(addr: Addr) -> Ip {
    let mut words = [0; 4];
    let mut index = 0;
    while index < 4 {
        let at = index * 4;
        words[index] = u32::from_ne_bytes([addr[at], addr[at + 1], addr[at + 2], addr[at + 3]]);
        index += 1;
    }
    words
}

/// [`HAIRPIN_IPV4`] in words.
pub const HAIRPIN_V4: Ip = constant(HAIRPIN_IPV4);
/// [`HAIRPIN_IPV6`] in words.
pub const HAIRPIN_V6: Ip = constant(HAIRPIN_IPV6);

#[inline(always)]
pub fn same(a: &Ip, b: &Ip) -> bool {
    a[3] == b[3] && a[2] == b[2] && a[1] == b[1] && a[0] == b[0]
}

/// The hairpin address of a family, by words: a choice between two constants would become a map of constants.
#[inline(always)]
pub fn hairpin(v6: bool) -> Ip {
    let mask = if v6 { u32::MAX } else { 0 };
    let word = |index: usize| (HAIRPIN_V6[index] & mask) | (HAIRPIN_V4[index] & !mask);
    [word(0), word(1), word(2), word(3)]
}

#[inline(always)]
pub fn is_hairpin(ip: &Ip) -> bool {
    same(ip, &HAIRPIN_V4) || same(ip, &HAIRPIN_V6)
}

/// Whether we made the packet or have judged it: every later hook lets it pass.
#[inline(always)]
pub fn is_ours(ctx: &TcContext) -> bool {
    is_settled(ctx) || mark(ctx) == MARK_LEARN
}

/// The same, and nothing is to be learnt from it where it leaves.
#[inline(always)]
pub fn is_settled(ctx: &TcContext) -> bool {
    mark(ctx) == MARK_OURS
}

/// Our bits of the mark.
#[inline(always)]
pub fn mark(ctx: &TcContext) -> u32 {
    // SAFETY: the context is valid for the program's whole run.
    unsafe { (*ctx.skb.skb).mark & MARK_MASK }
}

/// Sets our bits of the mark and leaves the others.
#[inline(always)]
pub fn set_mark(ctx: &TcContext, mark: u32) {
    // SAFETY: as above; `mark` is writable for this program type.
    unsafe { (*ctx.skb.skb).mark = ((*ctx.skb.skb).mark & !MARK_MASK) | mark }
}
