//! The addresses of one pod.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Family;

/// A pod's addresses (Pod `status.podIPs`): at most one of each family, the primary one first.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<IpAddr>", into = "Vec<IpAddr>")]
pub struct PodIps {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    /// Of two, the IPv6 one is the primary one.
    is_ipv6_first: bool,
}

impl PodIps {
    /// The address of `family`.
    pub fn get(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::IPv4 => self.ipv4.map(IpAddr::V4),
            Family::IPv6 => self.ipv6.map(IpAddr::V6),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none()
    }

    /// Whether `addr` is one of them.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.get(Family::of(addr)) == Some(addr)
    }

    /// All of them, the primary one first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (ipv4, ipv6) = (self.ipv4.map(IpAddr::V4), self.ipv6.map(IpAddr::V6));
        if self.is_ipv6_first { [ipv6, ipv4] } else { [ipv4, ipv6] }.into_iter().flatten()
    }
}

/// The first of each family; others are left out.
impl FromIterator<IpAddr> for PodIps {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> Self {
        let mut ips = Self::default();
        for addr in addresses {
            match addr {
                IpAddr::V4(addr) => _ = ips.ipv4.get_or_insert(addr),
                IpAddr::V6(addr) => {
                    ips.is_ipv6_first |= ips.is_empty();
                    ips.ipv6.get_or_insert(addr);
                }
            }
        }
        // One alone is written in one way.
        ips.is_ipv6_first &= ips.ipv4.is_some();
        ips
    }
}

impl From<Vec<IpAddr>> for PodIps {
    fn from(addresses: Vec<IpAddr>) -> Self {
        addresses.into_iter().collect()
    }
}

impl From<PodIps> for Vec<IpAddr> {
    fn from(ips: PodIps) -> Self {
        ips.iter().collect()
    }
}

impl fmt::Debug for PodIps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn the_first_of_each_family_in_the_order_given() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let cases: [(&[&str], &[&str]); 6] = [
            (&[], &[]),
            (&["10.0.0.1"], &["10.0.0.1"]),
            (&["fd00::1"], &["fd00::1"]),
            (&["10.0.0.1", "fd00::1"], &["10.0.0.1", "fd00::1"]),
            (&["fd00::1", "10.0.0.1"], &["fd00::1", "10.0.0.1"]),
            (&["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"], &["fd00::1", "10.0.0.1"]),
        ];
        for (given, kept) in cases {
            let pod = PodIps::from(ips(given));
            assert_eq!(Vec::from(pod), ips(kept));
            assert_eq!(pod.is_empty(), kept.is_empty());
            assert_eq!(PodIps::from(ips(kept)), pod);
            for addr in ips(given) {
                assert_eq!(pod.contains(addr), kept.contains(&&*addr.to_string()), "{addr}");
            }
            let of = |family| ips(kept).into_iter().find(|addr| Family::of(*addr) == family);
            assert_eq!(Family::ALL.map(|family| pod.get(family)), Family::ALL.map(of));
        }
        assert_eq!(size_of::<PodIps>(), 23);
    }
}
