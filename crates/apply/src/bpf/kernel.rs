//! The eBPF side of this node's kernel.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{Map, MapData, RingBuf};
use nix::time::{ClockId, clock_gettime};
use sheetbend_ebpf_abi as abi;
use sheetbend_ebpf_abi::{Hook, NodeConfig, PrefixKey, SymbolKind, names as map};
use sheetbend_model::plan::{Class, Origin, PolicySet, Step};
use sheetbend_model::state::{AttachmentId, NetworkMode};
use sheetbend_model::types::{AddrKey, BlockKey, ObjectKey};

use super::connections::LiveConnections;
use super::error::BpfError;
use super::growth::{GrowthState, Maps};
use super::loader::{self, Link, Pins, Version};
use super::moves::Moves;
use super::names::Names;
use super::numbers::Numbers;
use super::object::{PINNED, ProgramObject};
use super::plain::{Lpm, Plain};
use super::rows;
use super::services::Services;
use super::shut::Shut;
use super::sources::Sources;
use super::symbols;
use super::sys;
use super::table::Table;

/// How [`Kernel::open`] finds its place.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    /// Where a bpffs is mounted, as `/sys/fs/bpf`. Nothing is mounted by us.
    pub bpffs: PathBuf,
    /// Name of this agent's pins below `<bpffs>/sheetbend/`; one agent at a time.
    pub instance: String,
    /// What the kernel programs know of the node. Mode and node addresses come from the Dataplane's overlay. Without an
    /// uplink: what an earlier process said stays, until [`Kernel::configure`].
    pub node: NodeConfig,
    /// Another eBPF object than the built-in one.
    pub object: Option<PathBuf>,
    /// Map name → max entries, where it is not the documented limit (`sheetbend_ebpf_abi::limits`). A map keeps its
    /// size while it is pinned. A hash costs 16 bytes of kernel memory for each possible entry.
    pub limits: BTreeMap<String, u32>,
    /// Map name → max entries that it may grow to while it is used: `CT`, `SERVICE_FLOWS`, `SNAT`. Others do not grow, nor
    /// one that is not named.
    pub ceilings: BTreeMap<String, u32>,
}

/// The tables that configuration writes.
pub(super) struct Tables {
    pub(super) config: Table<u32, NodeConfig>,
    pub(super) pod_range: Table<u32, abi::Addr>,
    pub(super) epoch: Table<u32, u32>,
    pub(super) pods: Table<u32, abi::PodEntry>,
    pub(super) local: Table<abi::ClassKey, u32>,
    pub(super) classes: Table<abi::ClassKey, u32>,
    pub(super) blocks: Table<Lpm<PrefixKey>, u32>,
    pub(super) rules: Table<Lpm<abi::RuleKey>, abi::RuleValue>,
    pub(super) routes: Table<Lpm<PrefixKey>, abi::RouteEntry>,
    pub(super) services: Table<abi::ServiceKey, abi::ServiceEntry>,
    pub(super) service_addresses: Table<abi::ClassKey, u32>,
    pub(super) sources: Table<Lpm<abi::SourceKey>, u32>,
    pub(super) slots: Table<u32, u32>,
    pub(super) backends: Table<u32, abi::BackendEntry>,
    pub(super) growth: Table<u32, u32>,
}

/// The tables of flows, which the kernel's programs write.
pub(super) struct Flows {
    pub(super) ct: Table<abi::CtKey, abi::CtEntry>,
    pub(super) ct_new: Table<abi::CtKey, abi::CtEntry>,
    pub(super) service_flows: Table<abi::ServiceFlowKey, abi::ServiceFlowValue>,
    pub(super) snat: Table<abi::SnatKey, abi::SnatValue>,
    pub(super) affinity: Table<abi::AffinityKey, abi::AffinityValue>,
    pub(super) sockets: Table<abi::SocketKey, abi::SocketValue>,
    pub(super) round_robin: Table<u32, u32>,
    pub(super) connections: Table<u32, u64>,
}

