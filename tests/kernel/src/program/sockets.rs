//! Sockets of processes under a cgroup: real calls, answered by servers on the loopback device.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use sheetbend_ebpf_abi::{
    ADDRESS_OURS, ALGORITHM_LEAST_CONNECTIONS, ALGORITHM_MAGLEV, NodeConfig, SCOPE_INSIDE, SERVICE_OUTSIDE,
    SERVICE_SILENT, SERVICE_THIS_NODE, WITHOUT_LOOPBACK, WITHOUT_NODE, names,
};

use super::Case;
use super::node::{Family, Node, config};

pub(super) const CASES: &[(&str, Case)] = &[
    ("a_process_connects_to_a_service_and_sees_its_name", connect),
    ("datagrams_to_a_service_are_answered_by_its_name", datagrams),
    ("datagrams_of_one_socket_keep_their_backend", sticky),
    ("a_process_is_told_that_nobody_serves", refused),
    ("a_process_of_the_node_is_told_of_addresses_that_nobody_serves", unserved),
    ("a_process_reaches_node_ports_by_the_nodes_addresses", node_ports),
    ("a_process_reaches_node_ports_at_chosen_addresses_only", chosen_addresses),
    ("a_process_keeps_its_backend_by_affinity", affinity),
    ("a_process_counts_as_a_flow_until_it_closes", counted),
    ("what_is_no_service_is_left_alone", untouched),
];

const PORT: u16 = 30_080;

/// A cgroup that holds this process as long as the value lives.
struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

impl Cgroup {
    fn enter() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root =
            mount.filter(|words| words.get(2) == Some(&"cgroup2")).find_map(|words| words.get(1).copied());
        let root = PathBuf::from(root.context("a cgroup v2 file system must be mounted")?);
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own =
            own.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2 of our own")?;
        let path = root.join(format!("sheetbend-sockets-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let cgroup = Self { path, before: root.join(own) };
        cgroup.hold(&cgroup.path)?;
        Ok(cgroup)
    }

    fn hold(&self, path: &std::path::Path) -> Result<()> {
        let file = path.join("cgroup.procs");
        fs::write(&file, std::process::id().to_string()).with_context(|| file.display().to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The next case would fail where a directory is left.
        let left = self.hold(&self.before.clone()).and_then(|()| Ok(fs::remove_dir(&self.path)?));
        if let Err(error) = left {
            eprintln!("{error:#}");
        }
    }
}

/// The programs on a cgroup of this process's own; `addresses` are on the loopback device, too.
fn attach(node: &mut Node) -> Result<Cgroup> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(up.success(), "ip link set lo up");
    let cgroup = Cgroup::enter()?;
    node.tables.attach_sockets(&File::open(&cgroup.path)?)?;
    Ok(cgroup)
}

fn loopback(family: Family) -> Result<IpAddr> {
    family.of("127.0.0.1", "::1")
}

/// Echoes one connection after the other.
fn tcp_server(ip: IpAddr) -> Result<u16> {
    let listener = TcpListener::bind((ip, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = [0; 64];
            // The client sees what is missing.
            while let Ok(size @ 1..) = stream.read(&mut buffer) {
                let _ = stream.write_all(&buffer[..size]);
            }
        }
    });
    Ok(port)
}

/// Answers each datagram with its own port.
fn udp_server(ip: IpAddr) -> Result<u16> {
    let socket = UdpSocket::bind((ip, 0))?;
    let port = socket.local_addr()?.port();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&port.to_be_bytes(), from);
        }
    });
    Ok(port)
}

/// The address as such, and mapped into IPv6 where it is an IPv4 one.
fn spellings(addr: SocketAddr) -> Vec<SocketAddr> {
    match addr {
        SocketAddr::V4(v4) => vec![addr, SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())],
        SocketAddr::V6(_) => vec![addr],
    }
}

fn client(to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(socket)
}

/// Asks with an unconnected socket; says who answered, and by which address.
fn ask(socket: &UdpSocket, to: SocketAddr) -> Result<(u16, SocketAddr)> {
    socket.send_to(b"who", to).with_context(|| format!("to {to}"))?;
    let mut buffer = [0; 64];
    let (size, from) = socket.recv_from(&mut buffer).with_context(|| format!("from {to}"))?;
    ensure!(size == 2, "{size} bytes");
    Ok((u16::from_be_bytes([buffer[0], buffer[1]]), from))
}

