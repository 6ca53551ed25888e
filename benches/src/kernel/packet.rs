//! TCP packets without payload, as bytes.

use std::net::{IpAddr, SocketAddr};

/// TCP flag SYN (RFC 9293 §3.1).
pub(crate) const SYN: u8 = 0x02;
/// SYN and ACK.
pub(crate) const SYN_ACK: u8 = 0x12;
/// ACK.
pub(crate) const ACK: u8 = 0x10;

const ETHERNET: usize = 14;
const TCP: usize = 20;

/// A segment from `source` to `destination` (one family) between these Ethernet addresses.
pub(crate) fn tcp(macs: [[u8; 6]; 2], source: SocketAddr, destination: SocketAddr, flags: u8) -> Vec<u8> {
    let [from, to] = macs;
    let mut packet = Vec::with_capacity(ETHERNET + 40 + TCP);
    packet.extend(to);
    packet.extend(from);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x08, 0x00]);
            let mut header = [0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // RFC 791 §3.1
            header[12..16].copy_from_slice(&source.octets());
            header[16..].copy_from_slice(&destination.octets());
            let sum = !ones_complement(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(header);
        }
        (source, destination) => {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, TCP as u8, 6, 64]); // RFC 8200 §3
            packet.extend(octets(source));
            packet.extend(octets(destination));
        }
    }
    packet.extend(segment(source, destination, flags));
    packet
}

fn segment(source: SocketAddr, destination: SocketAddr, flags: u8) -> [u8; TCP] {
    let mut segment = [0; TCP];
    segment[..2].copy_from_slice(&source.port().to_be_bytes());
    segment[2..4].copy_from_slice(&destination.port().to_be_bytes());
    segment[7] = 1; // sequence number
    segment[12] = 5 << 4; // data offset
    segment[13] = flags;
    segment[14] = 0xff; // window
    let (source, destination) = (octets(source.ip()), octets(destination.ip()));
    let sum = !ones_complement(&[&source, &destination, &[0, 6, 0, TCP as u8], &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Where a packet made by [`tcp`] goes now, whatever a program has rewritten.
pub(crate) fn tcp_destination(packet: &[u8]) -> Option<SocketAddr> {
    let (address, port): (IpAddr, _) = match packet.get(12..14)? {
        [0x08, 0x00] => (<[u8; 4]>::try_from(packet.get(30..34)?).ok()?.into(), packet.get(36..38)?),
        _ => (<[u8; 16]>::try_from(packet.get(38..54)?).ok()?.into(), packet.get(56..58)?),
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(port.try_into().ok()?)))
}

/// RFC 1071 §1, over parts of even length.
fn ones_complement(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::{ETHERNET, SYN, ones_complement, tcp, tcp_destination};

    #[test]
    fn checksums_cover_header_and_segment() {
        let ends = (([10, 0, 0, 1], 1000).into(), ([10, 0, 0, 2], 80).into());
        let packet = tcp([[1; 6], [2; 6]], ends.0, ends.1, SYN);
        assert_eq!(packet.len(), 54);
        assert_eq!(tcp_destination(&packet), Some(ends.1));
        assert_eq!(ones_complement(&[&packet[ETHERNET..ETHERNET + 20]]), 0xffff);
        let pseudo = [&packet[26..34], &[0, 6, 0, 20], &packet[34..]];
        assert_eq!(ones_complement(&pseudo), 0xffff);
    }

    #[test]
    fn ipv6_has_its_own_header() {
        let ends = (([0xfd, 0, 0, 0, 0, 0, 0, 1], 1000).into(), ([0xfd, 0, 0, 0, 0, 0, 0, 2], 80).into());
        let packet = tcp([[1; 6], [2; 6]], ends.0, ends.1, SYN);
        assert_eq!(packet.len(), 74);
        assert_eq!(tcp_destination(&packet), Some(ends.1));
        let pseudo = [&packet[22..54], &[0, 6, 0, 20], &packet[54..]];
        assert_eq!(ones_complement(&pseudo), 0xffff);
    }
}
