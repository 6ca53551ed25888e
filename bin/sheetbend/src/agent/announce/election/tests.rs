#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use proptest::prelude::*;

use super::*;

const NODES: [&str; 3] = ["a", "b", "c"];
/// Between two looks of a node.
const TICK: Duration = Duration::from_millis(50);

fn addr(index: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, index])
}

fn name(index: usize) -> NodeName {
    NodeName::new(NODES[index])
}

/// What a Lease is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Heartbeat(NodeName),
    Address(IpAddr),
}

/// On its way to the server or back.
enum Message {
    Ask(usize, Instant, Request),
    Watched(usize, Key, Option<Seen>),
    Renewed(usize, Instant),
    Taken(usize, IpAddr, String),
}

/// Nodes, a server, and wires that take their time.
struct World {
    start: Instant,
    now: Instant,
    nodes: Vec<Election>,
    /// Nodes whose wires are cut: what they send is lost, what they should hear waits.
    cut: [bool; 3],
    leases: BTreeMap<Key, Seen>,
    version: u64,
    /// By time of arrival.
    wires: Vec<(Instant, Message)>,
    latency: Duration,
    writes: usize,
}

impl World {
    fn new(latency: u64) -> Self {
        let now = Instant::now();
        let nodes = (0..3).map(|index| Election::new(name(index))).collect();
        let mut world = Self {
            start: now,
            now,
            nodes,
            cut: [false; 3],
            leases: BTreeMap::new(),
            version: 0,
            wires: Vec::new(),
            latency: Duration::from_millis(latency),
            writes: 0,
        };
        world.nodes.iter_mut().for_each(|node| node.sync(now));
        world
    }

    fn want(&mut self, wanted: &BTreeMap<IpAddr, Vec<NodeName>>) {
        self.nodes.iter_mut().for_each(|node| node.want(wanted.clone()));
    }

    fn write(&mut self, key: Key, seen: Option<NodeName>, remove: bool) -> String {
        self.version += 1;
        self.writes += usize::from(matches!(key, Key::Address(_)));
        let seen = Seen { holder: seen, version: self.version.to_string() };
        if remove {
            self.leases.remove(&key);
        } else {
            self.leases.insert(key.clone(), seen.clone());
        }
        for index in 0..3 {
            let told = (!remove).then(|| seen.clone());
            self.wires.push((self.now + self.latency, Message::Watched(index, key.clone(), told)));
        }
        seen.version
    }

    fn serve(&mut self, index: usize, began: Instant, request: Request) {
        let back = self.now + self.latency;
        let is = |world: &Self, addr: IpAddr, version: Option<&String>| {
            world.leases.get(&Key::Address(addr)).map(|lease| &lease.version) == version
        };
        match request {
            Request::Renew => {
                self.write(Key::Heartbeat(name(index)), Some(name(index)), false);
                self.wires.push((back, Message::Renewed(index, began)));
            }
            Request::Take { addr, version, dead } => {
                if let Some((holder, known)) = dead {
                    let key = Key::Heartbeat(holder);
                    let found = self.leases.get(&key).cloned();
                    if found.as_ref().map(|seen| &seen.version) != known.as_ref() {
                        return self.wires.push((back, Message::Watched(index, key, found)));
                    }
                }
                if is(self, addr, version.as_ref()) {
                    let version = self.write(Key::Address(addr), Some(name(index)), false);
                    self.wires.push((back, Message::Taken(index, addr, version)));
                }
            }
            Request::Release { addr, version } if is(self, addr, Some(&version)) => {
                self.write(Key::Address(addr), None, false);
            }
            Request::Remove { addr, version } if is(self, addr, Some(&version)) => {
                self.write(Key::Address(addr), None, true);
            }
            Request::Release { .. } | Request::Remove { .. } => {}
        }
    }