fn connect(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let own = loopback(node.family)?;
    let port = tcp_server(own)?;
    let service = node.family.service()?;
    node.frontend((service, 80, 6, SCOPE_INSIDE, 0), &[(1, own, port)])?;
    for to in spellings(SocketAddr::new(service, 80)) {
        let mut stream =
            TcpStream::connect_timeout(&to, Duration::from_secs(5)).with_context(|| to.to_string())?;
        ensure!(stream.peer_addr()? == to, "{:?}", stream.peer_addr());
        stream.write_all(b"hello")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        ensure!(&answer == b"hello");
    }
    Ok(())
}

fn datagrams(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let own = loopback(node.family)?;
    let port = udp_server(own)?;
    let service = node.family.service()?;
    node.frontend((service, 53, 17, SCOPE_INSIDE, 0), &[(1, own, port)])?;
    for to in spellings(SocketAddr::new(service, 53)) {
        let socket = client(to)?;
        ensure!(ask(&socket, to)? == (port, to), "an unconnected socket");
        let socket = client(to)?;
        socket.connect(to)?;
        ensure!(socket.peer_addr()? == to, "{:?}", socket.peer_addr());
        socket.send(b"who")?;
        let mut buffer = [0; 64];
        let (size, from) = socket.recv_from(&mut buffer)?;
        ensure!((size, from) == (2, to), "{from}");
    }
    Ok(())
}

fn sticky(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let own = loopback(node.family)?;
    let backends = (1..=8).map(|number| Ok((number, own, udp_server(own)?))).collect::<Result<Vec<_>>>()?;
    let to = SocketAddr::new(node.family.service()?, 53);
    node.frontend((to.ip(), 53, 17, SCOPE_INSIDE, 0), &backends)?;
    let mut answering = BTreeSet::new();
    for _ in 0..24 {
        let socket = client(to)?;
        let first = ask(&socket, to)?.0;
        for _ in 0..8 {
            ensure!(ask(&socket, to)?.0 == first, "one socket, one backend");
        }
        answering.insert(first);
    }
    ensure!(answering.len() > 2, "24 sockets meet several of 8 backends: {answering:?}");
    // A backend that went is left at once.
    let socket = client(to)?;
    let first = ask(&socket, to)?.0;
    let (gone, _, _) = backends.iter().find(|(_, _, port)| *port == first).context("one of them")?;
    node.tables.remove::<u32, sheetbend_ebpf_abi::BackendEntry>(names::BACKENDS, *gone)?;
    ensure!(ask(&socket, to)?.0 != first);
    Ok(())
}

fn refused(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let service = node.family.service()?;
    for (flags, expected) in
        [(0, ErrorKind::ConnectionRefused), (SERVICE_SILENT, ErrorKind::PermissionDenied)]
    {
        node.frontend((service, 80, 6, SCOPE_INSIDE, flags), &[])?;
        node.frontend((service, 80, 17, SCOPE_INSIDE, flags), &[])?;
        for to in spellings(SocketAddr::new(service, 80)) {
            let error =
                TcpStream::connect_timeout(&to, Duration::from_secs(5)).err().map(|error| error.kind());
            ensure!(error == Some(expected), "{to}: {error:?}");
            let error = client(to)?.send_to(b"who", to).err().map(|error| error.kind());
            ensure!(error == Some(expected), "{to}: {error:?}");
        }
    }
    Ok(())
}

