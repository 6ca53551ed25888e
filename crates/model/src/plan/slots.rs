//! A Service's slots: what the kernel's choice among backends reads.

use super::{ServiceEntry, maglev};
use crate::state::Algorithm;

/// At most so many slots stand for weights; with more backends that differ in weight, each has one at least.
pub const MOST_SLOTS: usize = 16_384;

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Index in [`ServiceEntry::backends`].
    pub backend: u32,
    /// With least connections the backend's, 1..=100. Else 1.
    pub weight: u8,
}

impl ServiceEntry {
    /// The slots, in order. Every backend has one or more.
    ///
    /// Random and round robin: as many as the backend's weight, spread over the row, so that turns alternate. Maglev: its
    /// table. Least connections: one each, with the weight beside it. A Maglev table that is too small for all backends gives
    /// way to one slot each.
    pub fn slots(&self) -> Vec<Slot> {
        let count = self.backends.len();
        match self.algorithm {
            _ if count == 0 => Vec::new(),
            Algorithm::Random | Algorithm::RoundRobin if !self.weights.is_empty() => {
                unweighted(spread(&scaled(&self.weights)))
            }
            Algorithm::Maglev if count <= maglev::table_size(count) as usize => {
                unweighted(maglev::table(&self.backends, &self.weights))
            }
            Algorithm::LeastConnections if !self.weights.is_empty() => (0..)
                .zip(self.weights.iter())
                .map(|(backend, weight)| Slot { backend, weight: *weight })
                .collect(),
            Algorithm::Random | Algorithm::RoundRobin | Algorithm::LeastConnections | Algorithm::Maglev => {
                unweighted((0..count as u32).collect())
            }
        }
    }
}

fn unweighted(backends: Vec<u32>) -> Vec<Slot> {
    backends.into_iter().map(|backend| Slot { backend, weight: 1 }).collect()
}

/// How many slots each weight gets: the least numbers in the same proportion, or about it where those are too many.
fn scaled(weights: &[u8]) -> Vec<usize> {
    let divisor = weights.iter().copied().reduce(common_divisor).unwrap_or(1).max(1);
    let shares: Vec<usize> = weights.iter().map(|weight| usize::from(weight / divisor)).collect();
    let total: usize = shares.iter().sum();
    if total <= MOST_SLOTS {
        return shares;
    }
    shares.into_iter().map(|share| (share * MOST_SLOTS / total).max(1)).collect()
}

/// The greatest common divisor.
fn common_divisor(a: u8, b: u8) -> u8 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Index `i` as often as `shares[i]`, evenly: the k-th of n lies at (2k + 1) / 2n of the row.
fn spread(shares: &[usize]) -> Vec<u32> {
    let places = |(index, share): (u32, usize)| (0..share).map(move |turn| (2 * turn + 1, share, index));
    let mut all: Vec<(usize, usize, u32)> = (0..).zip(shares.iter().copied()).flat_map(places).collect();
    all.sort_by(|(a, of_a, first), (b, of_b, second)| (a * of_b).cmp(&(b * of_a)).then(first.cmp(second)));
    all.into_iter().map(|(.., index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_alternate() {
        assert_eq!(spread(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(spread(&[3, 1]), [0, 0, 1, 0]);
        assert_eq!(spread(&[2, 4]), [1, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn proportions_are_kept_with_few_slots() {
        assert_eq!(scaled(&[100, 50, 25]), [4, 2, 1]);
        assert_eq!(scaled(&[7]), [1]);
        let mut many = vec![100; 1_000];
        many.extend([1; 1_000]);
        let slots = scaled(&many);
        assert!(slots.iter().sum::<usize>() <= MOST_SLOTS + many.len());
        assert_eq!((slots[0], slots[1_000]), (16, 1));
    }
}