/// A row of `BLOCKS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockRow {
    /// Its class.
    pub(super) class: u32,
    /// What the kernel holds: the class, or 0 while an exception inside could not be written.
    pub(super) shown: u32,
}

/// A pod whose rows the kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodRows {
    pub(super) ifindex: u32,
    pub(super) addresses: Vec<AddrKey>,
    /// Its row in `PODS` while nothing is missing.
    pub(super) row: abi::PodEntry,
    /// Its set, if that has tiers.
    pub(super) tiers: Option<PolicySet>,
    /// Whose it is, for messages.
    pub(super) pod: Option<ObjectKey>,
}

/// Symbol, by the place of its content in memory → number. Valid while the Dataplane or Plan is borrowed.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) classes: HashMap<(usize, usize), u32>,
    pub(super) sets: HashMap<[usize; 6], u32>,
}

/// The eBPF side of this node's kernel: programs on devices, and the tables they read.
///
/// All calls block and belong to one thread in the network namespace of the node's devices. Every change is made to
/// the kernel at once; nothing is lost when the process is killed at any point, and the next [`Kernel::open`] goes on.
pub struct Kernel {
    pub(super) pins: Pins,
    pub(super) object: ProgramObject,
    pub(super) limits: BTreeMap<String, u32>,
    pub(super) ceilings: BTreeMap<String, u32>,
    pub(super) version: Version,
    pub(super) growth: GrowthState,
    pub(super) moves: Moves,
    pub(super) live: bool,
    pub(super) tables: Tables,
    pub(super) flows: Flows,
    pub(super) numbers: Numbers,
    pub(super) names: Arc<Names>,
    pub(super) seen: Seen,
    pub(super) config: NodeConfig,
    pub(super) mode: NetworkMode,
    pub(super) routes: BTreeMap<BlockKey, abi::RouteEntry>,
    pub(super) blocks: BTreeMap<BlockKey, BlockRow>,
    /// Exceptions from enclosing blocks that could not be written.
    pub(super) unmet: BTreeSet<BlockKey>,
    pub(super) shut: Shut,
    pub(super) rules: BTreeMap<[u8; 16], abi::RuleValue>,
    pub(super) pods: BTreeMap<AttachmentId, PodRows>,
    pub(super) services: Services,
    pub(super) sources: Sources,
    /// Addresses of pods that went, as long as flows of theirs may be left → since when, ns of CLOCK_MONOTONIC.
    /// `None` until the flows have been looked through once.
    pub(super) gone: Option<BTreeMap<AddrKey, u64>>,
    /// Steps that failed and are still wanted.
    pub(super) waiting: Vec<Step>,
    pub(super) verdicts_changed: bool,
    /// The backend whose count of live flows is looked at next.
    pub(super) count_next: u32,
    pub(super) synced: bool,
}

impl Kernel {
    /// Opens or makes the maps of this instance, reads back what they hold, and loads this version's programs beside
    /// those in use. The first [`Kernel::sync`] makes them live.
    pub fn open(config: KernelConfig) -> Result<Self, BpfError> {
        let object = ProgramObject::open(config.object.as_deref(), &config.limits)?;
        let pins = Pins::open(&config.bpffs, &config.instance)?;
        loader::check_layouts(&pins, &object)?;
        let growing = Maps::pinned(&pins);
        let version = loader::programs(&pins, &object, &config.limits, &growing)?;
        let moves = Moves::new(&config.instance, &version)?;
        let maps = OpenMaps { pins: &pins, object: &object };
        let tables = maps.tables()?;
        let flows = maps.flows()?;
        let numbers = Numbers::open(maps.table(map::SYMBOLS)?, monotonic())?;
        let mut kernel = Self {
            pins,
            object,
            limits: config.limits,
            ceilings: config.ceilings,
            version,
            growth: GrowthState::default(),
            moves,
            live: false,
            tables,
            flows,
            numbers,
            names: Arc::default(),
            seen: Seen::default(),
            config: config.node,
            mode: NetworkMode::default(),
            routes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            unmet: BTreeSet::new(),
            shut: Shut::default(),
            rules: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: Services::default(),
            sources: Sources::default(),
            gone: None,
            waiting: Vec::new(),
            verdicts_changed: false,
            count_next: 0,
            synced: false,
        };
        kernel.open_newer(&growing)?;
        kernel.read_back()?;
        Ok(kernel)
    }

