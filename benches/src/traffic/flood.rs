//! SYNs under addresses that nobody has.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use std::os::fd::AsRawFd;

use crate::kernel::flows::Xorshift;
use crate::netns::Netns;

/// 198.18.0.0/15, for benchmarks (RFC 2544).
const SOURCES: u32 = 0xc612_0000;
const SOURCE_BITS: u32 = 17;
const IPV4: usize = 20;
const TCP: usize = 20;

/// Sends SYNs to `to` from `sender` for `duration`, as many as go; how many that was.
pub(crate) fn syns(sender: &Netns, to: SocketAddrV4, duration: Duration) -> anyhow::Result<u64> {
    sender.enter(|| {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
        let target = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
        let (mut random, mut sent, start) = (Xorshift(17), 0u64, Instant::now());
        while start.elapsed() < duration {
            let source = Ipv4Addr::from_bits(SOURCES | random.below(1 << SOURCE_BITS));
            let port = 1_024 + random.below(60_000) as u16;
            let packet = syn(SocketAddrV4::new(source, port), to, random.below(u32::MAX));
            // A full queue drops it: so does a network.
            sent += u64::from(sendto(raw.as_raw_fd(), &packet, &target, MsgFlags::empty()).is_ok());
        }
        Ok(sent)
    })?
}

/// An IPv4 packet; the kernel fills in the IPv4 checksum and the identification.
fn syn(from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> [u8; IPV4 + TCP] {
    let mut packet = [0; IPV4 + TCP];
    let (ip, tcp) = packet.split_at_mut(IPV4);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&((IPV4 + TCP) as u16).to_be_bytes());
    ip[8] = 64;
    ip[9] = 6;
    ip[12..16].copy_from_slice(&from.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    tcp[..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[12] = (TCP as u8 / 4) << 4;
    tcp[13] = 2; // SYN
    tcp[14..16].copy_from_slice(&64_240u16.to_be_bytes());
    // The pseudo-header: addresses, protocol, length (RFC 9293 §3.1).
    let pseudo = sum(&ip[12..20]) + 6 + TCP as u32;
    let checksum = fold(pseudo + sum(tcp));
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_has_a_right_checksum() {
        let from = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 1_024);
        let packet = syn(from, SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80), 7);
        let pseudo = sum(&packet[12..20]) + 6 + TCP as u32;
        assert_eq!(fold(pseudo + sum(&packet[IPV4..])), 0);
    }
}
