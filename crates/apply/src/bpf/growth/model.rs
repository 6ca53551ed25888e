//! Growth as a model: hooks that run one set of programs each, two maps, packets and deaths of the agent in any order.
//! What a packet left is found by every later packet, and a port has one owner.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sheetbend_ebpf_abi::{WRITES_BOTH, WRITES_NEW, WRITES_OLD};

use super::decide::{Fill, FlowTable, Seen, Step, next};

/// What a program calls its table, and whether it knows another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Programs {
    /// The older map only.
    Before,
    /// Both.
    Both,
    /// The newer map only.
    After,
}

/// A packet under way: it has looked, and will claim its key for its owner.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    programs: Programs,
    writes: u32,
    key: u8,
    owner: u32,
}

/// The kernel: what outlives an agent.
#[derive(Debug)]
struct Kernel {
    hooks: Vec<Programs>,
    old: BTreeMap<u8, u32>,
    new: Option<BTreeMap<u8, u32>>,
    size: u32,
    new_size: u32,
    writes: u32,
    under_way: Vec<UnderWay>,
    /// Every key that was given, to whom.
    given: BTreeMap<u8, u32>,
}

/// The agent: what dies with it.
#[derive(Debug, Default)]
struct Agent {
    read_both: bool,
    /// Hooks still to be changed by the step under way.
    changing: Option<(Programs, usize)>,
}

const CEILING: u32 = 64;

impl Kernel {
    fn find(&self, programs: Programs, key: u8) -> Option<u32> {
        let new = self.new.as_ref().and_then(|new| new.get(&key));
        let found = match programs {
            Programs::Before => self.old.get(&key),
            Programs::Both => new.or_else(|| self.old.get(&key)),
            // Once renamed, the newer map is the table.
            Programs::After if self.new.is_none() => self.old.get(&key),
            Programs::After => new,
        };
        found.copied()
    }

    /// A packet looks, and either finds the key or goes on to claim it.
    fn look(&mut self, hook: usize, key: u8, owner: u32) {
        let programs = self.hooks[hook];
        match self.find(programs, key) {
            Some(found) => assert_eq!(found, self.given[&key], "a key that another flow has"),
            None => {
                assert!(!self.given.contains_key(&key), "{programs:?} do not find {key}: {self:?}");
                self.under_way.push(UnderWay { programs, writes: self.writes, key, owner });
            }
        }
    }

    /// The `claim` of `crates/ebpf/programs/src/growth.rs`, whose inserts are atomic.
    fn claim(&mut self, packet: UnderWay) {
        fn free(map: &mut BTreeMap<u8, u32>, key: u8, owner: u32) -> bool {
            !map.contains_key(&key) && map.insert(key, owner).is_none()
        }
        let UnderWay { programs, writes, key, owner } = packet;
        let is_mine = match (programs, &mut self.new) {
            (Programs::Both, Some(new)) if writes == WRITES_NEW => free(new, key, owner),
            (Programs::Both, Some(new)) if writes == WRITES_BOTH => {
                free(&mut self.old, key, owner) && {
                    let in_both = free(new, key, owner);
                    if !in_both {
                        self.old.remove(&key);
                    }
                    in_both
                }
            }
            (Programs::After, Some(new)) => free(new, key, owner),
            _ => free(&mut self.old, key, owner),
        };
        if is_mine {
            assert!(self.given.insert(key, owner).is_none(), "{key} was given twice: {packet:?}");
        }
    }

    /// Every packet under way ends.
    fn settle(&mut self) {
        for packet in std::mem::take(&mut self.under_way) {
            self.claim(packet);
        }
    }
}