    /// What the kernel holds: the rows that can't be asked for one by one, and who holds which number.
    fn read_back(&mut self) -> Result<(), BpfError> {
        self.read_back_node()?;
        for (key, entry) in self.tables.routes.all()? {
            match rows::prefix_key_back(&key) {
                Some(block) => drop(self.routes.insert(block, entry)),
                None => drop(self.tables.routes.delete(&key)?),
            }
        }
        for (key, class) in self.tables.blocks.all()? {
            match rows::prefix_key_back(&key) {
                Some(block) => {
                    self.numbers.hold(SymbolKind::Class, class);
                    self.blocks.insert(block, BlockRow { class, shown: class });
                }
                None => drop(self.tables.blocks.delete(&key)?),
            }
        }
        for (key, value) in self.tables.rules.all()? {
            self.hold_rule(&key, &value);
            self.rules.insert(rule_bytes(&key), value);
        }
        let numbers = &mut self.numbers;
        self.tables.classes.for_each(|_, class| numbers.hold(SymbolKind::Class, class))?;
        self.tables.pods.for_each(|_, pod| numbers.hold(SymbolKind::PolicySet, pod.set))?;
        self.services = Services::read_back(&self.tables, numbers)?;
        self.sources = Sources::read_back(&self.tables)?;
        Ok(())
    }

    /// The node's own two arrays. What an earlier process knew of mode and addresses stays until the first sync.
    fn read_back_node(&mut self) -> Result<(), BpfError> {
        let before = self.tables.config.get(&0)?.unwrap_or_default();
        if before.mode != 0 {
            self.config = NodeConfig {
                mode: before.mode,
                node_ipv4: before.node_ipv4,
                node_ipv6: before.node_ipv6,
                flags: before.flags,
                netns: before.netns,
                ..if self.config.uplink_ifindex == 0 { before } else { self.config }
            };
            self.mode =
                if before.mode == abi::MODE_HOST_GW { NetworkMode::HostGw } else { NetworkMode::Vxlan };
        }
        self.write_config()?;
        if self.tables.epoch.get(&0)?.unwrap_or(0) == 0 {
            self.tables.epoch.put(&0, &1)?;
        }
        Ok(())
    }

    /// Tells the programs other facts of the node (uplink, MTUs, ports); mode and addresses stay the overlay's.
    pub fn configure(&mut self, node: NodeConfig) -> Result<(), BpfError> {
        let NodeConfig { mode, node_ipv4, node_ipv6, flags, netns, .. } = self.config;
        self.config = NodeConfig { mode, node_ipv4, node_ipv6, flags, netns, ..node };
        self.write_config()
    }

    pub(super) fn write_config(&mut self) -> Result<(), BpfError> {
        if self.tables.config.get(&0)? == Some(self.config) {
            return Ok(());
        }
        self.tables.config.put(&0, &self.config)
    }

    /// Puts the pod programs on the host end of a pod's veth, unless filters run them there. Without a row in `PODS`
    /// they drop everything.
    pub fn attach_pod(&self, ifindex: u32) -> Result<(), BpfError> {
        if self.moves.contains(ifindex) {
            return Ok(());
        }
        self.attach(&[Hook::FromPod, Hook::ToPod], ifindex)
    }

    /// Puts the uplink programs on `ifindex`.
    pub fn attach_uplink(&self, ifindex: u32) -> Result<(), BpfError> {
        self.attach(&[Hook::FromUplink, Hook::ToUplink], ifindex)
    }

    /// Puts the tunnel programs on `ifindex`.
    pub fn attach_tunnel(&self, ifindex: u32) -> Result<(), BpfError> {
        self.attach(&[Hook::FromTunnel, Hook::ToTunnel], ifindex)
    }

