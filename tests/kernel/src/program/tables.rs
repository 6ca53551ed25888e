#![allow(
    unsafe_code,
    reason = "ABI types become keys and values of maps, and records of the ring buffer events"
)]
//! One node's maps, loaded from the committed object and filled by hand with the types of the ABI.

use std::{borrow::BorrowMut, path::Path};

use anyhow::{Context, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuHashMap, ProgramArray, RingBuf, lpm_trie::Key},
    programs::{CgroupAttachMode, Program, SchedClassifier},
};
use sheetbend_ebpf_abi::{
    Addr, BackendEntry, ClassKey, CounterKey, CounterValue, CtEntry, CtKey, Event, Hook, NodeConfig,
    PodEntry, PrefixKey, Reason, RouteEntry, RuleKey, RuleValue, SOCKET_PROGRAMS, STAGE_PROGRAMS,
    ServiceEntry, ServiceFlowKey, ServiceFlowValue, ServiceKey, SourceKey, VERDICT_ALLOW, VERDICT_DENY,
    names,
};

/// An ABI type as a map key or value.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Plain<T>(pub T);

// SAFETY: every ABI type is `repr(C)`, `Copy`, and names all its bytes.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

/// Entries of a table of flows.
pub type Flows = Vec<(CtKey, CtEntry)>;

/// Maps and programs of one node.
pub struct Tables {
    ebpf: Ebpf,
    /// An unpinned program array is emptied when its last user goes. It goes with this value, and not at the end of the
    /// process with those of all other cases: kernel 6.18 stops loading and freeing programs for good when more than
    /// 1,000 are freed at once.
    _stages: ProgramArray<MapData>,
}

impl Tables {
    /// Loads an object. Map pins go to `pins`, a directory on a bpffs. Big maps are made small. `growing`: tables with an
    /// older one beside them (`GROWS_*`).
    ///
    /// # Errors
    /// What the kernel says, with the verifier's log.
    pub fn load(object: &Path, pins: &Path, growing: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global("GROWING", &growing, true);
        loader.default_map_pin_directory(pins);
        for name in [
            names::CLASSES,
            names::BLOCKS,
            names::RULES,
            names::ROUTES,
            names::SERVICES,
            names::SERVICE_ADDRESSES,
            names::SLOTS,
            names::BACKENDS,
            names::CONNECTIONS,
            names::AFFINITY,
            names::SOCKETS,
            names::ROUND_ROBIN,
            names::CT,
            names::CT_NEW,
            names::SERVICE_FLOWS,
            names::SNAT,
            names::FRAGMENTS,
            names::SYMBOLS,
            "CT_OLD",
            "SERVICE_FLOWS_OLD",
            "SNAT_OLD",
        ] {
            loader.map_max_entries(name, 4096);
        }
        // A flow from each port that the programs draw.
        loader.map_max_entries(names::CT, 20_000);
        let mut ebpf = loader.load_file(object).with_context(|| format!("loading {}", object.display()))?;
        let programs: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in &programs {
            load(&mut ebpf, name).with_context(|| format!("program {name}"))?;
        }
        let mut stages = ProgramArray::try_from(ebpf.take_map(names::STAGES).context("no map STAGES")?)?;
        for (slot, name) in (0..).zip(STAGE_PROGRAMS) {
            let fd = classifier(&mut ebpf, name)?.fd()?.try_clone()?;
            stages.set(slot, &fd, 0)?;
        }
        Ok(Self { ebpf, _stages: stages })
    }

