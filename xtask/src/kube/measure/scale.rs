//! A thousand nodes and ten thousand pods that exist in the API server only: what one agent weighs, and how soon a change
//! is in the kernel.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::super::enter;
use super::pods::{Cluster, NAMESPACE, Place, idle, server};
use super::proxy::Proxy;
use super::report::{Row, percentiles};
use crate::progress::Step;

const SECTION: &str = "1,000 nodes and 10,000 pods in the API server";
const NODES: usize = 1_000;
const PODS: usize = 10_000;
/// Objects of one `kubectl create`.
const CHUNK: usize = 500;
/// Changes of an endpoint.
const CHANGES: usize = 200;
/// How long nothing is asked of the agent before its memory is read, and again for its CPU: a minute after they were made,
/// nodes without a kubelet are marked by their controller, and the agent reads each of them.
const IDLE: Duration = Duration::from_secs(60);
const LABEL: &str = "sheetbend.dev/measure";

/// Writes the objects, measures the agent of the first node, and removes them.
pub(super) fn measure(cluster: &Cluster, step: &mut Step) -> Result<Vec<Row>> {
    let before = agent(cluster)?;
    let outcome = crowd(cluster, step).and_then(|wrote| with_crowd(cluster, &before, wrote, step));
    step.note("removing the nodes and pods");
    let cleaned = remove(cluster);
    let rows = outcome?;
    cleaned?;
    Ok(rows)
}

fn with_crowd(cluster: &Cluster, before: &Agent, wrote: Duration, step: &mut Step) -> Result<Vec<Row>> {
    step.note("waiting until the agent knows them");
    let knows = |agent: &Agent| agent.pods >= PODS as u64 && agent.nodes >= NODES as u64;
    let end = Instant::now() + Duration::from_secs(120);
    while !knows(&agent(cluster)?) {
        if Instant::now() > end {
            bail!("the agent does not know all pods after 120 s");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    step.note("idle");
    std::thread::sleep(IDLE);
    let (began, start) = (agent(cluster)?, Instant::now());
    std::thread::sleep(IDLE);
    let ended = agent(cluster)?;
    let busy = (ended.ticks - began.ticks) as f64 / start.elapsed().as_secs_f64(); // 100 ticks a second: a percentage
    let mut rows = vec![
        Row::new(SECTION, "agent, resident", format!("{:.1} MiB", ended.resident), {
            format!("{:.1} MiB before; objects written in {:.0} s", before.resident, wrote.as_secs_f64())
        })
        .kept(ended.resident <= 40.0, "≤ 40 MiB"),
        Row::new(SECTION, "agent, peak", format!("{:.1} MiB", ended.peak), String::new()),
        Row::new(SECTION, "agent, CPU at rest", format!("{busy:.2} % of a core"), {
            format!("over {} s, after as many at rest", IDLE.as_secs())
        })
        .kept(busy <= 0.5, "≤ 0.5 %"),
    ];
    step.note("changing an endpoint");
    rows.push(changes(cluster)?);
    Ok(rows)
}

/// The agent of the first node, as its process and its status say.
struct Agent {
    resident: f64,
    peak: f64,
    ticks: u64,
    nodes: u64,
    pods: u64,
}

fn agent(cluster: &Cluster) -> Result<Agent> {
    let node = &cluster.record.settings.node_names()[0];
    let pid = agent_pid(cluster, node)?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mib = |field: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("a process")?.1.split(' ').collect();
    let tick = |index: usize| -> Result<u64> { Ok(fields.get(index).context("a field")?.parse()?) };
    let name = cluster.agent_on(node)?;
    let arguments = ["exec", "-n", "kube-system", &name, "--", "/bin/sheetbend", "status", "-o", "json"];
    let seen: Value = serde_json::from_str(&cluster.ask(&arguments)?)?;
    let count = |kind: &str| seen["cluster"][kind].as_u64().unwrap_or_default();
    Ok(Agent {
        resident: mib("VmRSS")?,
        peak: mib("VmHWM")?,
        // utime and stime, fields 14 and 15 (proc_pid_stat(5)).
        ticks: tick(11)? + tick(12)?,
        nodes: count("nodes"),
        pods: count("pods"),
    })
}

/// The process of the agent on a node: the one in the node's network with that command line.
fn agent_pid(cluster: &Cluster, node: &str) -> Result<i32> {
    let network = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = network(enter::pid_of(&cluster.record, node)?);
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.starts_with(b"/bin/sheetbend\0agent\0") && network(pid) == own {
            return Ok(pid);
        }
    }
    bail!("no agent runs on {node}")
}

/// Creates everything, four `kubectl` at a time; how long it took.
fn crowd(cluster: &Cluster, step: &mut Step) -> Result<Duration> {
    let began = Instant::now();
    let nodes: Vec<Value> = (0..NODES).map(node).collect();
    let pods: Vec<Value> = (0..PODS).map(pod).collect();
    for (what, objects) in [("nodes", &nodes), ("pods", &pods)] {
        let chunks: Vec<&[Value]> = objects.chunks(CHUNK).collect();
        for (done, batch) in chunks.chunks(4).enumerate() {
            step.note(&format!("{what}: {} of {}", done * 4 * CHUNK, objects.len()));
            std::thread::scope(|scope| {
                let running: Vec<_> =
                    batch.iter().map(|chunk| scope.spawn(|| create(cluster, chunk))).collect();
                running
                    .into_iter()
                    .try_for_each(|one| one.join().unwrap_or_else(|_| bail!("kubectl panicked")))
            })?;
        }
    }
    Ok(began.elapsed())
}

fn create(cluster: &Cluster, objects: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let mut command = enter::kubectl(&cluster.record, &cluster.kubectl)?;
    command.args(["create", "--validate=false", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().context("cannot start kubectl")?;
    child.stdin.take().context("kubectl has a standard input")?.write_all(list.to_string().as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("kubectl create: {status}");
    }
    Ok(())
}

fn node(number: usize) -> Value {
    let cidrs =
        [format!("10.{}.{}.0/24", 128 + number / 256, number % 256), format!("fd00:20:0:{number:x}::/64")];
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("crowd-{number}"), "labels": {LABEL: "crowd"}},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs, "unschedulable": true},
        "status": {"addresses": [
            {"type": "InternalIP", "address": format!("172.32.{}.{}", number / 250, number % 250 + 1)},
            {"type": "InternalIP", "address": format!("fd00:172:32::{number:x}")},
        ]},
    })
}