    fn deliver(&mut self) {
        loop {
            let now = self.now;
            let cut = self.cut;
            let waits = |message: &Message| match message {
                Message::Ask(..) => false,
                Message::Watched(index, ..) | Message::Renewed(index, _) | Message::Taken(index, ..) => {
                    cut[*index]
                }
            };
            let due = self.wires.iter().position(|(at, message)| *at <= now && !waits(message));
            let Some(place) = due else { return };
            match self.wires.remove(place).1 {
                Message::Ask(index, began, request) => {
                    if !self.cut[index] {
                        self.serve(index, began, request);
                    }
                }
                Message::Watched(index, Key::Heartbeat(node), seen) => {
                    self.nodes[index].heartbeat(node, seen, now)
                }
                Message::Watched(index, Key::Address(addr), seen) => self.nodes[index].lease(addr, seen),
                Message::Renewed(index, began) => self.nodes[index].renewed(began),
                Message::Taken(index, addr, version) => self.nodes[index].taken(addr, version, now),
            }
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        self.deliver();
        for index in 0..3 {
            for request in self.nodes[index].due(self.now) {
                if !self.cut[index] {
                    self.wires.push((self.now + self.latency, Message::Ask(index, self.now, request)));
                }
            }
        }
    }

    fn holders(&self, addr: IpAddr) -> Vec<&'static str> {
        (0..3)
            .filter(|index| self.nodes[*index].holds(self.now).contains(&addr))
            .map(|index| NODES[index])
            .collect()
    }

    fn run(&mut self, how_long: Duration) {
        let until = self.now + how_long;
        while self.now < until {
            self.tick();
        }
    }

    /// Time until somebody holds `addr`.
    fn until_held(&mut self, addr: IpAddr) -> Duration {
        let began = self.now;
        while self.holders(addr).is_empty() {
            self.tick();
            assert!(self.now < began + Duration::from_secs(10), "nobody holds {addr}");
        }
        self.now - began
    }
}

fn wanted(order: &[usize]) -> BTreeMap<IpAddr, Vec<NodeName>> {
    BTreeMap::from([(addr(1), order.iter().map(|index| name(*index)).collect())])
}

#[test]
fn the_preferred_candidate_holds_and_another_within_two_seconds_of_its_death() {
    let mut world = World::new(20);
    world.want(&wanted(&[1, 2, 0]));
    world.run(Duration::from_secs(3));
    assert_eq!(world.holders(addr(1)), ["b"]);
    let writes = world.writes;
    world.run(Duration::from_secs(60));
    assert_eq!(
        (world.holders(addr(1)), world.writes),
        (vec!["b"], writes),
        "a holder writes its heartbeat only"
    );

    world.cut[1] = true;
    let died = world.now;
    while world.holders(addr(1)) != ["c"] {
        world.tick();
        assert!(world.now < died + Duration::from_secs(2), "{:?} after two seconds", world.holders(addr(1)));
    }
    // It comes back and waits: an address does not move without need.
    world.cut[1] = false;
    world.run(Duration::from_secs(5));
    assert_eq!(world.holders(addr(1)), ["c"]);
}

#[test]
fn who_leaves_or_may_no_longer_hands_over_at_once() {
    let mut world = World::new(20);
    world.want(&wanted(&[0, 1]));
    world.run(Duration::from_secs(2));
    assert_eq!(world.holders(addr(1)), ["a"]);
    world.want(&wanted(&[1, 2]));
    assert!(world.holders(addr(1)).is_empty());
    assert!(world.until_held(addr(1)) <= Duration::from_millis(300));
    assert_eq!(world.holders(addr(1)), ["b"]);
    // As an agent that ends does.
    world.cut[1] = true;
    world.write(Key::Heartbeat(name(1)), None, false);
    world.nodes[1] = Election::new(name(1));
    assert!(world.until_held(addr(1)) <= Duration::from_millis(300));
    assert_eq!(world.holders(addr(1)), ["c"]);
    world.want(&BTreeMap::new());
    world.run(Duration::from_secs(1));
    assert!(!world.leases.contains_key(&Key::Address(addr(1))), "no Lease is left of it");
}