/// One step of the agent, as `growth::Kernel::grow` takes it; changes of hooks one by one.
fn step(kernel: &mut Kernel, agent: &mut Agent) {
    if let Some((programs, hook)) = agent.changing {
        if hook < kernel.hooks.len() {
            kernel.hooks[hook] = programs;
            agent.changing = Some((programs, hook + 1));
            return;
        }
        kernel.settle();
        agent.changing = None;
        if programs == Programs::Both {
            agent.read_both = true;
        } else {
            kernel.old = kernel.new.take().expect("the newer map");
            kernel.size = kernel.new_size;
            agent.read_both = false;
            kernel.hooks.iter().for_each(|hook| assert_eq!(*hook, Programs::After));
            kernel.hooks.fill(Programs::Before);
        }
        return;
    }
    let size = if kernel.new.is_some() { kernel.new_size } else { kernel.size };
    let fill = Fill { used: kernel.old.len() as u64, size, idle: 0, floor: 4, ceiling: CEILING };
    let tables = |is: bool| if is { BTreeSet::from([FlowTable::Ct]) } else { BTreeSet::new() };
    let seen = Seen {
        fills: BTreeMap::from([(FlowTable::Ct, fill)]),
        growing: tables(kernel.new.is_some()),
        read_both: tables(agent.read_both),
        writes: kernel.writes,
        is_left: !kernel.old.is_empty(),
    };
    match next(&seen) {
        Step::Rest => {}
        Step::Begin(sizes) => {
            kernel.writes = WRITES_OLD;
            kernel.settle();
            kernel.new = Some(BTreeMap::new());
            kernel.new_size = sizes[&FlowTable::Ct];
            assert!(kernel.new_size > kernel.size && kernel.new_size <= CEILING, "{sizes:?}");
            agent.changing = Some((Programs::Both, 0));
        }
        Step::ReadBoth => agent.changing = Some((Programs::Both, 0)),
        Step::Write(writes) => {
            kernel.writes = writes;
            kernel.settle();
        }
        Step::Move => {
            let new = kernel.new.as_mut().expect("the newer map");
            let (key, owner) = kernel.old.pop_first().expect("an entry is left");
            new.entry(key).or_insert(owner);
        }
        Step::Finish => {
            assert!(kernel.old.is_empty(), "dropped with entries: {kernel:?}");
            agent.changing = Some((Programs::After, 0));
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Look {
        hook: usize,
        key: u8,
    },
    /// A packet under way claims its key.
    Claim(usize),
    Step,
    /// The agent is killed; the next one puts programs everywhere before anything else.
    Die,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..3usize, 0..40u8).prop_map(|(hook, key)| Action::Look { hook, key }),
        2 => any::<prop::sample::Index>().prop_map(|index| Action::Claim(index.index(1 << 16))),
        4 => Just(Action::Step),
        1 => Just(Action::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_is_lost_and_nothing_given_twice(actions in prop::collection::vec(action(), 0..200)) {
        let mut kernel = Kernel {
            hooks: vec![Programs::Before; 3],
            old: BTreeMap::new(),
            new: None,
            size: 4,
            new_size: 0,
            writes: WRITES_OLD,
            under_way: Vec::new(),
            given: BTreeMap::new(),
        };
        let mut agent = Agent::default();
        for (owner, action) in (0..).zip(actions) {
            match action {
                Action::Look { hook, key } => kernel.look(hook, key, owner),
                Action::Claim(index) if !kernel.under_way.is_empty() => {
                    let packet = kernel.under_way.swap_remove(index % kernel.under_way.len());
                    kernel.claim(packet);
                }
                Action::Claim(_) => {}
                Action::Step => step(&mut kernel, &mut agent),
                Action::Die => agent = Agent::default(),
            }
        }
        // Left alone, growth comes to its end, and every flow is there.
        kernel.settle();
        for _ in 0..400 {
            step(&mut kernel, &mut agent);
        }
        prop_assert!(kernel.new.is_none() && agent.changing.is_none(), "{kernel:?} {agent:?}");
        let used = kernel.old.len() as u32;
        prop_assert!(used * 10 < kernel.size * 7 || kernel.size == CEILING, "{kernel:?}");
        prop_assert_eq!(kernel.old, kernel.given);
    }
}

#[test]
fn a_table_grows_in_time_and_never_above_its_ceiling() {
    let fill = |used, size| Fill { used, size, idle: 0, floor: 1_024, ceiling: 3_000 };
    let seen = |fills: [Fill; 2]| Seen {
        fills: [FlowTable::Ct, FlowTable::Snat].into_iter().zip(fills).collect(),
        growing: BTreeSet::new(),
        read_both: BTreeSet::new(),
        writes: WRITES_NEW,
        is_left: false,
    };
    let step = |fills| next(&seen(fills));
    let sizes = |sizes: &[(FlowTable, u32)]| Step::Begin(sizes.iter().copied().collect());
    assert_eq!(step([fill(716, 1_024), fill(0, 1_024)]), Step::Rest);
    assert_eq!(step([fill(717, 1_024), fill(511, 1_024)]), sizes(&[(FlowTable::Ct, 2_048)]));
    let both = sizes(&[(FlowTable::Ct, 2_048), (FlowTable::Snat, 2_048)]);
    assert_eq!(step([fill(717, 1_024), fill(512, 1_024)]), both, "half full joins");
    assert_eq!(step([fill(2_000, 2_048), fill(0, 1_024)]), sizes(&[(FlowTable::Ct, 3_000)]), "the ceiling");
    let idle = |used| Fill { idle: 384, ..fill(used, 1_024) };
    assert_eq!(step([idle(447), fill(0, 1_024)]), Step::Rest, "70 % of 640");
    assert_eq!(step([idle(448), fill(0, 1_024)]), sizes(&[(FlowTable::Ct, 2_048)]));
    assert_eq!(step([fill(3_000, 3_000), fill(0, 1_024)]), Step::Rest, "at the ceiling");
    assert_eq!(step([fill(5_000, 5_000), fill(0, 1_024)]), Step::Rest, "above a ceiling that was lowered");
    assert_eq!(
        step([fill(0, 512), fill(0, 1_024)]),
        sizes(&[(FlowTable::Ct, 1_024)]),
        "a floor that was raised"
    );
}
