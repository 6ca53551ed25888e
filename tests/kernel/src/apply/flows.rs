//! What a sweep frees, and what it keeps.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use aya::maps::{HashMap, Map, MapData};
use nix::time::{ClockId, clock_gettime};
use sheetbend_apply::bpf::Kernel;
use sheetbend_ebpf_abi as abi;
use sheetbend_model::plan::{
    Backend, Dataplane, Frontend, LocalPod, PolicySet, Posture, Reach, Route, Scope, ServiceEntry, diff,
};
use sheetbend_model::state::{Algorithm, AttachmentId};
use sheetbend_model::types::{AddrKey, BlockKey, NetworkId, ObjectKey, Port, Protocol};

use super::{Place, links};

pub(super) const TCP: u8 = 6;
const UDP: u8 = 17;
const POD: [u8; 4] = [10, 1, 0, 1];
const PEER: [u8; 4] = [192, 0, 2, 9];

pub(super) type Table<const K: usize, const V: usize> = HashMap<MapData, [u8; K], [u8; V]>;
pub(super) type Ct = Table<{ size_of::<abi::CtKey>() }, { size_of::<abi::CtEntry>() }>;
pub(super) type Snat = Table<{ size_of::<abi::SnatKey>() }, { size_of::<abi::SnatValue>() }>;

/// The flow tables of one instance, written as the kernel's programs would.
pub(super) struct Flows {
    pub(super) pins: PathBuf,
}

impl Flows {
    pub(super) fn of(place: &Place, instance: &str) -> Self {
        Self {
            pins: place.bpffs().join("sheetbend").join(instance).join(format!("v{}", abi::LAYOUT_VERSION)),
        }
    }

    pub(super) fn open<const K: usize, const V: usize>(&self, name: &str) -> anyhow::Result<Table<K, V>> {
        Ok(HashMap::try_from(Map::LruHashMap(MapData::from_pin(self.pins.join(name))?))?)
    }

    /// A flow that the pod began from `port`, last seen `idle` seconds ago. `CtEntry` by its documented layout.
    pub(super) fn put(&self, protocol: u8, port: u16, flags: u32, idle: u64) -> anyhow::Result<()> {
        self.put_to(0, protocol, port, flags, idle)
    }

    /// The same, to the backend of a Service.
    fn put_to(&self, backend: u32, protocol: u8, port: u16, flags: u32, idle: u64) -> anyhow::Result<()> {
        let flags = flags | abi::CT_MASQUERADED;
        let last_seen = monotonic()? - Duration::from_secs(idle);
        let nat_port = port + 10_000;
        let mut entry = (last_seen.as_nanos() as u64).to_ne_bytes().to_vec();
        entry.extend([flags, 1, 0, backend].map(u32::to_ne_bytes).concat());
        entry.extend([0; 16]);
        entry.extend([0, nat_port].map(u16::to_ne_bytes).concat());
        entry.extend([0; 12]);
        let mut ct: Ct = self.open("CT")?;
        ct.insert(ct_key(protocol, port), bytes(&entry), 0)?;

        let mut value = (last_seen.as_nanos() as u64).to_ne_bytes().to_vec();
        value.extend(0u32.to_ne_bytes());
        value.extend([port, 0].map(u16::to_ne_bytes).concat());
        value.extend(abi::mapped(POD));
        let mut snat: Snat = self.open("SNAT")?;
        snat.insert(snat_key(protocol, nat_port), bytes(&value), 0)?;
        Ok(())
    }

    /// Whether the flow's entries are there: (tracked, masqueraded).
    fn has(&self, protocol: u8, port: u16) -> anyhow::Result<(bool, bool)> {
        let ct: Ct = self.open("CT")?;
        let snat: Snat = self.open("SNAT")?;
        let nat_port = port + 10_000;
        Ok((ct.get(&ct_key(protocol, port), 0).is_ok(), snat.get(&snat_key(protocol, nat_port), 0).is_ok()))
    }
}

/// `CtKey` by its documented layout: the pod is the lesser end.
pub(super) fn ct_key<const N: usize>(protocol: u8, port: u16) -> [u8; N] {
    let mut key = 0u32.to_ne_bytes().to_vec();
    key.extend(abi::mapped(POD));
    key.extend(abi::mapped(PEER));
    key.extend([port, 80].map(u16::to_ne_bytes).concat());
    key.extend([protocol, 0, 0, 0]);
    bytes(&key)
}

