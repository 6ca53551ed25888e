//! A node with two pods, ready for packets.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunOptions};
use sheetbend_ebpf_abi::{
    ALGORITHM_RANDOM, Addr, BackendEntry, HOST_MAC, Hook, MARK_MASK, MODE_VXLAN, NodeConfig, POD_READY,
    PodEntry, ROUTE_LOCAL, ROUTE_NODE, ROUTE_NODE_ADDRESS, ROUTE_UNOWNED, Reason, RouteEntry, SCOPE_INSIDE,
    ServiceEntry, ServiceKey, mapped, names, vtep_mac,
};

use super::frame::{Body, Frame};
use super::tables::Tables;

/// Interface index of the client pod's veth.
pub const CLIENT: u32 = 110;
/// Interface index of the server pod's veth.
pub const SERVER: u32 = 111;
/// Interface index of the uplink.
pub const UPLINK: u32 = 105;
/// Interface index of the tunnel device.
pub const TUNNEL: u32 = 106;
/// Ethernet address of the client pod.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// Ethernet address of the server pod.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// Ethernet address of the uplink.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x05];
/// Ethernet address of a neighbour on the uplink.
pub const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// TCX verdicts.
pub const PASS: u32 = 0;
/// TCX verdicts.
pub const DROP: u32 = 2;
/// TCX verdicts.
pub const REDIRECT: u32 = 7;

/// Address family of a test's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// One of two addresses.
    pub fn of(self, v4: &str, v6: &str) -> Result<IpAddr> {
        Ok(match self {
            Family::V4 => v4,
            Family::V6 => v6,
        }
        .parse()?)
    }

    /// Client pod.
    pub fn client(self) -> Result<IpAddr> {
        self.of("10.1.1.10", "fd00:1::10")
    }

    /// Server pod.
    pub fn server(self) -> Result<IpAddr> {
        self.of("10.1.1.11", "fd00:1::11")
    }

    /// A pod of another node.
    pub fn remote(self) -> Result<IpAddr> {
        self.of("10.1.2.10", "fd00:2::10")
    }

    /// Somebody outside.
    pub fn world(self) -> Result<IpAddr> {
        self.of("203.0.113.1", "2001:db8::1")
    }

    /// This node on its uplink.
    pub fn node(self) -> Result<IpAddr> {
        self.of("192.0.2.1", "2001:db8:1::1")
    }

    /// A Service.
    pub fn service(self) -> Result<IpAddr> {
        self.of("10.96.0.1", "fd00:96::1")
    }

    /// The hairpin source.
    pub fn hairpin(self) -> Result<IpAddr> {
        self.of("169.254.42.1", "fd5b:6861:6972::1")
    }
}

/// An address as in the maps.
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What became of a packet.
#[derive(Debug)]
pub struct Outcome {
    /// TCX verdict.
    pub verdict: u32,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
    /// Our bits of the mark afterwards.
    pub mark: u32,
}

/// Maps and programs under test, and the family of this run.
pub struct Node {
    /// The maps.
    pub tables: Tables,
    /// Family of the body that runs.
    pub family: Family,
    object: PathBuf,
    bpffs: PathBuf,
}

