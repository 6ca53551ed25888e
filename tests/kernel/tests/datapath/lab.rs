//! A lab of two nodes that ends with its value, and sockets inside its namespaces.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use sheetbend_ebpf_abi::{Reason, Verdict};
use sheetbend_kernel_tests::netlink::agent::program;
use tempfile::NamedTempFile;

/// The port that our echo servers have in pods and in the world.
pub(crate) const ECHO: u16 = 7000;
/// Longest wait for one answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// Room for flows from the start, so little that tables grow.
pub(crate) const FLOW_ENTRIES: u64 = 1_024;

/// In the same lab, which addresses lead to node ports: those of node-1.
const NODE_PORT_ADDRESSES: &str = "172.30.0.11/32,fd00:30::11/128";

/// An address of each family for what is meant by one name: `[IPv4, IPv6]`.
pub(crate) type Both = [IpAddr; 2];

/// A running lab; `lab down` when dropped.
pub(crate) struct Lab {
    name: String,
    supervisor: u64,
    /// The object whose programs the next agent loads.
    object: NamedTempFile,
    /// Its tables of flows begin with [`FLOW_ENTRIES`], and few addresses lead to node ports.
    is_small: bool,
}

/// The committed object, with the words of its licence in `other` form: the same behaviour under another version.
fn object(other: bool) -> Result<Vec<u8>> {
    const LICENCES: [&[u8]; 2] = [b"Dual MIT/GPL\0", b"Dual BSD/GPL\0"];
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../crates/ebpf/object/sheetbend.o");
    let mut bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    if other {
        let is_licence = |window: &[u8]| window == LICENCES[0];
        let at = bytes.windows(LICENCES[0].len()).position(is_licence).context("no licence in the object")?;
        bytes[at..at + LICENCES[1].len()].copy_from_slice(LICENCES[1]);
    }
    Ok(bytes)
}

impl Lab {
    /// Brings a lab up in `mode`, with echo servers in the pods that serve.
    pub(crate) fn up(mode: &str, is_small: bool) -> Result<Self> {
        let kind = if is_small { "s" } else { "" };
        let name = format!("dp{}-{}{kind}", std::process::id(), &mode[..2]);
        let manifests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/datapath.yaml");
        let mut lab = Self { name, supervisor: 0, object: NamedTempFile::new()?, is_small };
        lab.set_object(false)?;
        let manifests = manifests.to_str().context("a path in UTF-8")?;
        lab.sheetbend(&["lab", "up", "--mode", mode, "-f", manifests])?;
        let file = fs::read(format!("/run/sheetbend/lab/{}/lab.json", lab.name))?;
        let file: Value = serde_json::from_slice(&file)?;
        lab.supervisor = file["supervisor"]["pid"].as_u64().context("lab.json names the supervisor")?;
        for server in ["near", "far", "walled", "spoofer"] {
            lab.pod(server)?.serve()?;
        }
        Ok(lab)
    }