fn node_ports(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let own = loopback(node.family)?;
    let port = udp_server(own)?;
    let any = node.family.of("0.0.0.0", "::")?;
    let other = node.family.of("192.0.2.2", "2001:db8:1::2")?;
    node.frontend((any, PORT, 17, SCOPE_INSIDE, SERVICE_OUTSIDE), &[(1, own, port)])?;
    let to = |ip| SocketAddr::new(ip, PORT);
    for ip in [node.family.node()?, other] {
        for to in spellings(to(ip)) {
            ensure!(ask(&client(to)?, to)? == (port, to), "{to}");
        }
    }
    // The loopback leads to node ports in the node's own network namespace only: in a pod it is the pod's.
    let closed = client(to(own))?;
    closed.connect(to(own))?;
    ensure!(closed.peer_addr()? == to(own));
    closed.send(b"who")?;
    ensure!(closed.recv(&mut [0; 8]).is_err(), "nobody listens there");
    node.tables.config(NodeConfig { netns: netns_cookie(&closed)?.to_ne_bytes(), ..config() })?;
    ensure!(ask(&client(to(own))?, to(own))? == (port, to(own)));
    // A host port is its own node's only.
    let flags = SERVICE_OUTSIDE | SERVICE_THIS_NODE;
    node.frontend((any, PORT, 17, SCOPE_INSIDE, flags), &[(1, own, port)])?;
    ensure!(ask(&client(to(own))?, to(own))?.0 == port);
    let asked = client(to(other))?;
    asked.set_read_timeout(Some(Duration::from_millis(300)))?;
    ensure!(ask(&asked, to(other)).is_err(), "another node's port is that node's");
    Ok(())
}

fn chosen_addresses(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let own = loopback(node.family)?;
    let port = udp_server(own)?;
    let any = node.family.of("0.0.0.0", "::")?;
    let other = node.family.of("192.0.2.2", "2001:db8:1::2")?;
    let named = [own, node.family.node()?, other];
    node.frontend((any, PORT, 17, SCOPE_INSIDE, SERVICE_OUTSIDE), &[(1, own, port)])?;
    let netns = netns_cookie(&client(SocketAddr::new(own, PORT))?)?;
    let answers = |to| -> Result<bool> {
        let asked = client(to)?;
        asked.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(ask(&asked, to).is_ok())
    };
    let expect = |node: &mut Node, bits, served: [bool; 3]| -> Result<()> {
        node.without_node_ports(bits, netns)?;
        for (ip, served) in named.into_iter().zip(served) {
            for to in spellings(SocketAddr::new(ip, PORT)) {
                ensure!(answers(to)? == served, "{to} without {bits}: it should be {served}");
            }
        }
        Ok(())
    };
    expect(node, 0, [true; 3])?;
    expect(node, WITHOUT_LOOPBACK, [false, true, true])?;
    expect(node, WITHOUT_NODE, [true, false, true])?;
    node.address_without_node_ports(other)?;
    expect(node, 0, [true, true, false])?;
    // A host port chooses its addresses itself.
    let flags = SERVICE_OUTSIDE | SERVICE_THIS_NODE;
    node.frontend((any, PORT, 17, SCOPE_INSIDE, flags), &[(1, own, port)])?;
    expect(node, WITHOUT_LOOPBACK | WITHOUT_NODE, [true, true, false])
}

fn unserved(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    node.service_range()?;
    let held = node.family.service()?;
    node.tables.service_address(super::node::addr(held), ADDRESS_OURS)?;
    let free = node.family.of("10.96.0.99", "fd00:96::99")?;
    let tcp = |to| TcpStream::connect_timeout(&to, Duration::from_millis(200)).map(drop);
    let connected = |to| client(to)?.connect(to).with_context(|| format!("to {to}"));
    let sent = |to| client(to)?.send_to(b"who", to).map(drop).with_context(|| format!("to {to}"));
    let kind = |error: anyhow::Error| error.downcast_ref().map(std::io::Error::kind);
    // Nobody here has a route to most addresses: that is said of a call which the programs let pass.
    let is_let = |to| match connected(to).map_err(kind) {
        Ok(()) | Err(Some(ErrorKind::NetworkUnreachable)) => Ok(()),
        Err(other) => Err(anyhow!("to {to}: {other:?}")),
    };
    // In a pod's namespace the packets are judged, not the calls.
    for to in [SocketAddr::new(held, 81), SocketAddr::new(free, 81)] {
        is_let(to)?;
    }
    let any = client(SocketAddr::new(held, 81))?;
    node.tables.config(NodeConfig { netns: netns_cookie(&any)?.to_ne_bytes(), ..config() })?;
    for (addr, expected) in [(held, ErrorKind::ConnectionRefused), (free, ErrorKind::PermissionDenied)] {
        for to in spellings(SocketAddr::new(addr, 81)) {
            ensure!(tcp(to).map_err(|error| error.kind()) == Err(expected), "TCP to {to}: {:?}", tcp(to));
            ensure!(connected(to).map_err(kind) == Err(Some(expected)), "UDP to {to}: {:?}", connected(to));
            ensure!(sent(to).map_err(kind) == Err(Some(expected)), "a datagram to {to}: {:?}", sent(to));
        }
    }
    // Others are left alone.
    is_let(SocketAddr::new(node.family.world()?, 81))?;
    is_let(SocketAddr::new(node.family.remote()?, 81))
}

