//! Frames by hand, and checksums from scratch: nothing here shares code with the programs.

use std::net::IpAddr;

/// TCP flags.
pub const FIN: u8 = 1;
/// TCP flags.
pub const SYN: u8 = 2;
/// TCP flags.
pub const RST: u8 = 4;
/// TCP flags.
pub const ACK: u8 = 16;

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Ethernet destination.
    pub to: [u8; 6],
    /// Ethernet source.
    pub from: [u8; 6],
    /// IP source.
    pub src: IpAddr,
    /// IP destination.
    pub dst: IpAddr,
    /// Hop limit.
    pub ttl: u8,
    /// What it carries.
    pub body: Body,
    /// Fragment: (identification, offset in bytes, more follow).
    pub fragment: Option<(u32, u16, bool)>,
    /// IPv4 options (4 bytes of no-operation).
    pub options: bool,
}

/// What a packet carries. `Raw` is (protocol, bytes) as they are.
#[derive(Clone, Debug)]
pub enum Body {
    /// Ports, flags, payload.
    Tcp(u16, u16, u8, Vec<u8>),
    /// Ports, payload.
    Udp(u16, u16, Vec<u8>),
    /// Ports, type of the first chunk, and what the chunk carries (RFC 9260 §3).
    Sctp(u16, u16, u8, Vec<u8>),
    /// Echo request? and identifier.
    Echo(bool, u16),
    /// An ICMP error (type, code) about a packet.
    Error(u8, u8, Vec<u8>),
    /// Protocol and bytes.
    Raw(u8, Vec<u8>),
}

impl Frame {
    /// A frame with a hop limit of 64.
    pub fn new(from: [u8; 6], to: [u8; 6], src: IpAddr, dst: IpAddr, body: Body) -> Self {
        Self { to, from, src, dst, ttl: 64, body, fragment: None, options: false }
    }

    /// Its bytes, with right checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = [self.to, self.from].concat();
        out.extend(if self.src.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        out.extend(self.packet());
        out
    }

    /// The IP packet alone.
    pub fn packet(&self) -> Vec<u8> {
        let (protocol, body) = self.body();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = if self.options { 24 } else { 20 };
                let mut head = vec![0x40 | (length / 4) as u8, 0];
                head.extend(((length + body.len()) as u16).to_be_bytes());
                let (id, offset, more) = self.fragment.unwrap_or((0, 0, false));
                head.extend((id as u16).to_be_bytes());
                head.extend(((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
                head.extend([self.ttl, protocol, 0, 0]);
                head.extend(src.octets());
                head.extend(dst.octets());
                if self.options {
                    head.extend([1; 4]);
                }
                let sum = !sum(&head);
                head[10..12].copy_from_slice(&sum.to_be_bytes());
                head.extend(body);
                head
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let extension = self.fragment.map(|(id, offset, more)| {
                    let mut extension = vec![protocol, 0];
                    extension.extend((offset | u16::from(more)).to_be_bytes());
                    extension.extend(id.to_be_bytes());
                    extension
                });
                let next = if extension.is_some() { 44 } else { protocol };
                let extension = extension.unwrap_or_default();
                let mut head = vec![0x60, 0, 0, 0];
                head.extend(((extension.len() + body.len()) as u16).to_be_bytes());
                head.extend([next, self.ttl]);
                head.extend(src.octets());
                head.extend(dst.octets());
                head.extend(extension);
                head.extend(body);
                head
            }
            _ => panic!("both addresses of one family"),
        }
    }

    fn body(&self) -> (u8, Vec<u8>) {
        let v4 = self.src.is_ipv4();
        let icmp = if v4 { 1 } else { 58 };
        let (protocol, mut bytes, checksum) = match &self.body {
            Body::Tcp(from, to, flags, data) => {
                let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
                bytes.extend([0, 0, 0, 7, 0, 0, 0, 9, 0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(data);
                (6, bytes, 16)
            }
            Body::Udp(from, to, data) => {
                let length = (8 + data.len()) as u16;
                let mut bytes = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
                bytes.extend(data);
                (17, bytes, 6)
            }
            Body::Sctp(from, to, kind, data) => {
                let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, *kind, 0]);
                bytes.extend(((4 + data.len()) as u16).to_be_bytes());
                bytes.extend(data);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                let sum = sctp_checksum(&bytes);
                bytes[8..12].copy_from_slice(&sum);
                return (132, bytes);
            }
            Body::Echo(request, id) => {
                let kind = match (v4, request) {
                    (true, true) => 8,
                    (true, false) => 0,
                    (false, true) => 128,
                    (false, false) => 129,
                };
                let mut bytes = vec![kind, 0, 0, 0];
                bytes.extend(id.to_be_bytes());
                bytes.extend([0, 1, 1, 2, 3, 4]);
                (icmp, bytes, 2)
            }
            Body::Error(kind, code, about) => {
                let mut bytes = vec![*kind, *code, 0, 0, 0, 0, 0, 0];
                bytes.extend(about);
                (icmp, bytes, 2)
            }
            Body::Raw(protocol, bytes) => return (*protocol, bytes.clone()),
        };
        let sum = !transport_sum(self.src, self.dst, protocol, &bytes);
        bytes[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
        (protocol, bytes)
    }
}

/// An IPv4 frame without options that routers may not fragment; an IPv6 one as it is.
pub fn do_not_fragment(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[14] >> 4 == 4 {
        frame[20] |= 0x40;
        frame[24..26].fill(0);
        let sum = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// Ones' complement sum of 16-bit words (RFC 1071).
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total: u64 = 0;
    for pair in bytes.chunks(2) {
        total += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn transport_sum(src: IpAddr, dst: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let mut all = Vec::new();
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) if protocol == 1 => {}
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            all.extend(src.octets());
            all.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            all.extend(src.octets());
            all.extend(dst.octets());
        }
        _ => panic!("both addresses of one family"),
    }
    if !(src.is_ipv4() && protocol == 1) {
        all.extend((bytes.len() as u32).to_be_bytes());
        all.extend([0, 0, 0, protocol]);
    }
    all.extend(bytes);
    sum(&all)
}

/// CRC32c (RFC 9260, appendix A): reflected polynomial 0x1edc6f41, bit by bit.
pub fn crc32c(bytes: impl IntoIterator<Item = u8>) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// The checksum of an SCTP packet as it lies at bytes 8 to 12: over all of it, with zeros in its own place (RFC 9260 §6.8).
fn sctp_checksum(packet: &[u8]) -> [u8; 4] {
    let bytes = packet.iter().enumerate();
    crc32c(bytes.map(|(at, byte)| if (8..12).contains(&at) { 0 } else { *byte })).to_le_bytes()
}

/// What stands in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Ethernet destination.
    pub to: [u8; 6],
    /// Ethernet source.
    pub from: [u8; 6],
    /// IP source.
    pub src: IpAddr,
    /// IP destination.
    pub dst: IpAddr,
    /// Hop limit.
    pub ttl: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source port or ICMP identifier.
    pub src_port: u16,
    /// Destination port; 0 for ICMP.
    pub dst_port: u16,
    /// TCP flags.
    pub flags: u8,
    /// From the transport header on.
    pub transport: Vec<u8>,
}

/// Reads a frame and checks every checksum in it.
///
/// # Errors
/// The checksum that is wrong, and its frame.
pub fn read(frame: &[u8]) -> anyhow::Result<Seen> {
    let seen = read_packet(&frame[14..])?;
    let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]);
    Ok(Seen { to: mac(0)?, from: mac(6)?, ..seen })
}