#[test]
fn who_has_given_an_address_away_does_not_answer_for_it_unheard() {
    for given_up in [BTreeMap::from([(addr(1), Vec::new())]), BTreeMap::new()] {
        let mut world = World::new(1);
        world.want(&wanted(&[0]));
        world.run(Duration::from_secs(2));
        assert_eq!(world.holders(addr(1)), ["a"]);
        world.want(&given_up);
        world.run(TICK * 2);
        // It is to hold it again, and does not hear that its Lease is free.
        world.want(&wanted(&[0, 2]));
        world.cut[0] = true;
        for _ in 0..40 {
            world.tick();
            assert!(world.holders(addr(1)).len() <= 1, "{:?}", world.holders(addr(1)));
        }
        assert_eq!(world.holders(addr(1)), ["c"]);
    }
}

#[test]
fn a_holder_whose_heartbeat_is_only_slow_to_be_seen_is_left_alone() {
    let mut world = World::new(20);
    world.want(&wanted(&[0, 1]));
    world.run(Duration::from_secs(2));
    assert_eq!(world.holders(addr(1)), ["a"]);
    // The watch of `b` stands still, its requests go through.
    for _ in 0..100 {
        world.wires.retain(|(_, message)| !matches!(message, Message::Watched(1, Key::Heartbeat(node), _) if *node == name(0)));
        world.tick();
        assert_eq!(world.holders(addr(1)), ["a"]);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Cut(usize, bool),
    Want(Vec<(u8, Vec<usize>)>),
    Restart(usize),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let candidates = prop::collection::vec(prop::sample::subsequence(vec![0, 1, 2], 0..=3).prop_shuffle(), 2);
    let wants = candidates.prop_map(|all| (1..).zip(all).collect::<Vec<_>>());
    prop_oneof![
        3 => (0..3_usize, any::<bool>()).prop_map(|(index, cut)| Event::Cut(index, cut)),
        2 => wants.prop_map(Event::Want),
        1 => (0..3_usize).prop_map(Event::Restart),
        6 => (1..60_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn never_two_and_in_the_end_one(events in prop::collection::vec(event(), 1..30), latency in 0..120_u64) {
        let mut world = World::new(latency);
        let mut wants: BTreeMap<IpAddr, Vec<NodeName>> = BTreeMap::new();
        for event in events {
            match event {
                Event::Cut(index, cut) => world.cut[index] = cut,
                Event::Want(all) => {
                    wants = all.into_iter()
                        .map(|(index, order)| (addr(index), order.into_iter().map(name).collect())).collect();
                    world.want(&wants);
                }
                Event::Restart(index) => {
                    // Leases are listed anew, and what was on the wires is for nobody.
                    world.wires.retain(|(_, message)| !matches!(message,
                        Message::Watched(to, ..) | Message::Renewed(to, _) | Message::Taken(to, ..) if *to == index));
                    world.nodes[index] = Election::new(name(index));
                    world.nodes[index].want(wants.clone());
                    for (key, seen) in world.leases.clone() {
                        match key {
                            Key::Heartbeat(node) => world.nodes[index].heartbeat(node, Some(seen), world.now),
                            Key::Address(addr) => world.nodes[index].lease(addr, Some(seen)),
                        }
                    }
                    world.nodes[index].sync(world.now);
                }
                Event::Wait(ticks) => for _ in 0..ticks {
                    world.tick();
                    for index in 1..=2 {
                        let holders = world.holders(addr(index));
                        prop_assert!(holders.len() <= 1, "{:?} hold {} at {:?}", holders, addr(index), world.now - world.start);
                    }
                },
            }
        }
        world.cut = [false; 3];
        world.run(Duration::from_secs(6));
        for (addr, candidates) in &wants {
            prop_assert_eq!(world.holders(*addr).len(), usize::from(!candidates.is_empty()), "{}", addr);
        }
    }
}
