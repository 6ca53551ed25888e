//! Maglev's table of backends ("Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4).
//!
//! A flow's hash is a position in the table. Each backend has its own order of positions, by its content alone; in turn
//! they take the next free one of theirs. So every node has the same table, and where a backend goes, most positions of
//! the others stay. A weight is a share of the turns.

use std::net::IpAddr;

use super::Backend;

/// Table sizes, primes.
const SIZES: [u32; 4] = [251, 1_021, 4_093, 16_381];
/// Positions that a backend shall have on average.
const PER_BACKEND: usize = 100;

/// Positions of the table of so many backends: the least size that has 100 for each, else the greatest.
pub fn table_size(backends: usize) -> u32 {
    let [.., greatest] = SIZES;
    let enough = |size: &u32| *size as usize >= PER_BACKEND.saturating_mul(backends);
    SIZES.into_iter().find(enough).unwrap_or(greatest)
}

/// A backend's order of a table's positions, without end: it visits each once before it repeats.
#[derive(Clone, Copy, Debug)]
pub struct Preference {
    next: u32,
    skip: u32,
    size: u32,
}

impl Preference {
    /// The order of `backend` in a table of `size` positions, a prime above 2.
    pub fn new(backend: &Backend, size: u32) -> Self {
        let digest = digest(backend);
        let (low, high) = (digest as u32, (digest >> 32) as u32);
        Self { next: low % size, skip: high % (size - 1) + 1, size }
    }
}

impl Iterator for Preference {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let position = self.next;
        self.next = (position + self.skip) % self.size;
        Some(position)
    }
}

/// Network, address, port and protocol in 64 bits that differ in half of them when one differs: FNV-1a, then the finaliser of
/// MurmurHash3. The Pod's uid does not count: a restarted StatefulSet pod that keeps its address keeps its flows' positions.
/// It must never change: nodes of two versions share flows.
fn digest(backend: &Backend) -> u64 {
    let addr = match backend.addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped(),
        IpAddr::V6(addr) => addr,
    };
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let port = backend.port.get().to_be_bytes();
    let network = backend.network.0.to_be_bytes();
    for byte in addr.octets().into_iter().chain(port).chain([backend.protocol.number()]).chain(network) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// Position → index of its backend in `backends`, which are at least one and at most [`table_size`], in any order; `weights`
/// as in [`super::ServiceEntry`].
pub(super) fn table(backends: &[Backend], weights: &[u8]) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let size = table_size(backends.len());
    let weight = |index: usize| u32::from(weights.get(index).copied().unwrap_or(1));
    let most = (0..backends.len()).map(weight).max().unwrap_or(1);
    let mut order: Vec<usize> = (0..backends.len()).collect();
    order.sort_by_key(|index| &backends[*index]);
    let mut preferences: Vec<Preference> =
        backends.iter().map(|backend| Preference::new(backend, size)).collect();
    let mut turns = vec![0; backends.len()];
    let mut table = vec![FREE; size as usize];
    let mut left = size;
    for round in 1.. {
        for index in order.iter().copied() {
            // The heaviest has a turn in every round.
            if turns[index] * most >= round * weight(index) {
                continue;
            }
            turns[index] += 1;
            while let Some(position) = preferences[index].next().map(|position| position as usize) {
                if table[position] == FREE {
                    table[position] = index as u32;
                    break;
                }
            }
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NetworkId, Port, Protocol};

    #[test]
    fn sizes_follow_the_backends() {
        let sizes = [0, 1, 2, 3, 10, 11, 40, 41, 163, 164, 20_000, usize::MAX].map(table_size);
        assert_eq!(sizes, [251, 251, 251, 1021, 1021, 4093, 4093, 16381, 16381, 16381, 16381, 16381]);
    }

    /// Nodes of two versions must agree.
    #[test]
    fn digests_never_change() {
        let backend = |addr: &str, port| Backend {
            network: NetworkId(0),
            addr: addr.parse().expect("an address"),
            protocol: Protocol::Tcp,
            port: Port::new(port).expect("a port"),
            pod_uid: "any".into(),
        };
        assert_eq!(digest(&backend("10.244.1.7", 8080)), 14_014_837_977_805_555_359);
        assert_eq!(digest(&backend("fd00:10:244:1::7", 8080)), 12_083_148_015_991_765_112);
    }
}
