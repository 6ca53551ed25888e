//! Addresses: families, MACs, and addresses qualified by the network they belong to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Number of a tenant network; addresses of two networks may overlap. 0 is the cluster's default network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetworkId(pub u32);

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4 (RFC 791).
    IPv4,
    /// IPv6 (RFC 8200).
    IPv6,
}

impl Family {
    /// Both families, in the order in which tables list them.
    pub const ALL: [Family; 2] = [Family::IPv4, Family::IPv6];

    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Family::IPv4,
            IpAddr::V6(_) => Family::IPv6,
        }
    }

    /// Length of an address of this family, in bits: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Family::IPv4 => 32,
            Family::IPv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::IPv4 => "IPv4",
            Family::IPv6 => "IPv6",
        })
    }
}

/// One address in one network: the key of every exact-address table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AddrKey {
    /// The network the address belongs to.
    pub network: NetworkId,
    /// The address. Never an IPv4-mapped IPv6 address: those are written as IPv4.
    pub addr: IpAddr,
}

impl AddrKey {
    /// `addr` in the default network.
    pub fn new(addr: IpAddr) -> Self {
        Self { network: NetworkId::default(), addr: addr.to_canonical() }
    }
}

impl fmt::Display for AddrKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network.0 {
            0 => write!(f, "{}", self.addr),
            n => write!(f, "{}@{n}", self.addr),
        }
    }
}

/// One CIDR block in one network: the key of every longest-prefix table. The block is truncated (no host bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockKey {
    /// The network the block belongs to.
    pub network: NetworkId,
    /// The block.
    pub block: IpNet,
}

impl BlockKey {
    /// `block` in the default network, host bits cleared.
    pub fn new(block: IpNet) -> Self {
        Self { network: NetworkId::default(), block: block.trunc() }
    }
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network.0 {
            0 => write!(f, "{}", self.block),
            n => write!(f, "{}@{n}", self.block),
        }
    }
}

/// An Ethernet address, in transmission order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Why a text is no Ethernet address.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no Ethernet address; write six hexadecimal bytes joined by colons, as in 0a:5b:00:00:00:01"
)]
pub struct MacError(String);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts
                .next()
                .filter(|part| part.len() == 2)
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| MacError(text.to_owned()))?;
        }
        if parts.next().is_some() { Err(MacError(text.to_owned())) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
