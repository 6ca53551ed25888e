//! Hostile input: what somebody wrote, changed here and there. Random bytes alone would not get past a parser's first
//! look.

use proptest::prelude::*;
use proptest::sample::Index;

/// Bytes made from one of `seeds` by up to 8 edits; shrinks to fewer edits. `tokens` are words that the format knows.
///
/// # Panics
/// Without a seed.
pub fn mutated(seeds: Vec<Vec<u8>>, tokens: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let others = seeds.clone();
    let edits = prop::collection::vec(edit(tokens), 0..=8);
    (prop::sample::select(seeds), edits).prop_map(move |(mut bytes, edits)| {
        edits.iter().for_each(|edit| edit.apply(&mut bytes, &others));
        bytes
    })
}

/// What an edit writes.
const NUMBERS: [&str; 8] =
    ["0", "-1", "65535", "65536", "4294967296", "9223372036854775808", "1e999", "00000000000000000001"];
/// The longest that a repetition makes, bytes.
const LONGEST: usize = 64 << 10;

#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Write(Index, u8),
    Insert(Index, Vec<u8>),
    Replace(Index, usize, Vec<u8>),
    Delete(Index, usize),
    /// A part, so often again.
    Repeat(Index, usize, usize),
    Truncate(Index),
    /// From here on as in another seed.
    Splice(Index, Index, Index),
}

fn edit(tokens: &'static [&'static str]) -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    let words: Vec<&str> = NUMBERS.iter().chain(tokens).copied().collect();
    let word = prop_oneof![
        3 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..8),
    ];
    prop_oneof![
        3 => (index(), 0..8u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        2 => (index(), any::<u8>()).prop_map(|(at, byte)| Edit::Write(at, byte)),
        3 => (index(), word.clone()).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        3 => (index(), 1..12usize, word).prop_map(|(at, length, bytes)| Edit::Replace(at, length, bytes)),
        2 => (index(), 1..32usize).prop_map(|(at, length)| Edit::Delete(at, length)),
        1 => (index(), 1..32usize, 1..4_096usize).prop_map(|(at, length, count)| Edit::Repeat(at, length, count)),
        1 => index().prop_map(Edit::Truncate),
        2 => (index(), index(), index()).prop_map(|(at, seed, from)| Edit::Splice(at, seed, from)),
    ]
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = |index: &Index| index.index(bytes.len() + 1);
        match self {
            Edit::Flip(index, bit) => {
                let at = at(index);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
            }
            Edit::Write(index, value) => {
                let at = at(index);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte = *value);
            }
            Edit::Insert(index, word) => {
                let at = at(index);
                bytes.splice(at..at, word.iter().copied());
            }
            Edit::Replace(index, length, word) => {
                let at = at(index);
                let end = bytes.len().min(at + length);
                bytes.splice(at..end, word.iter().copied());
            }
            Edit::Delete(index, length) => {
                let at = at(index);
                let end = bytes.len().min(at + length);
                bytes.drain(at..end);
            }
            Edit::Repeat(index, length, count) => {
                let at = at(index);
                let part = bytes[at..bytes.len().min(at + length)].to_vec();
                let again = part.repeat((*count).min(LONGEST / part.len().max(1)));
                bytes.splice(at..at, again);
            }
            Edit::Truncate(index) => {
                let at = at(index);
                bytes.truncate(at);
            }
            Edit::Splice(index, seed, from) => {
                let at = at(index);
                let other = seed.get(seeds);
                bytes.truncate(at);
                bytes.extend(&other[from.index(other.len() + 1)..]);
            }
        }
    }
}
