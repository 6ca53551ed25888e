//! Ordered rules, flattened into disjoint pieces of protocols and ports, and those into rows.

use std::collections::BTreeMap;

use sheetbend_model::types::{Port, PortPrefix, Protocol};

/// What is decided of a piece: whether it may pass, and the index of the rule that says so; `None` = the default.
pub(crate) type Decided = (bool, Option<u32>);

/// What evaluation knows of a piece so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No rule matched yet.
    Open,
    /// The rest of this tier is skipped.
    Passed,
    Decided(Decided),
}

/// First port → what holds from there to the next key. Port 0 has a key.
type Plane = BTreeMap<u16, State>;

/// The verdicts for one peer class in one direction, being found rule by rule.
#[derive(Debug)]
pub(crate) struct Painting {
    /// By [`Protocol::ALL`].
    planes: [Plane; 3],
    /// ICMP and all else that has no port.
    other: State,
}

impl Painting {
    pub(crate) fn new() -> Self {
        let plane = || BTreeMap::from([(0, State::Open)]);
        Self { planes: [plane(), plane(), plane()], other: State::Open }
    }

    /// What is still open of (`protocol`, `ports`) is decided.
    pub(crate) fn decide(&mut self, protocol: Option<Protocol>, ports: PortPrefix, decided: Decided) {
        self.paint(protocol, ports, State::Decided(decided));
    }

    /// What is still open of (`protocol`, `ports`) skips the rest of the tier.
    pub(crate) fn pass(&mut self, protocol: Option<Protocol>, ports: PortPrefix) {
        self.paint(protocol, ports, State::Passed);
    }

    /// The next tier begins.
    pub(crate) fn end_tier(&mut self) {
        for state in self.states() {
            if *state == State::Passed {
                *state = State::Open;
            }
        }
    }

    /// What is open is decided by default. Returns the pieces.
    pub(crate) fn finish(mut self, allows: bool) -> Flat {
        let finished = |state: State| match state {
            State::Decided(decided) => decided,
            State::Open | State::Passed => (allows, None),
        };
        let planes = std::mem::take(&mut self.planes).map(|plane| {
            let mut pieces: Vec<(u16, Decided)> = Vec::with_capacity(plane.len());
            for (first, state) in plane {
                let decided = finished(state);
                if pieces.last().is_none_or(|(_, before)| *before != decided) {
                    pieces.push((first, decided));
                }
            }
            pieces
        });
        Flat { planes, other: finished(self.other) }
    }

    fn states(&mut self) -> impl Iterator<Item = &mut State> {
        self.planes.iter_mut().flat_map(BTreeMap::values_mut).chain([&mut self.other])
    }

    fn paint(&mut self, protocol: Option<Protocol>, ports: PortPrefix, with: State) {
        let Some(protocol) = protocol else {
            return self.states().filter(|state| **state == State::Open).for_each(|state| *state = with);
        };
        let plane = &mut self.planes[protocol as usize];
        let last = ports.value | u16::MAX.checked_shr(ports.len.into()).unwrap_or(0);
        split(plane, ports.value);
        if let Some(after) = last.checked_add(1) {
            split(plane, after);
        }
        let inside = plane.range_mut(ports.value..=last).map(|(_, state)| state);
        inside.filter(|state| **state == State::Open).for_each(|state| *state = with);
    }
}

/// Makes a piece begin at `first`.
fn split(plane: &mut Plane, first: u16) {
    let around = plane.range(..=first).next_back().map_or(State::Open, |(_, state)| *state);
    plane.entry(first).or_insert(around);
}

/// The verdicts for one peer class in one direction: for each protocol, pieces of ports by their first port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flat {
    planes: [Vec<(u16, Decided)>; 3],
    other: Decided,
}

impl Flat {
    /// The fewest rows with which the longest prefix says the same. The first is for every protocol.
    pub(crate) fn rows(&self) -> Vec<(Option<Protocol>, PortPrefix, Decided)> {
        let mut rows = vec![(None, PortPrefix::ALL, self.other)];
        for protocol in Protocol::ALL {
            let tree = Tree::of(PortPrefix::ALL, &self.planes[protocol as usize]);
            tree.rows(protocol, PortPrefix::ALL, self.other, &mut rows);
        }
        rows
    }
}

/// The tree of prefixes over pieces, with what each may best say (Draves, King, Venkatachary, Zill: Constructing
/// Optimal IP Routing Tables, 1999).
struct Tree {
    /// What a row here may say so that no other row is needed more; never empty.
    candidates: Vec<Decided>,
    halves: Option<Box<[Tree; 2]>>,
}

impl Tree {
    /// `pieces` of `prefix`; the first begins at it or before.
    fn of(prefix: PortPrefix, pieces: &[(u16, Decided)]) -> Self {
        let [(_, only)] = pieces else {
            let [low, high] = halves(prefix);
            let before = pieces.partition_point(|(first, _)| *first < high.value);
            let after = pieces.partition_point(|(first, _)| *first <= high.value).saturating_sub(1);
            let halves = [Tree::of(low, &pieces[..before]), Tree::of(high, &pieces[after..])];
            let [a, b] = [&halves[0].candidates, &halves[1].candidates];
            let mut candidates: Vec<Decided> = a.iter().filter(|each| b.contains(each)).copied().collect();
            if candidates.is_empty() {
                candidates = a.iter().chain(b).copied().collect();
            }
            return Self { candidates, halves: Some(Box::new(halves)) };
        };
        Self { candidates: vec![*only], halves: None }
    }