    fn attach(&self, hooks: &[Hook], ifindex: u32) -> Result<(), BpfError> {
        hooks.iter().try_for_each(|hook| self.version.attach(&self.pins, *hook, ifindex))
    }

    /// Forgets a pod's device that goes. Its programs go with it; taking them off before would wait for two RCU grace
    /// periods more. [`Kernel::sweep`] removes the pins.
    pub fn forget_pod(&mut self, ifindex: u32) {
        self.moves.forget(ifindex);
    }

    /// Which device runs which program.
    pub fn links(&self) -> Result<Vec<Link>, BpfError> {
        loader::read_links(&self.pins)
    }

    /// Pins of links that are on none of `devices`, or not on the device that they are named after.
    pub fn stray_links(&self, devices: &BTreeSet<u32>) -> Result<Vec<String>, BpfError> {
        loader::stray(&self.pins, devices)
    }

    /// Puts this version's programs on every device that runs another version's, without a gap, and removes what is
    /// left of other versions. The first [`Kernel::sync`] calls it.
    pub fn go_live(&mut self) -> Result<(), BpfError> {
        self.version.go_live(&self.pins)?;
        self.moves.adopt()?;
        sys::wait_for_programs();
        self.version.remove_others(&self.pins)?;
        self.note_read_both(&Maps::pinned(&self.pins));
        self.live = true;
        Ok(())
    }

    /// Names this version's programs: digest of the object.
    pub fn version(&self) -> &str {
        self.version.directory.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// What the numbers in events mean, as of the last run.
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// The ring buffer of events. One reader at a time.
    pub fn events(&self) -> Result<RingBuf<MapData>, BpfError> {
        let error = |error: aya::maps::MapError| BpfError::Load {
            what: map::EVENTS.into(),
            reason: error.to_string(),
        };
        let data = MapData::from_pin(self.pins.map(map::EVENTS)).map_err(error)?;
        RingBuf::try_from(Map::RingBuf(data)).map_err(error)
    }

    /// The per-CPU counters, `CounterKey` → `CounterValue`.
    pub fn counters(&self) -> Result<MapData, BpfError> {
        MapData::from_pin(self.pins.map(map::COUNTERS))
            .map_err(|error| BpfError::Load { what: map::COUNTERS.into(), reason: error.to_string() })
    }

    /// How many live flows each backend has, for another thread to read.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn live_connections(&self) -> Result<LiveConnections, BpfError> {
        Ok(LiveConnections {
            backends: self.tables.backends.another()?,
            connections: self.flows.connections.another()?,
        })
    }

    pub(super) fn class_number(&mut self, class: &Class) -> Result<u32, BpfError> {
        if class.is_empty() {
            return Ok(0);
        }
        let place = (class.terms().as_ptr() as usize, class.terms().len());
        if let Some(number) = self.seen.classes.get(&place) {
            return Ok(*number);
        }
        let number = self.numbers.number(SymbolKind::Class, symbols::class(class))?;
        self.seen.classes.insert(place, number);
        if !self.names.classes.contains_key(&number) {
            Arc::make_mut(&mut self.names).classes.insert(number, class.clone());
        }
        Ok(number)
    }

    pub(super) fn set_number(&mut self, set: &PolicySet) -> Result<u32, BpfError> {
        if set.is_empty() {
            return Ok(0);
        }
        let place = [
            set.policies.as_ptr() as usize,
            set.policies.len(),
            set.tiers.as_ptr() as usize,
            set.tiers.len(),
            set.named_ports.as_ptr() as usize,
            set.named_ports.len(),
        ];
        if let Some(number) = self.seen.sets.get(&place) {
            return Ok(*number);
        }
        let number = self.numbers.number(SymbolKind::PolicySet, symbols::policy_set(set))?;
        self.seen.sets.insert(place, number);
        if !self.names.sets.contains_key(&number) {
            Arc::make_mut(&mut self.names).sets.insert(number, set.clone());
        }
        Ok(number)
    }