/// The same for an IP packet without its Ethernet header.
///
/// # Errors
/// The checksum that is wrong.
pub fn read_packet(packet: &[u8]) -> anyhow::Result<Seen> {
    let (src, dst, ttl, protocol, transport) = split(packet)?;
    let sound = transport_sum(src, dst, protocol, &transport) == 0xffff;
    anyhow::ensure!(sound || !matches!(protocol, 1 | 6 | 17 | 58), "wrong transport checksum: {packet:02x?}");
    let sound = protocol != 132 || transport[8..12] == sctp_checksum(&transport);
    anyhow::ensure!(sound, "wrong CRC32c: {packet:02x?}");
    Ok(ports(Seen {
        to: [0; 6],
        from: [0; 6],
        src,
        dst,
        ttl,
        protocol,
        src_port: 0,
        dst_port: 0,
        flags: 0,
        transport,
    }))
}

/// What an ICMP error quotes; its transport checksum may be cut off, so only the IP header's is checked.
///
/// # Errors
/// The checksum that is wrong.
pub fn read_quoted(packet: &[u8]) -> anyhow::Result<Seen> {
    let (src, dst, ttl, protocol, transport) = split(packet)?;
    Ok(ports(Seen {
        to: [0; 6],
        from: [0; 6],
        src,
        dst,
        ttl,
        protocol,
        src_port: 0,
        dst_port: 0,
        flags: 0,
        transport,
    }))
}

fn ports(mut seen: Seen) -> Seen {
    let word = |at: usize| u16::from_be_bytes([seen.transport[at], seen.transport[at + 1]]);
    match seen.protocol {
        6 | 17 | 132 => (seen.src_port, seen.dst_port) = (word(0), word(2)),
        1 | 58 => seen.src_port = word(4),
        _ => {}
    }
    if seen.protocol == 6 && seen.transport.len() > 13 {
        seen.flags = seen.transport[13];
    }
    seen
}

fn split(packet: &[u8]) -> anyhow::Result<(IpAddr, IpAddr, u8, u8, Vec<u8>)> {
    if packet[0] >> 4 == 4 {
        let length = usize::from(packet[0] & 15) * 4;
        anyhow::ensure!(sum(&packet[..length]) == 0xffff, "wrong IPv4 header checksum: {packet:02x?}");
        let v4 = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).map(IpAddr::from);
        return Ok((v4(12)?, v4(16)?, packet[8], packet[9], packet[length..].to_vec()));
    }
    let v6 = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).map(IpAddr::from);
    Ok((v6(8)?, v6(24)?, packet[7], packet[6], packet[40..].to_vec()))
}