pub(super) fn snat_key<const N: usize>(protocol: u8, nat_port: u16) -> [u8; N] {
    let mut key = abi::mapped(PEER).to_vec();
    key.extend(abi::mapped([192, 0, 2, 1]));
    key.extend([80, nat_port].map(u16::to_ne_bytes).concat());
    key.extend([protocol, 0, 0, 0]);
    bytes(&key)
}

fn bytes<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut to = [0; N];
    to.copy_from_slice(from);
    to
}

fn monotonic() -> anyhow::Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?))
}

pub(super) fn one_pod(container: &str, ifindex: u32) -> anyhow::Result<Dataplane> {
    let mut want = Dataplane::default();
    want.overlay.node_addresses = vec!["192.0.2.1".parse()?];
    want.routes.insert(BlockKey::new("10.1.0.0/24".parse()?), Route::Local);
    let id = AttachmentId { container_id: container.into(), ifname: "eth0".into() };
    let pod = LocalPod {
        pod: None,
        addresses: vec![AddrKey::new(Ipv4Addr::from(POD).into())],
        host_ifindex: ifindex,
        posture: Posture::Judged(PolicySet::default()),
        asks_names: false,
        audited: false,
    };
    want.pods.insert(id, pod);
    Ok(want)
}

fn open(place: &Place, instance: &str, want: &Dataplane) -> anyhow::Result<Kernel> {
    let mut kernel = place.open(instance)?;
    ensure!(kernel.sync(want, &links)?.is_done(), "sync");
    Ok(kernel)
}

/// `ServiceFlowKey` and `ServiceFlowValue` by their documented layout, of a flow of the pod without backend and frontend.
fn service_flow(port: u16, source_port: u16, flags: u16, idle: u64) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
    let mut key = 0u32.to_ne_bytes().to_vec();
    key.extend(abi::mapped(POD));
    key.extend([0; 16]);
    key.extend([port, 0].map(u16::to_ne_bytes).concat());
    key.extend([TCP, 0, 0, 0]);
    let last_seen = (monotonic()?.as_nanos() as u64).saturating_sub(idle * 1_000_000_000);
    let mut value = last_seen.to_ne_bytes().to_vec();
    value.extend([0; 8]);
    value.extend([source_port, flags].map(u16::to_ne_bytes).concat());
    value.extend([0; 4]);
    Ok((key, value))
}

/// Under which port a client's flow goes on that another node passes on here: nobody else knows it.
pub(super) fn a_port_of_a_direct_flow_is_kept_while_it_may_go_on(place: &Place) -> anyhow::Result<()> {
    let mut kernel = open(place, "direct", &one_pod("a", 50)?)?;
    let flows = Flows::of(place, "direct");
    let mut table: Table<{ size_of::<abi::ServiceFlowKey>() }, { size_of::<abi::ServiceFlowValue>() }> =
        flows.open("SERVICE_FLOWS")?;
    for (port, flags, stays) in [(1, 0, false), (2, abi::SERVICE_FLOW_DIRECT, true)] {
        let (key, value) = service_flow(port, 40_000, flags, 600)?;
        table.insert(bytes(&key), bytes(&value), 0)?;
        kernel.sweep()?;
        let found = table.get(&bytes(&key), 0).is_ok();
        ensure!(
            found == stays,
            "flags {flags}: the Service flow {}",
            if found { "stays" } else { "is gone" }
        );
    }
    Ok(())
}

/// A Service flow goes with its flow, but not with an older one of the same client port that reached its
/// backend from another port, or another backend.
pub(super) fn a_sweep_leaves_a_clients_next_connection_alone(place: &Place) -> anyhow::Result<()> {
    let mut kernel = open(place, "next", &one_pod("a", 50)?)?;
    let flows = Flows::of(place, "next");
    let both = abi::CT_REPLIED | abi::CT_FIN_INITIATOR | abi::CT_FIN_RESPONDER;
    let mut table: Table<{ size_of::<abi::ServiceFlowKey>() }, { size_of::<abi::ServiceFlowValue>() }> =
        flows.open("SERVICE_FLOWS")?;
    for (port, source_port, stays) in [(1_u16, 1_u16, false), (2, 40_000, true)] {
        flows.put(TCP, port, both | abi::CT_SERVICE, 68)?;
        let (key, value) = service_flow(port, source_port, 0, 0)?;
        table.insert(bytes(&key), bytes(&value), 0)?;
        kernel.sweep()?;
        ensure!(flows.has(TCP, port)? == (false, false), "port {port}");
        let found = table.get(&bytes(&key), 0).is_ok();
        ensure!(found == stays, "port {port}: the Service flow {}", if found { "stays" } else { "is gone" });
    }
    Ok(())
}