    fn rows(
        &self,
        protocol: Protocol,
        prefix: PortPrefix,
        inherited: Decided,
        rows: &mut Vec<(Option<Protocol>, PortPrefix, Decided)>,
    ) {
        let said = match self.candidates.first() {
            Some(first) if !self.candidates.contains(&inherited) => {
                rows.push((Some(protocol), prefix, *first));
                *first
            }
            _ => inherited,
        };
        if let Some(trees) = &self.halves {
            for (tree, half) in trees.iter().zip(halves(prefix)) {
                tree.rows(protocol, half, said, rows);
            }
        }
    }
}

/// The two halves of a prefix of more than one port.
fn halves(prefix: PortPrefix) -> [PortPrefix; 2] {
    let len = prefix.len + 1;
    let high = prefix.value | 1u16.checked_shl(16 - u32::from(len)).unwrap_or(0);
    [PortPrefix { value: prefix.value, len }, PortPrefix { value: high, len }]
}

/// Just `port`.
pub(crate) fn exactly(port: Port) -> PortPrefix {
    PortPrefix { value: port.get(), len: 16 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use proptest::prelude::*;
    use sheetbend_model::types::PortRange;

    use super::*;

    /// What the longest prefix of `rows` says.
    fn longest(
        rows: &[(Option<Protocol>, PortPrefix, Decided)],
        protocol: Option<Protocol>,
        port: u16,
    ) -> Decided {
        let of = rows.iter().filter(|(of, prefix, _)| match of {
            None => true,
            Some(_) => *of == protocol && prefix.contains(port),
        });
        of.max_by_key(|(of, prefix, _)| (of.is_some(), prefix.len)).unwrap().2
    }

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(Port::new(first).unwrap(), Port::new(last).unwrap()).unwrap()
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Decide(bool),
        Pass,
        EndTier,
    }

    proptest! {
        #[test]
        fn rows_say_what_the_first_matching_rule_says(
            rules in prop::collection::vec(
                (
                    prop_oneof![
                        4 => any::<bool>().prop_map(Act::Decide),
                        2 => Just(Act::Pass),
                        1 => Just(Act::EndTier),
                    ],
                    prop::option::weighted(0.8, prop::sample::select(&Protocol::ALL[..])),
                    (1..2_000u16, 0..2_000u16),
                ),
                0..12,
            ),
            allows: bool,
            ports in prop::collection::vec(0..4_200u16, 40),
        ) {
            let mut painting = Painting::new();
            for (index, (act, protocol, (first, more))) in rules.iter().enumerate() {
                let prefixes = match protocol {
                    Some(_) => range(*first, first + more).prefixes(),
                    None => vec![PortPrefix::ALL],
                };
                for prefix in prefixes {
                    match act {
                        Act::Decide(allow) => painting.decide(*protocol, prefix, (*allow, Some(index as u32))),
                        Act::Pass => painting.pass(*protocol, prefix),
                        Act::EndTier => painting.end_tier(),
                    }
                }
            }
            let rows = painting.finish(allows).rows();
            let every = Protocol::ALL.into_iter().map(Some).chain([None]);
            for asked in every {
                for port in ports.iter().copied().chain([0, u16::MAX]) {
                    let mut passed = false;
                    let mut wanted = (allows, None);
                    for (index, (act, protocol, (first, more))) in rules.iter().enumerate() {
                        let matches = protocol.is_none()
                            || (*protocol == asked && (*first..=first + more).contains(&port));
                        match act {
                            Act::EndTier => passed = false,
                            Act::Decide(allow) if matches && !passed => {
                                wanted = (*allow, Some(index as u32));
                                break;
                            }
                            Act::Pass if matches => passed = true,
                            Act::Decide(_) | Act::Pass => {}
                        }
                    }
                    prop_assert_eq!(longest(&rows, asked, port), wanted, "{:?} {} in {:?}", asked, port, rows);
                }
            }
        }
    }

    #[test]
    fn a_hole_in_a_range_costs_its_own_row() {
        let mut painting = Painting::new();
        let deny = (false, Some(0));
        painting.decide(Some(Protocol::Tcp), exactly(Port::new(80).unwrap()), deny);
        painting.decide(Some(Protocol::Tcp), PortPrefix::ALL, (true, Some(1)));
        let rows = painting.finish(true).rows();
        let (tcp, port) = (Some(Protocol::Tcp), PortPrefix { value: 80, len: 16 });
        let wanted = vec![
            (None, PortPrefix::ALL, (true, None)),
            (tcp, PortPrefix::ALL, (true, Some(1))),
            (tcp, port, deny),
        ];
        assert_eq!(rows, wanted);
    }
}
