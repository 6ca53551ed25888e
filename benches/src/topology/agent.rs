//! Ours: the real agent and plugin on nodes of a chosen topology.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::bridge::{addresses, call};
use super::kube_proxy::cluster_ip;
use super::routed::Pod;
use crate::netns::Netns;
use crate::sandbox::SCRATCH;
use crate::traffic::port;

/// Namespace of all pods and Services.
pub(crate) const NAMESPACE: &str = "bench";
/// How long an agent may take to its first sync of a small cluster.
const READY: Duration = Duration::from_secs(20);

/// Agents on one or two nodes, and the objects they watch.
pub(crate) struct Ours {
    directory: PathBuf,
    binaries: PathBuf,
    nodes: Vec<Agent>,
}

/// A node of ours: its namespace, its addresses and pod ranges.
pub(crate) struct NodeSpec {
    pub(crate) netns: Netns,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) pod_cidrs: [String; 2],
}

struct Agent {
    netns: Netns,
    run_dir: PathBuf,
    log: PathBuf,
    process: Child,
}

impl Ours {
    /// Starts an agent on every node (`n1`, `n2`; uplink `up0`) and waits for them. `extra` is written beside the
    /// Nodes before that.
    pub(crate) fn start(
        binaries: &Path,
        name: &str,
        mode: &str,
        nodes: &[NodeSpec],
        extra: &dyn Fn(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let directory = Path::new(SCRATCH).join(name);
        fs::create_dir_all(directory.join("objects"))?;
        let mut ours = Self { directory, binaries: binaries.to_owned(), nodes: Vec::new() };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        ours.write("namespace.json", &namespace)?;
        for (index, spec) in nodes.iter().enumerate() {
            ours.write(&format!("node-{index}.json"), &node_object(&node_name(index), spec))?;
        }
        extra(&ours.objects())?;
        for (index, spec) in nodes.iter().enumerate() {
            let agent = ours.agent(name, &node_name(index), mode, &spec.netns)?;
            ours.nodes.push(agent);
        }
        Ok(ours)
    }

    /// Waits until every agent has said that it is ready.
    pub(crate) fn wait_ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        for agent in &mut self.nodes {
            while !agent.run_dir.join("ready").exists() {
                if let Some(status) = agent.process.try_wait()? {
                    bail!("the agent ended ({status}): {}", tail(&agent.log));
                }
                if start.elapsed() > patience {
                    bail!("the agent was not ready after {patience:?}: {}", tail(&agent.log));
                }
                sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }

    /// The same with the patience that a small cluster deserves.
    pub(crate) fn wait(&mut self) -> anyhow::Result<()> {
        self.wait_ready(READY)
    }

    /// Directory of objects.
    pub(crate) fn objects(&self) -> PathBuf {
        self.directory.join("objects")
    }

    /// Process of the agent on node `node`.
    pub(crate) fn pid(&self, node: usize) -> u32 {
        self.nodes[node].process.id()
    }

    /// Writes an object, or many in a `List`, whole or not at all.
    pub(crate) fn write(&self, file: &str, object: &Value) -> anyhow::Result<()> {
        write_object(&self.objects(), file, &object.to_string())
    }

    /// Makes the namespace of pod `name` and its object on node `node`, and calls ADD.
    pub(crate) fn pod(&self, node: usize, name: &str) -> anyhow::Result<Pod> {
        let netns = Netns::create(&format!("{}-{name}", self.nodes[node].netns.name()))?;
        self.write(&format!("pod-{}.json", netns.name()), &pod_object(netns.name(), &node_name(node)))?;
        let addresses = self.add(node, &netns)?;
        Ok(Pod { netns, addresses })
    }

    /// ADD for a pod whose object exists.
    pub(crate) fn add(&self, node: usize, pod: &Netns) -> anyhow::Result<[IpAddr; 2]> {
        let result: Value = serde_json::from_slice(&self.plugin("ADD", node, pod)?)?;
        addresses(&result)
    }

    /// DEL.
    pub(crate) fn del(&self, node: usize, pod: &Netns) -> anyhow::Result<()> {
        self.plugin("DEL", node, pod).map(drop)
    }

    fn plugin(&self, command: &str, node: usize, pod: &Netns) -> anyhow::Result<Vec<u8>> {
        let agent = &self.nodes[node];
        let config = json!({
            "cniVersion": "1.0.0", "name": "sheetbend", "type": "sheetbend-cni",
            "socket": agent.run_dir.join("cni.sock"), "runDir": agent.run_dir,
        });
        let plugin = self.binaries.join("sheetbend-cni");
        let directory = self.binaries.to_string_lossy();
        let called = agent
            .netns
            .enter(|| call(&plugin.to_string_lossy(), &directory, command, pod, &config.to_string()))?;
        called.with_context(|| format!("agent: {}", tail(&agent.log)))
    }

    /// A Service with the tools' ports in front of one pod.
    pub(crate) fn service(&self, name: &str, cluster_ips: [IpAddr; 2], pod: &Pod) -> anyhow::Result<()> {
        let ports: Vec<Value> = port::ALL
            .iter()
            .map(|(protocol, port)| {
                json!({"name": format!("p{port}"), "protocol": protocol.to_uppercase(), "port": port})
            })
            .collect();
        self.write(&format!("service-{name}.json"), &service_object(name, cluster_ips, &ports))?;
        for address in pod.addresses {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let slice = slice_object(name, family, &[address.to_string()], &ports);
            self.write(&format!("slice-{name}-{family}.json"), &slice)?;
        }
        Ok(())
    }

    /// Many Services with the port of new connections, all in front of one pod.
    pub(crate) fn services(&self, range: std::ops::Range<u32>, pod: &Pod) -> anyhow::Result<()> {
        const PER_FILE: usize = 500;
        let ports = [json!({"name": "connect", "protocol": "TCP", "port": port::TCP_CONNECT})];
        let all: Vec<u32> = range.collect();
        for (number, indices) in all.chunks(PER_FILE).enumerate() {
            let mut text = String::new();
            for index in indices {
                let name = format!("s{index}");
                let service =
                    service_object(&name, [cluster_ip(false, *index), cluster_ip(true, *index)], &ports);
                let slices = pod.addresses.map(|address| {
                    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                    slice_object(&name, family, &[address.to_string()], &ports)
                });
                text.extend([service].iter().chain(&slices).map(|object| format!("---\n{object}\n")));
            }
            write_object(&self.objects(), &format!("services-{number:04}.yaml"), &text)?;
        }
        Ok(())
    }

    fn agent(&self, instance: &str, node: &str, mode: &str, netns: &Netns) -> anyhow::Result<Agent> {
        let directory = self.directory.join(node);
        let (run_dir, state_dir, log) =
            (directory.join("run"), directory.join("state"), directory.join("log"));
        fs::create_dir_all(&run_dir)?;
        fs::create_dir_all(&state_dir)?;
        let program = self.binaries.join("sheetbend");
        if !program.exists() {
            bail!("{} is missing; cargo build --release, or name --binaries", program.display());
        }
        let output = File::create(&log)?;
        let mut command = Command::new(program);
        command
            .args([
                "agent",
                "--node",
                node,
                "--instance",
                &format!("{instance}-{node}"),
                "--network-mode",
                mode,
            ])
            .args(["--uplink", "up0"])
            .arg("--objects")
            .arg(self.objects())
            .arg("--run-dir")
            .arg(&run_dir)
            .arg("--state-dir")
            .arg(&state_dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let process = netns.enter(|| command.spawn())?.context("starting the agent")?;
        Ok(Agent { netns: netns.clone(), run_dir, log, process })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        for agent in &mut self.nodes {
            if let Ok(pid) = i32::try_from(agent.process.id()) {
                // One that is gone already is as good.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _status = agent.process.wait();
        }
    }
}

/// Writes `text` to `directory/file` by rename.
pub(crate) fn write_object(directory: &Path, file: &str, text: &str) -> anyhow::Result<()> {
    let temporary = directory.join(format!(".{file}.new"));
    fs::write(&temporary, text).with_context(|| format!("writing {}", temporary.display()))?;
    fs::rename(&temporary, directory.join(file)).with_context(|| format!("writing {file}"))
}

fn node_name(index: usize) -> String {
    format!("n{}", index + 1)
}

fn node_object(name: &str, spec: &NodeSpec) -> Value {
    let addresses: Vec<Value> =
        spec.addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": spec.pod_cidrs[0], "podCIDRs": spec.pod_cidrs},
        "status": {"addresses": addresses},
    })
}

/// A pod of namespace [`NAMESPACE`] on `node`.
pub(crate) fn pod_object(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "bench"}]},
        "status": {"phase": "Running"},
    })
}

/// A Service with these ports.
pub(crate) fn service_object(name: &str, cluster_ips: [IpAddr; 2], ports: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "clusterIP": cluster_ips[0], "clusterIPs": cluster_ips, "ports": ports,
        },
    })
}

/// Its EndpointSlice of one family with these ready endpoints.
pub(crate) fn slice_object(service: &str, family: &str, addresses: &[String], ports: &[Value]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_lowercase()), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family, "ports": ports, "endpoints": endpoints,
    })
}

/// The last lines of a log, in one.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