/// Closed flows go after their grace with the SNAT port they held; live ones stay.
pub(super) fn a_sweep_frees_closed_and_idle_flows(place: &Place) -> anyhow::Result<()> {
    let mut kernel = open(place, "flows", &one_pod("a", 50)?)?;
    let flows = Flows::of(place, "flows");
    let both = abi::CT_REPLIED | abi::CT_FIN_INITIATOR | abi::CT_FIN_RESPONDER;
    let cases: [(u8, u16, u32, u64, bool); 8] = [
        (TCP, 1, abi::CT_REPLIED, 60, true),
        (TCP, 2, both, 61, true),
        (TCP, 3, both, 68, false),
        (TCP, 4, abi::CT_RST, 11, false),
        (TCP, 5, abi::CT_REPLIED | abi::CT_FIN_INITIATOR, 600, true),
        (UDP, 6, abi::CT_REPLIED, 100, true),
        (UDP, 7, abi::CT_REPLIED, 181, false),
        (UDP, 8, 0, 61, false),
    ];
    for (protocol, port, flags, idle, _) in cases {
        flows.put(protocol, port, flags, idle)?;
    }
    let sweep = kernel.sweep()?;
    for (protocol, port, flags, idle, stays) in cases {
        let has = flows.has(protocol, port)?;
        ensure!(has == (stays, stays), "port {port}, flags {flags}, idle {idle} s: {has:?}; {sweep:?}");
    }
    ensure!(sweep.freed["CT"] == 4 && sweep.flows["CT"] == 4, "{sweep:?}");
    Ok(())
}

/// A removed pod's UDP flows go at once, its TCP flows stay to tell the peer; a new pod at the address inherits none.
pub(super) fn a_new_pod_inherits_no_flow(place: &Place) -> anyhow::Result<()> {
    let before = one_pod("a", 60)?;
    let mut nobody = before.clone();
    nobody.pods.clear();
    let after = one_pod("b", 61)?;
    for is_restarted in [false, true] {
        let instance = if is_restarted { "inherit-restarted" } else { "inherit" };
        let mut kernel = open(place, instance, &before)?;
        let flows = Flows::of(place, instance);
        flows.put(TCP, 1, abi::CT_REPLIED, 0)?;
        flows.put(UDP, 2, abi::CT_REPLIED, 0)?;
        kernel.sweep()?;
        ensure!(flows.has(TCP, 1)? == (true, true) && flows.has(UDP, 2)? == (true, true), "live flows went");
        kernel.run(&diff(&before, &nobody), &links)?;
        kernel.sweep()?;
        ensure!(flows.has(TCP, 1)? == (true, true), "the peer of a TCP flow is not told");
        ensure!(flows.has(UDP, 2)? == (false, false), "a UDP flow of a removed pod stays");
        if is_restarted {
            drop(kernel);
            kernel = open(place, instance, &nobody)?;
        }
        kernel.run(&diff(&nobody, &after), &links)?;
        ensure!(
            flows.has(TCP, 1)? == (false, false),
            "the new pod inherits a flow (restarted: {is_restarted})"
        );
    }
    Ok(())
}