/// Its addresses are in the annotation that other nodes read until a kubelet says more; no kubelet will.
fn pod(number: usize) -> Value {
    let (node, host) = (number % NODES, 2 + number / NODES);
    let addresses = format!("10.{}.{}.{host},fd00:20:0:{node:x}::{host:x}", 128 + node / 256, node % 256);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("crowd-{number}"), "namespace": NAMESPACE,
            "labels": {LABEL: "crowd", "app": format!("app-{}", number % 100)},
            "annotations": {"sheetbend.dev/pod-ips": addresses},
        },
        "spec": {
            "nodeName": format!("crowd-{node}"),
            "containers": [{"name": "main", "image": "none", "ports": [{"containerPort": 8080}]}],
            "tolerations": [{"operator": "Exists"}],
        },
    })
}

fn remove(cluster: &Cluster) -> Result<()> {
    let label = format!("{LABEL}=crowd");
    let pods =
        ["delete", "pods", "-n", NAMESPACE, "-l", &label, "--force", "--grace-period=0", "--wait=false"];
    cluster.ask(&pods)?;
    cluster.ask(&["delete", "nodes", "-l", &label, "--wait=false"]).map(drop)
}

/// A Service's only endpoint changes from one pod to another and back; how long until the other one answers.
fn changes(cluster: &Cluster) -> Result<Row> {
    let nodes = cluster.record.settings.node_names();
    let first = nodes.first().context("a node")?;
    for object in [server("one", first), server("two", first), idle("client", first)] {
        cluster.apply(&object)?;
    }
    cluster.wait_ready("app in (server,client)")?;
    let backends = [cluster.addresses("one")?[0], cluster.addresses("two")?[0]];
    cluster.apply(&json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "moves", "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "udp", "port": 8081, "protocol": "UDP"}]}}))?;
    cluster.apply(&slice(backends[0]))?;
    let service = cluster.get(&["get", "service", "-n", NAMESPACE, "moves"])?;
    let ip: IpAddr = service["spec"]["clusterIP"].as_str().context("a cluster address")?.parse()?;
    let place = cluster.place(first, "client")?;
    let proxy = Proxy::start(cluster)?;
    let to = SocketAddr::new(ip, 8081);
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let name = ["two", "one"][change % 2];
        proxy.patch(&path(), &json!({"endpoints": slice(backends[(change + 1) % 2])["endpoints"]}))?;
        times.push(until(&place, to, name)?);
    }
    let at = percentiles(times);
    let what = "an endpoint changed: API server's answer → packets go there, p99";
    let note =
        format!("p50 {:.1} ms, longest {:.1} ms, {CHANGES} changes of one EndpointSlice", at(0.5), at(1.0));
    Ok(Row::new(SECTION, what, format!("{:.1} ms", at(0.99)), note).kept(at(0.99) <= 10.0, "≤ 10 ms"))
}

fn path() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/moves-1")
}

fn slice(backend: IpAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "moves-1", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "moves"}},
        "addressType": "IPv4",
        "ports": [{"name": "udp", "port": 8081, "protocol": "UDP"}],
        "endpoints": [{"addresses": [backend.to_string()], "conditions": {"ready": true}}],
    })
}

/// Asks who is there, with a new flow each time, until the answer is `name`.
fn until(place: &Place, to: SocketAddr, name: &str) -> Result<Duration> {
    let began = Instant::now();
    place.run(|| {
        let mut seen = BTreeSet::new();
        while began.elapsed() < Duration::from_secs(10) {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            // A refusal is an answer too: there was no endpoint for a moment.
            let mut buffer = [0; 64];
            let answer = socket.send(b"hostname").and_then(|_| socket.recv(&mut buffer));
            let answer = answer.map(|size| String::from_utf8_lossy(&buffer[..size]).trim().to_owned());
            match answer {
                Ok(text) if text == name => return Ok(began.elapsed()),
                Ok(text) => drop(seen.insert(text)),
                Err(error) => drop(seen.insert(error.to_string())),
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        bail!("{to} does not answer as {name}, but: {seen:?}")
    })
}