fn affinity(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let own = loopback(node.family)?;
    let backends = (1..=8).map(|number| Ok((number, own, udp_server(own)?))).collect::<Result<Vec<_>>>()?;
    let to = SocketAddr::new(node.family.service()?, 53);
    node.frontend((to.ip(), 53, 17, SCOPE_INSIDE, 0), &backends)?;
    node.set_affinity((to.ip(), 53, 17), 3600)?;
    let mut answering = BTreeSet::new();
    for _ in 0..24 {
        answering.insert(ask(&client(to)?, to)?.0);
    }
    ensure!(answering.len() == 1, "{answering:?}");
    Ok(())
}

fn counted(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let own = loopback(node.family)?;
    // Many connections at once: the server's backlog answers.
    let listeners = (0..3).map(|_| TcpListener::bind((own, 0))).collect::<Result<Vec<_>, _>>()?;
    let backends =
        (1..).zip(&listeners).map(|(number, listener)| Ok((number, own, listener.local_addr()?.port())));
    let backends = backends.collect::<Result<Vec<_>>>()?;
    let to = SocketAddr::new(node.family.service()?, 80);
    node.frontend((to.ip(), 80, 6, SCOPE_INSIDE, 0), &backends)?;
    node.set_algorithm((to.ip(), 80, 6), ALGORITHM_LEAST_CONNECTIONS)?;
    let counts =
        |node: &mut Node| (1..=3).map(|number| node.tables.connections(number)).collect::<Result<Vec<_>>>();
    let open = || TcpStream::connect_timeout(&to, Duration::from_secs(5)).with_context(|| to.to_string());
    let mut streams = Vec::new();
    for _ in 0..12 {
        streams.push(open()?);
    }
    ensure!(counts(node)? == [4, 4, 4], "{:?}", counts(node)?);
    drop(streams.split_off(9));
    let after = counts(node)?;
    ensure!(after.iter().sum::<u64>() == 9, "{after:?}");
    for _ in 0..3 {
        streams.push(open()?);
    }
    ensure!(counts(node)? == [4, 4, 4], "the emptier ones first: {:?}", counts(node)?);
    drop(streams);
    ensure!(counts(node)? == [0, 0, 0], "{:?}", counts(node)?);
    // Maglev has no port to go by yet; sockets spread all the same.
    let servers = (1..=4).map(|number| Ok((number, own, udp_server(own)?))).collect::<Result<Vec<_>>>()?;
    let to = SocketAddr::new(to.ip(), 53);
    node.frontend((to.ip(), 53, 17, SCOPE_INSIDE, 0), &servers)?;
    node.set_algorithm((to.ip(), 53, 17), ALGORITHM_MAGLEV)?;
    let mut answering = BTreeSet::new();
    for _ in 0..64 {
        answering.insert(ask(&client(to)?, to)?.0);
    }
    ensure!(answering.len() == 4, "{answering:?}");
    Ok(())
}

fn untouched(node: &mut Node) -> Result<()> {
    let _cgroup = attach(node)?;
    let own = loopback(node.family)?;
    let port = udp_server(own)?;
    let to = SocketAddr::new(own, port);
    ensure!(ask(&client(to)?, to)? == (port, to));
    Ok(())
}

/// `SO_NETNS_COOKIE` of the socket's namespace.
fn netns_cookie(socket: &UdpSocket) -> Result<u64> {
    super::tables::netns_cookie(socket)
}
