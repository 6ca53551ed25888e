//! ARP (RFC 826) and neighbour discovery (RFC 4861) on Ethernet: questions in, answers out. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sheetbend_model::types::Mac;

const BROADCAST: Mac = Mac([0xff; 6]);
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Neighbour discovery that crossed a router is none (RFC 4861, section 3.1).
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Flags of an advertisement.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Who asks for which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Arp {
        target: Ipv4Addr,
        mac: Mac,
        addr: Ipv4Addr,
    },
    /// `addr` is unspecified when somebody looks for a duplicate.
    Solicitation {
        target: Ipv6Addr,
        mac: Mac,
        addr: Ipv6Addr,
    },
}

impl Question {
    /// Reads an Ethernet frame; `None` where it is no question, or one to another station than `own`.
    pub(super) fn read(frame: &[u8], own: Mac) -> Option<Self> {
        let to = Mac(array(frame, 0)?);
        let is_group = to.0[0] & 1 == 1;
        if to != own && !is_group {
            return None;
        }
        match u16::from_be_bytes(array(frame, 12)?) {
            ETHERTYPE_ARP => Self::arp(frame.get(ETHERNET..)?),
            ETHERTYPE_IPV6 => Self::solicitation(frame.get(ETHERNET..)?, Mac(array(frame, 6)?)),
            _ => None,
        }
    }

    fn arp(packet: &[u8]) -> Option<Self> {
        // Ethernet, IPv4, their lengths, and the operation: a request.
        if packet.get(..8)? != [0, 1, 8, 0, 6, 4, 0, 1] {
            return None;
        }
        let target = Ipv4Addr::from(array::<4>(packet, 24)?);
        let addr = Ipv4Addr::from(array::<4>(packet, 14)?);
        // One that announces itself asks nobody.
        (addr != target).then_some(Self::Arp { target, mac: Mac(array(packet, 8)?), addr })
    }

    /// Checked as RFC 4861 section 7.1.1 asks.
    fn solicitation(packet: &[u8], mac: Mac) -> Option<Self> {
        let length = usize::from(u16::from_be_bytes(array(packet, 4)?));
        let message = packet.get(IPV6..IPV6 + length)?;
        let (source, to): (Ipv6Addr, Ipv6Addr) =
            (array::<16>(packet, 8)?.into(), array::<16>(packet, 24)?.into());
        let valid = packet.get(6..8)? == [ICMPV6, HOP_LIMIT]
            && message.get(..2)? == [SOLICITATION, 0]
            && length >= 24
            && checksum(source, to, message) == 0;
        let target = Ipv6Addr::from(array::<16>(message, 8)?);
        (valid && !target.is_multicast()).then_some(Self::Solicitation { target, mac, addr: source })
    }

    /// The address that is asked for.
    pub(super) fn target(&self) -> IpAddr {
        match self {
            Question::Arp { target, .. } => (*target).into(),
            Question::Solicitation { target, .. } => (*target).into(),
        }
    }

    /// The frame that says that it is at `own`.
    pub(super) fn answer(&self, own: Mac) -> Vec<u8> {
        match *self {
            Question::Arp { target, mac, addr } => arp(mac, 2, (own, target), (mac, addr)),
            // Who has no address yet hears it as all do (RFC 4861, section 7.2.4).
            Question::Solicitation { target, addr: Ipv6Addr::UNSPECIFIED, .. } => {
                advertisement(own, (target, target), (group_mac(ALL_NODES), ALL_NODES), OVERRIDE)
            }
            Question::Solicitation { target, mac, addr } => {
                advertisement(own, (target, target), (mac, addr), SOLICITED | OVERRIDE)
            }
        }
    }
}

/// Gratuitous ARP, as a request and as a reply.
pub(super) fn gratuitous(own: Mac, addr: Ipv4Addr) -> [Vec<u8>; 2] {
    [arp(BROADCAST, 1, (own, addr), (Mac::default(), addr)), arp(BROADCAST, 2, (own, addr), (own, addr))]
}

/// A neighbour advertisement to all, from the interface's address `source`.
pub(super) fn unasked_advertisement(own: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    advertisement(own, (source, target), (group_mac(ALL_NODES), ALL_NODES), OVERRIDE)
}

/// The group in which solicitations for `addr` arrive (RFC 4291, section 2.7.1).
pub(super) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// RFC 2464, section 7.
fn group_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

fn arp(to: Mac, operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(to, sender.0, ETHERTYPE_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    for (mac, addr) in [sender, target] {
        frame.extend(mac.0);
        frame.extend(addr.octets());
    }
    frame
}

fn advertisement(
    own: Mac,
    (source, target): (Ipv6Addr, Ipv6Addr),
    to: (Mac, Ipv6Addr),
    flags: u8,
) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    // Target link-layer address, in units of eight bytes.
    message.extend([2, 1]);
    message.extend(own.0);
    let sum = checksum(source, to.1, &message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let mut frame = ethernet(to.0, own, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(message.len()).unwrap_or_default().to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(to.1.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + IPV6 + 32);
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// RFC 4443 section 2.3; 0 over a message whose own checksum is right.
fn checksum(source: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let head = [&source.octets()[..], &to.octets(), &length.to_be_bytes(), &[0, 0, 0, ICMPV6]].concat();
    let words = head
        .chunks(2)
        .chain(message.chunks(2))
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum = words.fold(0_u64, |sum, word| sum + u64::from(word));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}
