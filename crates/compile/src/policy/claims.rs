//! Which pods claim an address: nearly always one.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use sheetbend_model::types::{AddrKey, ObjectKey};

/// Claims of addresses. A large cluster has two for each pod: they take 8 bytes each, and each pod's name is kept once.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// (hash of the address, number of the pod).
    claims: BTreeSet<(u32, u32)>,
    /// Number → pod.
    pods: Vec<Option<ObjectKey>>,
    /// Numbers below `pods.len()` that are nobody's.
    free: Vec<u32>,
    /// Keys of the hashes.
    hashing: RandomState,
}

impl Claims {
    /// The pods that claim `addr`, in no order. Rarely, one that claims another address with the same hash.
    pub(super) fn of(&self, addr: &AddrKey) -> impl Iterator<Item = &ObjectKey> {
        self.numbers(addr).filter_map(|number| self.pods.get(number as usize)?.as_ref())
    }

    /// `pod`, which claims nothing, claims `addresses`.
    pub(super) fn insert(&mut self, pod: &ObjectKey, addresses: &[AddrKey]) {
        if addresses.is_empty() {
            return;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.pods.push(None);
            self.pods.len() as u32 - 1
        });
        self.pods[number as usize] = Some(pod.clone());
        for addr in addresses {
            self.claims.insert((self.hash(addr), number));
        }
    }

    /// `pod`, which claims `addresses`, claims nothing.
    pub(super) fn remove(&mut self, pod: &ObjectKey, addresses: &[AddrKey]) {
        let number =
            addresses.iter().find_map(|addr| self.numbers(addr).find(|number| self.is(*number, pod)));
        let Some(number) = number else { return };
        for addr in addresses {
            self.claims.remove(&(self.hash(addr), number));
        }
        self.pods[number as usize] = None;
        self.free.push(number);
    }

    fn numbers(&self, addr: &AddrKey) -> impl Iterator<Item = u32> {
        let hash = self.hash(addr);
        self.claims.range((hash, 0)..=(hash, u32::MAX)).map(|(_, number)| *number)
    }

    fn is(&self, number: u32, pod: &ObjectKey) -> bool {
        self.pods.get(number as usize).is_some_and(|own| own.as_ref() == Some(pod))
    }

    fn hash(&self, addr: &AddrKey) -> u32 {
        self.hashing.hash_one(addr) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::Ipv4Addr;

    use super::{AddrKey, Claims, ObjectKey};

    #[test]
    fn follows_the_obvious_twin() {
        let addr = |number: u32| AddrKey::new(Ipv4Addr::from(number).into());
        let pod = |number: u32| ObjectKey::new("shop", format!("web-{number}"));
        let mut claims = Claims::default();
        let mut twin: BTreeMap<ObjectKey, Vec<AddrKey>> = BTreeMap::new();
        let mut seed = 1_u32;
        let mut draw = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        let mut shared = 0;
        for _ in 0..5_000 {
            let pod = pod(draw(40));
            if let Some(addresses) = twin.remove(&pod) {
                claims.remove(&pod, &addresses);
            }
            let wanted: BTreeSet<AddrKey> = (0..draw(3)).map(|_| addr(draw(60))).collect();
            let wanted: Vec<AddrKey> = wanted.into_iter().collect();
            claims.insert(&pod, &wanted);
            twin.insert(pod, wanted);
            let asked = addr(draw(60));
            let found: BTreeSet<&ObjectKey> = claims.of(&asked).collect();
            let expected: BTreeSet<&ObjectKey> =
                twin.iter().filter(|(_, own)| own.contains(&asked)).map(|(pod, _)| pod).collect();
            shared += u32::from(expected.len() > 1);
            assert!(found.is_superset(&expected), "{asked}: {found:?}, not {expected:?}");
            // 60 addresses share a 32-bit hash about once in two million runs.
            assert_eq!(found, expected);
        }
        assert!(shared > 500, "{shared} times two pods had one address");
        assert!(claims.pods.len() <= 40, "numbers are used again");
    }
}
