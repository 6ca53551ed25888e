//! Which ranges of `SLOTS` are in use.

use std::collections::{BTreeMap, BTreeSet};

/// Ranges of slots: taken best fit from what was given back, else behind the last one.
#[derive(Debug, Default)]
pub(super) struct SlotRanges {
    /// Start → length of each free range below `end`; neighbours are joined.
    free: BTreeMap<u32, u32>,
    /// The same as (length, start).
    by_length: BTreeSet<(u32, u32)>,
    /// First slot that was never taken.
    end: u32,
}

impl SlotRanges {
    /// Everything is free but `used`: (start, length) of ranges that do not overlap, in any order.
    pub(super) fn with_used(mut used: Vec<(u32, u32)>) -> Self {
        used.sort_unstable();
        let mut ranges = Self::default();
        for (start, length) in used {
            if start > ranges.end {
                ranges.insert(ranges.end, start - ranges.end);
            }
            ranges.end = ranges.end.max(start + length);
        }
        ranges
    }

    /// Takes `length` slots in a row and returns the first.
    pub(super) fn take(&mut self, length: u32) -> u32 {
        if length == 0 {
            return 0;
        }
        if let Some(&(found, start)) = self.by_length.range((length, 0)..).next() {
            self.remove(start, found);
            if found > length {
                self.insert(start + length, found - length);
            }
            return start;
        }
        let start = self.end;
        self.end += length;
        start
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut start, mut length) = (start, length);
        if let Some((&before, &size)) = self.free.range(..start).next_back()
            && before + size == start
        {
            self.remove(before, size);
            (start, length) = (before, length + size);
        }
        if let Some(&size) = self.free.get(&(start + length)) {
            self.remove(start + length, size);
            length += size;
        }
        if start + length == self.end {
            self.end = start;
        } else {
            self.insert(start, length);
        }
    }

    fn insert(&mut self, start: u32, length: u32) {
        self.free.insert(start, length);
        self.by_length.insert((length, start));
    }

    fn remove(&mut self, start: u32, length: u32) {
        self.free.remove(&start);
        self.by_length.remove(&(length, start));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::SlotRanges;

    /// The obvious twin: one flag per slot.
    #[test]
    fn ranges_never_overlap() {
        let mut ranges = SlotRanges::default();
        let mut used = BTreeMap::new();
        let mut random: u32 = 7;
        for _ in 0..20_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let draw = random >> 8;
            if draw.is_multiple_of(2) || used.is_empty() {
                let length = draw / 2 % 9 + 1;
                let start = ranges.take(length);
                assert!(
                    used.range(..start + length).next_back().is_none_or(|(s, l)| s + l <= start),
                    "{start}"
                );
                used.insert(start, length);
            } else {
                let index = draw as usize % used.len();
                let (&start, &length) = used.iter().nth(index).expect("index below the length");
                used.remove(&start);
                ranges.give_back(start, length);
            }
            let rebuilt = SlotRanges::with_used(used.iter().map(|(s, l)| (*s, *l)).collect());
            assert_eq!((&rebuilt.free, rebuilt.end), (&ranges.free, ranges.end));
            assert_eq!(ranges.free.len(), ranges.by_length.len());
        }
        for (start, length) in used {
            ranges.give_back(start, length);
        }
        assert_eq!((ranges.end, ranges.free.len()), (0, 0));
    }
}