    /// A hook's program.
    ///
    /// # Errors
    /// When the object has none of that name.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        classifier(&mut self.ebpf, name)
    }

    /// Puts the programs of sockets on a cgroup, as long as this value lives.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach_sockets(&mut self, cgroup: &std::fs::File) -> Result<()> {
        for (name, _) in SOCKET_PROGRAMS {
            let program = self.ebpf.program_mut(name).ok_or_else(|| anyhow!("no program {name}"))?;
            if let Program::CgroupSock(program) = program {
                program
                    .attach(cgroup, CgroupAttachMode::Single)
                    .with_context(|| format!("program {name}"))?;
                continue;
            }
            let program: &mut aya::programs::CgroupSockAddr = program.try_into()?;
            program.attach(cgroup, CgroupAttachMode::Single).with_context(|| format!("program {name}"))?;
        }
        Ok(())
    }

    /// Names of all programs.
    pub fn programs(&self) -> Vec<String> {
        self.ebpf.programs().map(|(name, _)| name.to_owned()).collect()
    }

    fn map<'a, M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>>(
        &'a mut self,
        name: &str,
    ) -> Result<M> {
        Ok(M::try_from(self.ebpf.map_mut(name).ok_or_else(|| anyhow!("no map {name}"))?)?)
    }

    fn put<K: Copy + 'static, V: Copy + 'static>(&mut self, name: &str, key: K, value: V) -> Result<()> {
        let mut map: HashMap<&mut MapData, Plain<K>, Plain<V>> = self.map(name)?;
        map.insert(Plain(key), Plain(value), 0).with_context(|| format!("writing {name}"))
    }

    fn put_prefix<K: Copy + 'static, V: Copy + 'static>(
        &mut self,
        name: &str,
        bits: u32,
        data: K,
        value: V,
    ) -> Result<()> {
        let mut map: LpmTrie<&mut MapData, Plain<K>, Plain<V>> = self.map(name)?;
        map.insert(&Key::new(bits, Plain(data)), Plain(value), 0).with_context(|| format!("writing {name}"))
    }

    /// Removes a key of a hash.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove<K: Copy + 'static, V: Copy + 'static>(&mut self, name: &str, key: K) -> Result<()> {
        let mut map: HashMap<&mut MapData, Plain<K>, Plain<V>> = self.map(name)?;
        map.remove(&Plain(key)).with_context(|| format!("removing from {name}"))
    }

    /// Takes a pod's address away, as when the pod is removed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_local(&mut self, addr: Addr) -> Result<()> {
        self.remove::<ClassKey, u32>(names::LOCAL, ClassKey { network: 0, addr })
    }

    /// Forgets all flows, Service flows too.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear_flows(&mut self) -> Result<()> {
        for name in [names::CT, names::CT_NEW] {
            for (key, _) in self.all::<CtKey, CtEntry>(name)? {
                self.remove::<CtKey, CtEntry>(name, key)?;
            }
        }
        for (key, _) in self.all::<ServiceFlowKey, ServiceFlowValue>(names::SERVICE_FLOWS)? {
            self.remove::<ServiceFlowKey, ServiceFlowValue>(names::SERVICE_FLOWS, key)?;
        }
        Ok(())
    }

    /// Verified instructions of every program, by name.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn instructions(&mut self) -> Result<Vec<(String, u32)>> {
        let mut found = Vec::new();
        for name in self.programs() {
            let program = self.ebpf.program(&name).context("a program of that name")?;
            let info = program.info()?;
            found.push((name, info.verified_instruction_count().context("kernel 5.16 counts them")?));
        }
        Ok(found)
    }

    /// All entries of a hash.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn all<K: Copy + 'static, V: Copy + 'static>(&mut self, name: &str) -> Result<Vec<(K, V)>> {
        let map: HashMap<&mut MapData, Plain<K>, Plain<V>> = self.map(name)?;
        map.iter().map(|entry| entry.map(|(key, value)| (key.0, value.0)).map_err(Into::into)).collect()
    }

    /// Writes the value of an array of one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn config(&mut self, config: NodeConfig) -> Result<()> {
        let mut map: Array<&mut MapData, Plain<NodeConfig>> = self.map(names::CONFIG)?;
        Ok(map.set(0, Plain(config), 0)?)
    }

    /// Sets the policy epoch.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn epoch(&mut self, epoch: u32) -> Result<()> {
        let mut map: Array<&mut MapData, u32> = self.map(names::POLICY_EPOCH)?;
        Ok(map.set(0, epoch, 0)?)
    }

    /// Which of a growing table's two maps the programs write to: `WRITES_*`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn writes(&mut self, writes: u32) -> Result<()> {
        let mut map: Array<&mut MapData, u32> = self.map(names::GROWTH)?;
        Ok(map.set(0, writes, 0)?)
    }

    /// Writes an entry of a hash.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn put_flow<K: Copy + 'static, V: Copy + 'static>(&mut self, name: &str, row: (K, V)) -> Result<()> {
        self.put(name, row.0, row.1)
    }

    /// Enters a pod, with its addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pod(&mut self, ifindex: u32, pod: PodEntry) -> Result<()> {
        for addr in [pod.ipv4, pod.ipv6] {
            self.put(names::LOCAL, ClassKey { network: pod.network, addr }, ifindex)?;
        }
        self.put(names::PODS, ifindex, pod)
    }

    /// Says who has an address of Services: `ADDRESS_*`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn service_address(&mut self, addr: Addr, holder: u32) -> Result<()> {
        self.put(names::SERVICE_ADDRESSES, ClassKey { network: 0, addr }, holder)
    }

    /// Gives an address a class.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn class(&mut self, addr: Addr, class: u32) -> Result<()> {
        self.put(names::CLASSES, ClassKey { network: 0, addr }, class)
    }

    /// Gives a block a class; `bits` counts those of the 16-byte address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn block(&mut self, addr: Addr, bits: u32, class: u32) -> Result<()> {
        self.put_prefix(names::BLOCKS, 32 + bits, PrefixKey { network: [0; 4], addr }, class)
    }

    /// Adds a rule that allows.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn rule(&mut self, bits: u32, key: RuleKey, origin: u32) -> Result<()> {
        self.put_prefix(names::RULES, bits, key, RuleValue { verdict: VERDICT_ALLOW, origin })
    }

    /// Adds a rule that denies.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn denial(&mut self, bits: u32, key: RuleKey, origin: u32) -> Result<()> {
        self.put_prefix(names::RULES, bits, key, RuleValue { verdict: VERDICT_DENY, origin })
    }

    /// Adds a route; `bits` counts those of the 16-byte address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn route(&mut self, addr: Addr, bits: u32, route: RouteEntry) -> Result<()> {
        self.put_prefix(names::ROUTES, 32 + bits, PrefixKey { network: [0; 4], addr }, route)
    }

    /// Enters a Service whose backends take the slots from `entry.first_slot` on, numbered as given.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn service(
        &mut self,
        key: ServiceKey,
        entry: ServiceEntry,
        backends: &[(u32, BackendEntry)],
    ) -> Result<()> {
        for (slot, (number, backend)) in (entry.first_slot..).zip(backends) {
            self.put(names::SLOTS, slot, *number)?;
            self.put(names::BACKENDS, *number, *backend)?;
        }
        self.put(names::SERVICES, key, entry)
    }

    /// The Service with this number admits clients of `addr`'s first `bits` bits.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn source(&mut self, service: u32, addr: Addr, bits: u32) -> Result<()> {
        let key = SourceKey { service: service.to_be_bytes(), client: addr };
        self.put_prefix(names::SOURCES, 32 + bits, key, 1u32)
    }

    /// Takes it back.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_source(&mut self, service: u32, addr: Addr, bits: u32) -> Result<()> {
        let key = SourceKey { service: service.to_be_bytes(), client: addr };
        let mut map: LpmTrie<&mut MapData, Plain<SourceKey>, Plain<u32>> = self.map(names::SOURCES)?;
        map.remove(&Key::new(32 + bits, Plain(key))).context("removing from SOURCES")
    }

    /// Writes the rows of `SLOTS` from `first` on: backend numbers, with weights.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn slots(&mut self, first: u32, rows: impl IntoIterator<Item = u32>) -> Result<()> {
        (first..).zip(rows).try_for_each(|(slot, row)| self.put(names::SLOTS, slot, row))
    }

    /// Live flows that are counted for a backend.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connections(&mut self, backend: u32) -> Result<u64> {
        let map: Array<&mut MapData, u64> = self.map(names::CONNECTIONS)?;
        Ok(map.get(&backend, 0)?)
    }

    /// Forgets how many flows each backend has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear_connections(&mut self) -> Result<()> {
        let mut map: Array<&mut MapData, u64> = self.map(names::CONNECTIONS)?;
        (0..map.len()).try_for_each(|backend| Ok(map.set(backend, 0, 0)?))
    }

    /// Packets and bytes counted for (interface, hook, reason) on all CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counter(&mut self, ifindex: u32, hook: Hook, reason: Reason) -> Result<CounterValue> {
        let map: PerCpuHashMap<&mut MapData, Plain<CounterKey>, Plain<CounterValue>> =
            self.map(names::COUNTERS)?;
        let key = CounterKey { ifindex, hook: hook as u16, reason: reason as u16 };
        let Ok(values) = map.get(&Plain(key), 0) else { return Ok(CounterValue::default()) };
        Ok(values.iter().fold(CounterValue::default(), |sum, value| CounterValue {
            packets: sum.packets + value.0.packets,
            bytes: sum.bytes + value.0.bytes,
        }))
    }

    /// Counts from nothing again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear_counters(&mut self) -> Result<()> {
        let mut map: PerCpuHashMap<&mut MapData, Plain<CounterKey>, Plain<CounterValue>> =
            self.map(names::COUNTERS)?;
        let keys: Vec<_> = map.keys().collect::<Result<_, _>>()?;
        keys.into_iter().try_for_each(|key| map.remove(&key).context("removing from COUNTERS"))
    }

    /// Takes the events that wait.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut ring: RingBuf<&mut MapData> = self.map(names::EVENTS)?;
        let mut events = Vec::new();
        while let Some(item) = ring.borrow_mut().next() {
            // SAFETY: the programs write whole events.
            events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
        }
        Ok(events)
    }

    /// Flows: those seen both ways, and the half-open ones.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flows(&mut self) -> Result<(Flows, Flows)> {
        Ok((self.all(names::CT)?, self.all(names::CT_NEW)?))
    }
}

/// `SO_NETNS_COOKIE` of a socket's network namespace.
///
/// # Errors
/// What the kernel says.
pub fn netns_cookie(socket: &impl std::os::fd::AsRawFd) -> Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as nix::libc::socklen_t;
    // SAFETY: `cookie` has the length that is named, and lives until the call returns.
    let failed = unsafe {
        nix::libc::getsockopt(
            socket.as_raw_fd(),
            nix::libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    anyhow::ensure!(failed == 0, "SO_NETNS_COOKIE: {}", std::io::Error::last_os_error());
    Ok(cookie)
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    match ebpf.program_mut(name) {
        Some(Program::CgroupSockAddr(program)) => Ok(program.load()?),
        Some(Program::CgroupSock(program)) => Ok(program.load()?),
        _ => Ok(classifier(ebpf, name)?.load()?),
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).ok_or_else(|| anyhow!("no program {name}"))?.try_into()?)
}