/// A pod's counters go with it; those of the node stay.
pub(super) fn counters_of_removed_pods_go(place: &Place) -> anyhow::Result<()> {
    let want = one_pod("a", 70)?;
    let mut kernel = open(place, "counters", &want)?;
    let key = |ifindex: u32| -> [u8; 8] {
        let mut key = ifindex.to_ne_bytes().to_vec();
        key.extend(
            [abi::Hook::FromPod as u16, abi::Reason::PolicyDenied as u16].map(u16::to_ne_bytes).concat(),
        );
        bytes(&key)
    };
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let pins = Flows::of(place, "counters").pins;
    ensure!(fs::metadata(pins.join("COUNTERS")).is_ok(), "COUNTERS is not pinned");
    let open = || -> anyhow::Result<aya::maps::PerCpuHashMap<MapData, [u8; 8], [u8; 16]>> {
        let data = MapData::from_pin(pins.join("COUNTERS"))?;
        Ok(aya::maps::PerCpuHashMap::try_from(Map::PerCpuHashMap(data))?)
    };
    for ifindex in [0, 70, 71] {
        open()?.insert(key(ifindex), vec![[1; 16]; cpus].try_into()?, 0)?;
    }
    kernel.sweep()?;
    let left = [0, 70, 71].map(|ifindex| open().is_ok_and(|map| map.get(&key(ifindex), 0).is_ok()));
    ensure!(left == [true, true, false], "{left:?}");
    Ok(())
}

/// A Service with one backend, which has number 1.
fn one_backend(want: &mut Dataplane) -> anyhow::Result<()> {
    let (network, protocol, port) = (NetworkId::default(), Protocol::Tcp, Port::new(80)?);
    let addr = "10.96.0.1".parse()?;
    let backend = Backend { network, addr: Ipv4Addr::from(PEER).into(), protocol, port, pod_uid: "".into() };
    let entry = ServiceEntry {
        service: ObjectKey::new("a", "web"),
        port_name: "".into(),
        reach: Reach::Inside,
        only_remote: false,
        sources: None,
        algorithm: Algorithm::LeastConnections,
        affinity_timeout: None,
        backends: [backend].into(),
        weights: [].into(),
        draining: [].into(),
    };
    want.services.insert(Frontend { network, addr, protocol, port, scope: Scope::Inside }, entry);
    Ok(())
}

/// A restart changes no count; a sweep finds what the kernel's programs lost, in flows and in sockets.
pub(super) fn counts_of_live_flows_are_kept_over_a_restart_and_made_right(
    place: &Place,
) -> anyhow::Result<()> {
    let mut want = one_pod("a", 80)?;
    one_backend(&mut want)?;
    let mut kernel = open(place, "counts", &want)?;
    let flows = Flows::of(place, "counts");
    let both = abi::CT_REPLIED | abi::CT_FIN_INITIATOR | abi::CT_FIN_RESPONDER;
    for (port, flags, idle) in [(1, abi::CT_REPLIED, 0), (2, 0, 0), (3, both, 0), (4, 0, 121)] {
        flows.put_to(1, TCP, port, flags, idle)?;
    }
    let data = || MapData::from_pin(flows.pins.join("CONNECTIONS")).map(Map::Array);
    let count = || -> anyhow::Result<u64> { Ok(aya::maps::Array::<_, u64>::try_from(data()?)?.get(&1, 0)?) };
    let set = |count| -> anyhow::Result<()> {
        Ok(aya::maps::Array::<_, u64>::try_from(data()?)?.set(1, count, 0)?)
    };
    ensure!(count()? == 0);
    for wrong in [3, 0, u64::MAX, 1_000] {
        set(wrong)?;
        drop(kernel);
        kernel = open(place, "counts", &want)?;
        ensure!(count()? == wrong, "a restart changes the count");
        let sweep = kernel.sweep()?;
        ensure!(count()? == 2 && sweep.recounted == 1, "{} counted, {sweep:?}", count()?);
    }
    ensure!(kernel.sweep()?.recounted == 0);
    // A process's socket counts as long as it is open.
    let mut sockets: Table<{ size_of::<abi::SocketKey>() }, { size_of::<abi::SocketValue>() }> =
        flows.open("SOCKETS")?;
    let mut key = 77_u64.to_ne_bytes().to_vec();
    key.extend([0; 19]);
    key.extend([abi::SOCKET_COUNTED, 0, 0, 0, 0]);
    let mut value = vec![0; 20];
    value.extend(1_u32.to_ne_bytes());
    value.extend([0; 8]);
    sockets.insert(bytes::<{ size_of::<abi::SocketKey>() }>(&key), bytes(&value), 0)?;
    let sweep = kernel.sweep()?;
    ensure!(count()? == 3 && sweep.recounted == 1, "{} counted, {sweep:?}", count()?);
    Ok(())
}