/// Makes the devices that the frames come from, in the network namespace of this process.
///
/// # Errors
/// What `ip` says.
pub fn make_devices() -> Result<()> {
    let devices = [
        (UPLINK, "02:00:00:00:00:05"),
        (TUNNEL, "02:00:00:00:00:06"),
        (CLIENT, "0a:5b:00:00:00:01"),
        (SERVER, "0a:5b:00:00:00:01"),
    ];
    for (index, mac) in devices {
        let (index, name) = (index.to_string(), format!("prog{index}"));
        let peer = format!("{name}p");
        ip(&["link", "add", &name, "index", &index, "address", mac, "type", "veth", "peer", "name", &peer])?;
        ip(&["link", "set", &name, "up"])?;
        ip(&["link", "set", &peer, "up"])?;
    }
    for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
        std::fs::write(path, "1").with_context(|| path.to_owned())?;
    }
    // The other node is a neighbour on the uplink, and pods are behind it.
    let (uplink, other) = (format!("prog{UPLINK}"), "02:00:00:00:00:77");
    for (own, neighbour, pods) in
        [("192.0.2.1/24", "192.0.2.2", "10.1.2.0/24"), ("2001:db8:1::1/64", "2001:db8:1::2", "fd00:2::/64")]
    {
        let family = if own.contains(':') { "-6" } else { "-4" };
        let mut address = vec![family, "addr", "add", own, "dev", &uplink];
        if family == "-6" {
            address.push("nodad");
        }
        ip(&address)?;
        ip(&[family, "neigh", "add", neighbour, "lladdr", other, "dev", &uplink, "nud", "permanent"])?;
        ip(&[family, "route", "add", pods, "via", neighbour, "dev", &uplink])?;
    }
    // The node's router addresses.
    ip(&["addr", "add", "10.1.1.1/32", "dev", &uplink])?;
    ip(&["addr", "add", "fd00:1::1/128", "dev", &uplink, "nodad"])?;
    ip(&["route", "add", "unreachable", "10.1.1.0/24"])?;
    ip(&["-6", "route", "add", "unreachable", "fd00:1::/64", "dev", "lo"])
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip (package iproute2)")?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Node {
    /// Loads the programs and enters two pods, routes and the configuration (vxlan mode).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(family: Family, object: &Path, bpffs: &Path) -> Result<Self> {
        Self::growing(family, object, bpffs, 0)
    }

    /// The same node with programs for tables that grow (`GROWS_*`), and nothing in them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn grown(&self, growing: u32) -> Result<Self> {
        Self::growing(self.family, &self.object, &self.bpffs, growing)
    }

    fn growing(family: Family, object: &Path, bpffs: &Path, growing: u32) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pins = bpffs.join(format!("program{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&pins)?;
        let tables = Tables::load(object, &pins, growing)?;
        let mut node = Self { tables, family, object: object.to_owned(), bpffs: bpffs.to_owned() };
        node.tables.epoch(1)?;
        node.tables.config(config())?;
        node.pod(CLIENT, POD_READY, 1)?;
        node.pod(SERVER, POD_READY, 2)?;
        node.route("10.1.1.0", 24, "fd00:1::", 64, ROUTE_LOCAL, None)?;
        node.route("10.1.2.0", 24, "fd00:2::", 64, ROUTE_NODE, Some("192.0.2.2"))?;
        node.route("10.1.0.0", 16, "fd00::", 32, ROUTE_UNOWNED, None)?;
        node.route("192.0.2.1", 32, "2001:db8:1::1", 128, ROUTE_NODE_ADDRESS, None)?;
        node.route("192.0.2.2", 32, "2001:db8:1::2", 128, ROUTE_NODE_ADDRESS, None)?;
        Ok(node)
    }

    /// Enters one of the two pods with these flags and this policy set.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pod(&mut self, ifindex: u32, flags: u32, set: u32) -> Result<()> {
        let (v4, v6, mac) = if ifindex == CLIENT {
            (Family::V4.client()?, Family::V6.client()?, CLIENT_MAC)
        } else {
            (Family::V4.server()?, Family::V6.server()?, SERVER_MAC)
        };
        let (ipv4, ipv6) = (addr(v4), addr(v6));
        self.tables.pod(ifindex, PodEntry { network: 0, set, flags, mtu: 1450, ipv4, ipv6, mac, pad: [0; 2] })
    }

    /// Enters a route of each family.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn route(
        &mut self,
        v4: &str,
        bits4: u32,
        v6: &str,
        bits6: u32,
        kind: u32,
        via: Option<&str>,
    ) -> Result<()> {
        let via = via.map(|via| via.parse().map(addr)).transpose()?.unwrap_or_default();
        let entry = RouteEntry { kind, mac: vtep_mac(&via), flags: 0, via };
        self.tables.route(addr(v4.parse()?), 96 + bits4, entry)?;
        self.tables.route(addr(v6.parse()?), bits6, entry)
    }

    /// Enters the family's Service: `port`/`protocol`, backends (number, address, port).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn service(
        &mut self,
        protocol: u8,
        port: u16,
        algorithm: u8,
        affinity_seconds: u32,
        backends: &[(u32, IpAddr, u16)],
    ) -> Result<()> {
        let key = ServiceKey { network: 0, addr: addr(self.family.service()?), port, protocol, scope: 0 };
        let entry = ServiceEntry {
            service: 7,
            first_slot: 100,
            count: backends.len() as u32,
            affinity_seconds,
            algorithm,
            flags: 0,
            pad: [0; 2],
        };
        let backends: Vec<_> = backends
            .iter()
            .map(|(number, ip, port)| {
                (*number, BackendEntry { network: 0, addr: addr(*ip), port: *port, protocol, flags: 0 })
            })
            .collect();
        self.tables.service(key, entry, &backends)
    }

    /// Enters a frontend: (address, port, protocol, scope, flags) with backends (number, address, port); returns its
    /// number.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn frontend(
        &mut self,
        (ip, port, protocol, scope, flags): (IpAddr, u16, u8, u8, u8),
        backends: &[(u32, IpAddr, u16)],
    ) -> Result<u32> {
        let key = ServiceKey { network: 0, addr: addr(ip), port, protocol, scope };
        let number = 1000 + u32::from(port) * 2 + u32::from(scope);
        let entry = ServiceEntry {
            service: number,
            first_slot: number * 16,
            count: backends.len() as u32,
            affinity_seconds: 0,
            algorithm: ALGORITHM_RANDOM,
            flags,
            pad: [0; 2],
        };
        let backends: Vec<_> = backends
            .iter()
            .map(|(number, ip, port)| {
                (*number, BackendEntry { network: 0, addr: addr(*ip), port: *port, protocol, flags: 0 })
            })
            .collect();
        self.tables.service(key, entry, &backends)?;
        Ok(number)
    }

    /// Lets the frontend (address, port, protocol) of [`Node::frontend`] remember its clients.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_affinity(&mut self, frontend: (IpAddr, u16, u8), seconds: u32) -> Result<()> {
        self.change(frontend, |entry| ServiceEntry { affinity_seconds: seconds, ..entry })
    }

    /// Lets it choose by another algorithm.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_algorithm(&mut self, frontend: (IpAddr, u16, u8), algorithm: u8) -> Result<()> {
        self.change(frontend, |entry| ServiceEntry { algorithm, ..entry })
    }

    fn change(
        &mut self,
        (ip, port, protocol): (IpAddr, u16, u8),
        to: impl Fn(ServiceEntry) -> ServiceEntry,
    ) -> Result<()> {
        let key = ServiceKey { network: 0, addr: addr(ip), port, protocol, scope: SCOPE_INSIDE };
        let all = self.tables.all::<ServiceKey, ServiceEntry>(names::SERVICES)?;
        let (_, entry) = all.into_iter().find(|(other, _)| *other == key).context("the frontend")?;
        self.tables.service(key, to(entry), &[])
    }

    /// Runs a frame through a hook, as if it came by `ifindex`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&mut self, hook: Hook, ifindex: u32, frame: &[u8]) -> Result<Outcome> {
        self.run_with(hook, ifindex, frame, 0, 0)
    }

    /// The same with a mark, and the interface by which the packet entered the node.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run_with(
        &mut self,
        hook: Hook,
        ifindex: u32,
        frame: &[u8],
        mark: u32,
        entered: u32,
    ) -> Result<Outcome> {
        // `struct __sk_buff` of linux/bpf.h: mark is its third word, ingress_ifindex the tenth, ifindex the eleventh.
        let mut context = [0_u8; 192];
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[36..40].copy_from_slice(&entered.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let mut context_out = [0_u8; 192];
        let mut out = vec![0_u8; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_out);
        let result = self.tables.program(hook.name())?.test_run(options).context("BPF_PROG_TEST_RUN")?;
        out.truncate(result.data_size_out as usize);
        let mark = u32::from_ne_bytes([context_out[8], context_out[9], context_out[10], context_out[11]])
            & MARK_MASK;
        Ok(Outcome { verdict: result.return_value, bytes: out, mark })
    }

    /// The client sends to `dst`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn client_sends(&mut self, dst: IpAddr, body: Body) -> Result<Outcome> {
        let frame = Frame::new(CLIENT_MAC, HOST_MAC, self.family.client()?, dst, body);
        self.run(Hook::FromPod, CLIENT, &frame.bytes())
    }

    /// The server sends to `dst`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn server_sends(&mut self, dst: IpAddr, body: Body) -> Result<Outcome> {
        let frame = Frame::new(SERVER_MAC, HOST_MAC, self.family.server()?, dst, body);
        self.run(Hook::FromPod, SERVER, &frame.bytes())
    }

    /// Asserts that exactly one packet was counted for (interface, hook, reason), and one event tells it.
    ///
    /// # Errors
    /// What was counted or told instead.
    pub fn expect_once(&mut self, ifindex: u32, hook: Hook, reason: Reason) -> Result<()> {
        let counted = self.tables.counter(ifindex, hook, reason)?.packets;
        ensure!(counted == 1, "{} was counted {counted} times at {ifindex}", reason.name());
        let events = self.tables.events()?;
        let told = events.iter().filter(|event| event.reason == reason as u16).count();
        ensure!(told == 1, "{} was told {told} times: {events:?}", reason.name());
        Ok(())
    }
}

/// The node's configuration in vxlan mode.
pub fn config() -> NodeConfig {
    NodeConfig {
        mode: MODE_VXLAN,
        uplink_ifindex: UPLINK,
        tunnel_ifindex: TUNNEL,
        uplink_mtu: 1500,
        pod_mtu: 1450,
        nat_port_first: 40_000,
        nat_port_count: 20_000,
        tunnel_port: 4789,
        flags: 0,
        node_ipv4: mapped([192, 0, 2, 1]),
        node_ipv6: [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        netns: [0; 8],
    }
}
