//! One node as its kernel sees it: devices, tables of a chosen size, programs.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, bail};
use ipnet::IpNet;
use sheetbend_apply::bpf::{Kernel, KernelConfig, PodLink};
use sheetbend_ebpf_abi::{HOST_MAC, Hook, NodeConfig};
use sheetbend_model::plan::{
    Backend, Class, Dataplane, Frontend, LocalPod, Origin, Overlay, PolicyRef, PolicySet, Posture, Reach,
    Route, RuleKey, Ruling, Scope, ServiceEntry, Term,
};
use sheetbend_model::state::{Algorithm, AttachmentId, NetworkMode};
use sheetbend_model::types::{
    AddrKey, BlockKey, Direction, Mac, NetworkId, NodeName, ObjectKey, Port, PortPrefix, Protocol,
};

use super::program::Program;
use crate::netns::{Netns, run};

/// Endpoints of each Service.
pub(crate) const ENDPOINTS: u32 = 5;
/// Pods of this node.
const LOCAL_PODS: u32 = 110;
/// The port of Services and backends.
pub(crate) const PORT: u16 = 80;
/// Ethernet address in every pod.
pub(crate) const POD_MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 1];
/// Ethernet address of the other node's uplink.
pub(crate) const PEER_MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 2];

/// Ethernet address of this node's uplink.
pub(crate) const UPLINK_MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 3];

/// Sizes of the tables.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// NetworkPolicies in force on this node.
    pub(crate) policies: u32,
    /// Services, each with [`ENDPOINTS`] endpoints in each family.
    pub(crate) services: u32,
    /// Pods on other nodes that policies select.
    pub(crate) remote_pods: u32,
}

/// A node without packets of its own: `pod0` is a pod's veth, `up0` the uplink.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    /// Interface index of `pod0`.
    pub(crate) pod: u32,
    /// Interface index of `up0`.
    pub(crate) uplink: u32,
}

impl Node {
    /// Makes the devices, and the neighbour that the other node is.
    pub(crate) fn create(name: &str) -> anyhow::Result<Self> {
        let netns = Netns::create(name)?;
        netns.forward()?;
        let (own, peer) = (Mac(UPLINK_MAC), Mac(PEER_MAC));
        netns.ip(&format!(
            "link add pod0 type veth peer name pod0p\nlink add up0 type veth peer name up0p\n\
             link set pod0 up\nlink set pod0p up\nlink set up0 address {own} up\nlink set up0p up\n\
             addr add 192.168.9.1/24 dev up0\naddr add fd99::1/64 dev up0 nodad\n\
             neigh add 192.168.9.2 lladdr {peer} dev up0 nud permanent\n\
             neigh add fd99::2 lladdr {peer} dev up0 nud permanent\n\
             route add 10.128.0.0/10 via 192.168.9.2 dev up0\nroute add fd28::/64 via fd99::2 dev up0"
        ))?;
        let (pod, uplink) = (ifindex(&netns, "pod0")?, ifindex(&netns, "up0")?);
        Ok(Self { netns, pod, uplink })
    }

    /// Where `name`'s tables are opened.
    pub(crate) fn config(&self, name: &str) -> KernelConfig {
        KernelConfig {
            bpffs: "/sys/fs/bpf".into(),
            instance: name.to_owned(),
            node: NodeConfig {
                uplink_ifindex: self.uplink,
                uplink_mtu: 1500,
                pod_mtu: 1500,
                nat_port_first: 40_000,
                nat_port_count: 20_000,
                tunnel_port: 4789,
                ..NodeConfig::default()
            },
            object: std::env::var_os("SHEETBEND_EBPF_OBJECT").map(PathBuf::from),
            limits: BTreeMap::new(),
            ceilings: BTreeMap::new(),
        }
    }