    /// Runs `sheetbend <arguments> --name <lab>`.
    pub(crate) fn sheetbend(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program("sheetbend")?);
        command.env("SHEETBEND_EBPF_OBJECT", self.object.path());
        if self.is_small {
            command.env("SHEETBEND_CONNTRACK_ENTRIES", FLOW_ENTRIES.to_string());
            command.env("SHEETBEND_SERVICES_NODE_PORT_ADDRESSES", NODE_PORT_ADDRESSES);
        }
        let output = command.args(arguments).args(["--name", &self.name]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "sheetbend {}: {}", arguments.join(" "), text.trim());
        Ok(())
    }

    /// Agents that start from now on bring the committed programs, or others.
    pub(crate) fn set_object(&self, other: bool) -> Result<()> {
        Ok(fs::write(self.object.path(), object(other)?)?)
    }

    /// Agents of `node` that start from now on read `text` as the part `key` of their configuration file.
    pub(crate) fn configure(&self, node: &str, key: &str, text: &str) -> Result<()> {
        let root = format!("/proc/{}/root", self.supervisor);
        let path = format!("{root}/run/sheetbend/lab/{}/nodes/{node}/config.yaml", self.name);
        let file = fs::read_to_string(&path).with_context(|| path.clone())?;
        let others = file.split_inclusive('\n').scan(false, |skips, line| {
            if !line.starts_with(' ') {
                *skips = line.starts_with(key);
            }
            Some(if *skips { "" } else { line })
        });
        let file: String = others.chain([text]).collect();
        Ok(fs::write(&path, file)?)
    }

    /// The version of the programs on a node, as its agent says.
    pub(crate) fn programs(&self, node: &str) -> Result<String> {
        Ok(self.status(node)?["programs"].as_str().context("a version of programs")?.to_owned())
    }

    /// How many packets the programs of both nodes have dropped, by reason, since the lab began.
    pub(crate) fn drops(&self) -> Result<String> {
        let goes_on = |name: &str| {
            Reason::ALL.iter().any(|reason| reason.name() == name && reason.verdict() == Verdict::Forward)
        };
        let mut all = Vec::new();
        for node in ["node-1", "node-2"] {
            let status = self.status(node)?;
            let counters = status["counters"].as_object().context("counters by reason")?;
            let dropped = counters.iter().filter(|(name, _)| !goes_on(name));
            all.push(format!("{node}: {:?}", dropped.collect::<Vec<_>>()));
        }
        Ok(all.join(" "))
    }

    /// What `sheetbend <arguments> --lab <lab> -o json` prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(program("sheetbend")?);
        let output = command.args(arguments).args(["--lab", &self.name, "-o", "json"]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "sheetbend {}: {}", arguments.join(" "), text.trim());
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What the agent of a node says of itself.
    pub(crate) fn status(&self, node: &str) -> Result<Value> {
        let socket = format!("/run/sheetbend/lab/{}/nodes/{node}/run/admin.sock", self.name);
        let mut command = Command::new(program("sheetbend")?);
        let output = command.args(["status", "-o", "json", "--socket", &socket]).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "sheetbend status of {node}: {}", text.trim());
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The namespace of the pod `test/<pod>`.
    pub(crate) fn pod(&self, pod: &str) -> Result<Place> {
        self.place(&format!("test-{pod}"))
    }

    /// The namespace of a node or of `world`.
    pub(crate) fn place(&self, name: &str) -> Result<Place> {
        let path = format!("/proc/{}/root/run/netns/sb-{}-{name}", self.supervisor, self.name);
        Ok(Place { file: File::open(&path).with_context(|| path)? })
    }

    /// The reason of the next drop of a packet from `from` to `to`, while `act` is done over and over.
    pub(crate) fn drop_reason(
        &self,
        from: IpAddr,
        to: IpAddr,
        act: impl Fn() -> Result<()>,
    ) -> Result<String> {
        let monitor = Command::new(program("sheetbend")?)
            .args(["monitor", "--lab", &self.name, "-o", "json", "--drops"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut monitor = Ended(monitor);
        let lines = BufReader::new(monitor.0.stdout.take().context("piped")?).lines();
        let (told, events) = channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| told.send(line)));
        let end = Instant::now() + ANSWER;
        while Instant::now() < end {
            act()?;
            while let Ok(line) = events.recv_timeout(Duration::from_millis(50)) {
                let event: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
                let is = |end: &str, ip: IpAddr| event[end]["address"] == ip.to_string();
                if is("source", from) && is("destination", to) {
                    return Ok(event["reason"].as_str().with_context(|| line.clone())?.to_owned());
                }
            }
        }
        bail!("no drop of a packet from {from} to {to} was reported")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.sheetbend(&["lab", "down"]) {
            eprintln!("{error:#}");
        }
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace of the lab.
pub(crate) struct Place {
    file: File,
}

impl Place {
    /// Runs `work` inside, on a thread of its own; sockets stay in the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().map_err(|_| anyhow!("the thread in the namespace died"))?
        })
    }

    /// `ip <arguments>` inside; its output.
    pub(crate) fn ip(&self, arguments: &str) -> Result<String> {
        self.run(|| {
            let output = Command::new("ip").args(arguments.split_whitespace()).output()?;
            let error = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ip {arguments}: {}", error.trim());
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }

    /// The pod's addresses, as its interface has them.
    pub(crate) fn addresses(&self) -> Result<Both> {
        let links: Value = serde_json::from_str(&self.ip("-j addr show dev eth0 scope global")?)?;
        let of = |family: &str| -> Result<IpAddr> {
            let all = links.as_array().into_iter().flatten();
            let mut infos = all.flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
            let info = infos.find(|info| info["family"] == family).context("an address of the family")?;
            Ok(info["local"].as_str().context("an address")?.parse()?)
        };
        Ok([of("inet")?, of("inet6")?])
    }

    /// A connection from here; with its answer times limited.
    pub(crate) fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
        let stream = self.run(|| Ok(TcpStream::connect_timeout(&to, timeout)?))?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The same from an address of its own choice.
    pub(crate) fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
        };
        let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let stream = self.run(|| {
            let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            // Also how long a connection is tried.
            let patience = nix::sys::time::TimeVal::new(1, 0);
            setsockopt(&fd, sockopt::SendTimeout, &patience)?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
            connect(fd.as_raw_fd(), &SockaddrStorage::from(to)).with_context(|| format!("TCP to {to}"))?;
            Ok(TcpStream::from(fd))
        })?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(stream)
    }

    /// A UDP socket from here to `to`, sending from `from`.
    pub(crate) fn udp(&self, from: IpAddr, to: SocketAddr) -> Result<UdpSocket> {
        let socket = self.run(|| {
            let socket = UdpSocket::bind((from, 0)).with_context(|| format!("cannot bind {from}"))?;
            socket.connect(to)?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok(socket)
    }

    /// Echoes on [`ECHO`] for both families and protocols, as long as this process lives.
    pub(crate) fn serve(&self) -> Result<()> {
        let any = ("::", ECHO);
        let (listener, socket) = self.run(|| Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || echo(stream));
            }
        });
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((size, from)) = socket.recv_from(&mut buffer) {
                // The client counts what is missing.
                let _ = socket.send_to(&buffer[..size], from);
            }
        });
        Ok(())
    }

    /// Accepts one connection on `port` and echoes on it; the peer's address comes through the channel.
    pub(crate) fn accept_one(&self, port: u16) -> Result<Receiver<SocketAddr>> {
        let listener = self.run(|| Ok(TcpListener::bind(("::", port))?))?;
        let (told, peers) = channel();
        thread::spawn(move || {
            if let Ok((stream, peer)) = listener.accept() {
                // Nobody may wait any more.
                let _ = told.send(peer);
                echo(stream);
            }
        });
        Ok(peers)
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    // An error of the connection is seen at the client's end.
    while let Ok(size) = stream.read(&mut buffer) {
        if size == 0 || stream.write_all(&buffer[..size]).is_err() {
            return;
        }
    }
}

/// One request and its answer.
pub(crate) fn round_trip(stream: &mut TcpStream, number: u64) -> Result<()> {
    let sent = number.to_be_bytes();
    stream.write_all(&sent)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    ensure!(answer == sent, "another answer than what was sent");
    Ok(())
}
