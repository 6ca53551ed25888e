//! Transport protocols and ports.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// A transport protocol that Services and policies can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// All protocols, in the order in which tables list them.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        })
    }
}

/// A port, 1..=65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port(NonZeroU16);

/// Why a number is no port.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no port; ports are 1 to 65535")]
pub struct PortError(pub i64);

impl Port {
    /// `number` as a port.
    pub const fn new(number: u16) -> Result<Self, PortError> {
        match NonZeroU16::new(number) {
            Some(port) => Ok(Self(port)),
            None => Err(PortError(0)),
        }
    }

    /// The number, 1..=65535.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl TryFrom<i32> for Port {
    type Error = PortError;

    fn try_from(number: i32) -> Result<Self, PortError> {
        let small = u16::try_from(number).map_err(|_| PortError(number.into()))?;
        Self::new(small)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An inclusive range of ports, first ≤ last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    first: Port,
    last: Port,
}

impl PortRange {
    /// `first..=last`; `None` when `last < first`.
    pub fn new(first: Port, last: Port) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Just `port`.
    pub fn single(port: Port) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest port.
    pub fn first(self) -> Port {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> Port {
        self.last
    }

    /// Whether `port` lies in the range.
    pub fn contains(self, port: Port) -> bool {
        self.first <= port && port <= self.last
    }

    /// The fewest prefixes that cover exactly this range: at most 30, in ascending order.
    pub fn prefixes(self) -> Vec<PortPrefix> {
        let mut prefixes = Vec::new();
        let (mut low, high) = (u32::from(self.first.get()), u32::from(self.last.get()));
        while low <= high {
            let aligned = low.trailing_zeros().min(16);
            let fits = (high - low + 1).ilog2();
            let size = aligned.min(fits);
            // `low` is at most 65535 and `size` at most 15 here, since port 0 is in no range.
            prefixes.push(PortPrefix { value: low as u16, len: 16 - size as u8 });
            low += 1 << size;
        }
        prefixes
    }
}

/// A power-of-two block of ports, as CIDR is for addresses: `value` with its lowest `16 - len` bits clear.
/// `len` is 0..=16; a `len` of 0 covers every port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortPrefix {
    /// First port of the block.
    pub value: u16,
    /// Number of leading bits that must match, 0..=16.
    pub len: u8,
}

impl PortPrefix {
    /// Every port.
    pub const ALL: PortPrefix = PortPrefix { value: 0, len: 0 };

    /// Whether `port` lies in the block.
    pub fn contains(self, port: u16) -> bool {
        self.len == 0 || (self.value ^ port) >> (16 - self.len) == 0
    }
}

impl fmt::Display for PortPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len {
            0 => f.write_str("*"),
            16 => write!(f, "{}", self.value),
            len => write!(f, "{}/{len}", self.value),
        }
    }
}

/// Which way a policy looks, seen from the pod it selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn prefixes_cover_exactly_the_range() {
        for (first, last) in [(1, 1), (1, 65535), (8000, 8100), (1024, 2047), (65535, 65535), (3, 17)] {
            let range = PortRange::new(Port::new(first).unwrap(), Port::new(last).unwrap()).unwrap();
            let prefixes = range.prefixes();
            assert!(prefixes.len() <= 30);
            for port in 0..=u16::MAX {
                let inside = (first..=last).contains(&port);
                assert_eq!(
                    prefixes.iter().filter(|p| p.contains(port)).count(),
                    usize::from(inside),
                    "{port}"
                );
            }
        }
    }
}