    /// What this node's kernel shall hold.
    pub(crate) fn dataplane(&self, size: Size) -> anyhow::Result<Dataplane> {
        let mut want = Dataplane { overlay: overlay()?, routes: routes()?, ..Dataplane::default() };
        let set = policies(&mut want, size)?;
        for number in 0..LOCAL_PODS {
            let judged = if number == 0 { set.clone() } else { PolicySet::default() };
            let pod = LocalPod {
                pod: Some(ObjectKey::new("bench", format!("pod-{number}"))),
                addresses: [false, true].map(|v6| AddrKey::new(local_pod(v6, number))).to_vec(),
                host_ifindex: if number == 0 { self.pod } else { 1_000_000 + number },
                posture: Posture::Judged(judged),
                asks_names: false,
                audited: false,
            };
            let id = AttachmentId { container_id: format!("bench-{number}").into(), ifname: "eth0".into() };
            want.pods.insert(id, pod);
        }
        for index in 0..size.services {
            for v6 in [false, true] {
                let (frontend, entry) = service(v6, index, ENDPOINTS)?;
                want.services.insert(frontend, entry);
            }
        }
        Ok(want)
    }
}

/// A kernel with tables of one size.
pub(crate) struct World {
    /// Keeps the tables' and programs' descriptors open.
    _kernel: Kernel,
    programs: PathBuf,
}

impl World {
    /// Opens instance `name` and fills it.
    pub(crate) fn fill(node: &Node, name: &str, size: Size) -> anyhow::Result<Self> {
        let mut kernel = Kernel::open(node.config(name))?;
        let report = kernel.sync(&node.dataplane(size)?, &|_| Some(link()))?;
        if let Some(failure) = report.failed.first() {
            bail!("{} steps failed, the first: {}: {}", report.failed.len(), failure.step, failure.error);
        }
        let programs = find(&PathBuf::from("/sys/fs/bpf/sheetbend").join(name), kernel.version())
            .with_context(|| format!("no programs of version {} are pinned", kernel.version()))?;
        Ok(Self { _kernel: kernel, programs })
    }

    /// The program of a hook.
    pub(crate) fn program(&self, hook: Hook) -> anyhow::Result<Program> {
        self.named(hook.name())
    }

    /// The program of this name.
    pub(crate) fn named(&self, name: &str) -> anyhow::Result<Program> {
        Program::open(&self.programs.join(name))
    }
}

/// What an attachment would say of a pod's veth.
pub(crate) fn link() -> PodLink {
    PodLink { mac: Mac(POD_MAC), mtu: 1500, shaped: false }
}

/// Ethernet source and destination of what pod 0 sends.
pub(crate) const FROM_POD: [[u8; 6]; 2] = [POD_MAC, HOST_MAC];

/// Address of a pod of this node.
pub(crate) fn local_pod(v6: bool, number: u32) -> IpAddr {
    address(v6, [10, 244, 0, 0], 0xfd24, number + 2)
}

/// Address of a pod of the other node.
pub(crate) fn remote_pod(v6: bool, number: u32) -> IpAddr {
    address(v6, [10, 128, 0, 0], 0xfd28, number + 2)
}

/// ClusterIP and port of a Service.
pub(crate) fn frontend(v6: bool, number: u32) -> SocketAddr {
    SocketAddr::new(address(v6, [10, 64, 0, 0], 0xfd64, number + 1), PORT)
}

fn address(v6: bool, v4_base: [u8; 4], v6_base: u16, number: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits(u128::from(v6_base) << 112 | u128::from(number)).into()
    } else {
        Ipv4Addr::from_bits(u32::from_be_bytes(v4_base) + number).into()
    }
}

/// Service `index` with `endpoints` backends on the other node.
pub(crate) fn service(v6: bool, index: u32, endpoints: u32) -> anyhow::Result<(Frontend, ServiceEntry)> {
    let (network, protocol, port) = (NetworkId(0), Protocol::Tcp, Port::new(PORT)?);
    let mut backends: Vec<Backend> = (0..endpoints)
        .map(|endpoint| {
            let number = index * ENDPOINTS + endpoint;
            let pod_uid = format!("uid-{number}").into();
            Backend { network, addr: remote_pod(v6, number), protocol, port, pod_uid }
        })
        .collect();
    backends.sort();
    let entry = ServiceEntry {
        service: ObjectKey::new("bench", format!("service-{index}")),
        port_name: "".into(),
        reach: Reach::Inside,
        only_remote: false,
        sources: None,
        algorithm: Algorithm::Random,
        affinity_timeout: None,
        backends: backends.into(),
        weights: Arc::new([]),
        draining: Arc::new([]),
    };
    Ok((Frontend { network, addr: frontend(v6, index).ip(), protocol, port, scope: Scope::Inside }, entry))
}