    pub(super) fn origin_number(&mut self, origin: &Origin) -> Result<u32, BpfError> {
        let number = self.numbers.number(SymbolKind::Origin, symbols::origin(origin))?;
        if !self.names.origins.contains_key(&number) {
            Arc::make_mut(&mut self.names).origins.insert(number, origin.clone());
        }
        Ok(number)
    }

    /// Begins a run: the clock is read once.
    pub(super) fn begin(&mut self) {
        self.seen = Seen::default();
        self.numbers.now = monotonic();
    }
}

/// The maps by their pins.
struct OpenMaps<'a> {
    pins: &'a Pins,
    object: &'a ProgramObject,
}

impl OpenMaps<'_> {
    fn table<K: Plain, V: Plain>(&self, name: &'static str) -> Result<Table<K, V>, BpfError> {
        let path = self.pins.map(name);
        let fd: OwnedFd = sys::open_pin(&path).map_err(|source| loader::pin_error(&path, source))?;
        let content = PINNED.iter().find(|(pinned, _)| *pinned == name).map_or("", |(_, content)| content);
        let layout = self.object.maps[name];
        let fits = layout.key_size as usize == size_of::<K>() && layout.value_size as usize == size_of::<V>();
        if !fits {
            let reason = format!("map {name} has other keys or values than this build's ABI");
            return Err(BpfError::Object { reason });
        }
        let limit = if loader::grows(name) {
            loader::read_layout(name, &path)?.max_entries
        } else {
            layout.max_entries
        };
        Ok(Table::new(name, content, limit, fd))
    }

    fn tables(&self) -> Result<Tables, BpfError> {
        Ok(Tables {
            config: self.table(map::CONFIG)?,
            pod_range: self.table(map::POD_RANGE)?,
            epoch: self.table(map::POLICY_EPOCH)?,
            pods: self.table(map::PODS)?,
            local: self.table(map::LOCAL)?,
            classes: self.table(map::CLASSES)?,
            blocks: self.table(map::BLOCKS)?,
            rules: self.table(map::RULES)?,
            routes: self.table(map::ROUTES)?,
            services: self.table(map::SERVICES)?,
            service_addresses: self.table(map::SERVICE_ADDRESSES)?,
            sources: self.table(map::SOURCES)?,
            slots: self.table(map::SLOTS)?,
            backends: self.table(map::BACKENDS)?,
            growth: self.table(map::GROWTH)?,
        })
    }

    fn flows(&self) -> Result<Flows, BpfError> {
        Ok(Flows {
            ct: self.table(map::CT)?,
            ct_new: self.table(map::CT_NEW)?,
            service_flows: self.table(map::SERVICE_FLOWS)?,
            snat: self.table(map::SNAT)?,
            affinity: self.table(map::AFFINITY)?,
            sockets: self.table(map::SOCKETS)?,
            round_robin: self.table(map::ROUND_ROBIN)?,
            connections: self.table(map::CONNECTIONS)?,
        })
    }
}

impl Tables {
    /// (name, writes, deletions) of every table since the last call.
    pub(super) fn take_counts(&self) -> [(&'static str, u64, u64); 14] {
        [
            self.config.take_counts(),
            self.pod_range.take_counts(),
            self.epoch.take_counts(),
            self.pods.take_counts(),
            self.local.take_counts(),
            self.classes.take_counts(),
            self.blocks.take_counts(),
            self.rules.take_counts(),
            self.routes.take_counts(),
            self.services.take_counts(),
            self.service_addresses.take_counts(),
            self.sources.take_counts(),
            self.slots.take_counts(),
            self.backends.take_counts(),
        ]
    }
}

/// A rule's key as bytes, which have an order.
pub(super) fn rule_bytes(key: &Lpm<abi::RuleKey>) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(key.bytes());
    bytes
}

/// ns of CLOCK_MONOTONIC, which the kernel's programs use too.
pub(super) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    now.as_nanos() as u64
}