/// Policies that all select pod 0 for egress: policy `i` allows class `i`, into which every n-th remote pod falls.
fn policies(want: &mut Dataplane, size: Size) -> anyhow::Result<PolicySet> {
    if size.policies == 0 {
        return Ok(PolicySet::default());
    }
    let policy = |index: u32| ObjectKey::new("bench", format!("policy-{index:05}"));
    let class = |index: u32| Class::new(vec![Term::Selector(format!("pod=app=a{index}").into())]);
    let refs: Vec<PolicyRef> = (0..size.policies)
        .map(|index| PolicyRef { policy: policy(index), digest: index.into(), ingress: false, egress: true })
        .collect();
    let set = PolicySet { policies: refs.into(), ..PolicySet::default() };
    let ports = [PortPrefix { value: PORT, len: 16 }, PortPrefix { value: 8080, len: 16 }];
    let classes: Vec<Class> = (0..size.policies).map(class).collect();
    for (index, class) in (0..size.policies).zip(&classes) {
        for ports in ports {
            let key = RuleKey {
                set: set.clone(),
                direction: Direction::Egress,
                class: Some(class.clone()),
                protocol: Some(Protocol::Tcp),
                ports,
            };
            let origin = Origin { policy: policy(index), direction: Direction::Egress, rule: 0 };
            want.rules.insert(key, Ruling::allow(origin));
        }
    }
    for pod in 0..size.remote_pods {
        for v6 in [false, true] {
            let class = &classes[(pod % size.policies) as usize];
            want.classes.insert(AddrKey::new(remote_pod(v6, pod)), class.clone());
        }
    }
    Ok(set)
}

fn overlay() -> anyhow::Result<Overlay> {
    Ok(Overlay {
        mode: NetworkMode::HostGw,
        node_addresses: vec!["192.168.9.1".parse()?, "fd99::1".parse()?],
        router_addresses: vec!["10.244.0.1".parse()?, "fd24::1".parse()?],
        pod_cidrs: vec!["10.244.0.0/24".parse()?, "fd24::/64".parse()?],
        direct: false,
        without_node_ports: Vec::new(),
    })
}

fn routes() -> anyhow::Result<BTreeMap<BlockKey, Route>> {
    let key = |block: &str| -> anyhow::Result<BlockKey> { Ok(BlockKey::new(block.parse::<IpNet>()?)) };
    let (own, other) = (NodeName::new("one"), NodeName::new("two"));
    Ok(BTreeMap::from([
        (key("10.244.0.0/24")?, Route::Local),
        (key("fd24::/64")?, Route::Local),
        (
            key("10.128.0.0/10")?,
            Route::Node { node: other.clone(), via: "192.168.9.2".parse()?, direct: true },
        ),
        (key("fd28::/64")?, Route::Node { node: other.clone(), via: "fd99::2".parse()?, direct: true }),
        (
            key("192.168.9.1/32")?,
            Route::NodeAddress { node: own.clone(), other: Some("fd99::1".parse()?), node_ports: true },
        ),
        (
            key("fd99::1/128")?,
            Route::NodeAddress { node: own, other: Some("192.168.9.1".parse()?), node_ports: true },
        ),
        (
            key("192.168.9.2/32")?,
            Route::NodeAddress { node: other.clone(), other: Some("fd99::2".parse()?), node_ports: true },
        ),
        (
            key("fd99::2/128")?,
            Route::NodeAddress { node: other, other: Some("192.168.9.2".parse()?), node_ports: true },
        ),
    ]))
}

/// Interface index of a device.
pub(crate) fn ifindex(netns: &Netns, device: &str) -> anyhow::Result<u32> {
    let text = run(Command::new("ip").args(["-n", netns.name(), "-j", "link", "show", device]))?;
    let value: serde_json::Value = serde_json::from_slice(&text)?;
    let index = value[0]["ifindex"].as_u64().with_context(|| format!("no device {device}"))?;
    Ok(u32::try_from(index)?)
}

/// The directory of that name below `root`.
fn find(root: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(root).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if !path.is_dir() {
            None
        } else if entry.file_name() == name {
            Some(path)
        } else {
            find(&path, name)
        }
    })
}
