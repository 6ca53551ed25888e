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
use super::cluster_api::ClusterApi;
use super::process::tail;
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
    store: Store,
    nodes: Vec<Agent>,
}

/// Where agents find their objects.
enum Store {
    Files(PathBuf),
    Api(ClusterApi),
}

/// A node of ours: its namespace, its addresses and pod ranges.
pub(crate) struct NodeSpec {
    pub(crate) netns: Netns,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) pod_cidrs: [String; 2],
}

struct Agent {
    /// Its instance's beginning, its node and its mode.
    names: [String; 3],
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
        let objects = directory.join("objects");
        fs::create_dir_all(&objects)?;
        let store = Store::Files(objects.clone());
        let mut ours = Self { directory, binaries: binaries.to_owned(), store, nodes: Vec::new() };
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        ours.write("namespace.json", &namespace)?;
        for (index, spec) in nodes.iter().enumerate() {
            ours.write(&format!("node-{index}.json"), &node_object(&node_name(index), spec))?;
        }
        extra(&objects)?;
        for (index, spec) in nodes.iter().enumerate() {
            let agent = ours.agent(name, &node_name(index), mode, &spec.netns)?;
            ours.nodes.push(agent);
        }
        Ok(ours)
    }

    /// The same on one node in mode host-gw, from an API server that `fill` has filled before the agent starts. Waits
    /// until the agent is ready, which is after its first sync; the time that took, seconds.
    pub(crate) fn watching(
        binaries: &Path,
        name: &str,
        spec: &NodeSpec,
        fill: impl FnOnce(&ClusterApi),
    ) -> anyhow::Result<(Self, f64)> {
        const PATIENCE: Duration = Duration::from_secs(120);
        let directory = Path::new(SCRATCH).join(name);
        let api = ClusterApi::start(&spec.netns, &directory)?;
        api.put(node_object(&node_name(0), spec));
        fill(&api);
        let store = Store::Api(api);
        let mut ours = Self { directory, binaries: binaries.to_owned(), store, nodes: Vec::new() };
        let start = Instant::now();
        let agent = ours.agent(name, &node_name(0), "host-gw", &spec.netns)?;
        ours.nodes.push(agent);
        ours.wait_ready(PATIENCE)?;
        Ok((ours, start.elapsed().as_secs_f64()))
    }

    /// The API server of [`Ours::watching`].
    pub(crate) fn api(&self) -> Option<&ClusterApi> {
        match &self.store {
            Store::Files(_) => None,
            Store::Api(api) => Some(api),
        }
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

    /// Kills the agent of node `node` with SIGKILL, starts it again after `rest`, and waits until it is ready.
    pub(crate) fn kill(&mut self, node: usize, rest: Duration) -> anyhow::Result<()> {
        let old = &mut self.nodes[node];
        old.process.kill()?;
        old.process.wait()?;
        fs::remove_file(old.run_dir.join("ready"))?;
        sleep(rest);
        let ([instance, name, mode], netns) = (old.names.clone(), old.netns.clone());
        self.nodes[node] = self.agent(&instance, &name, &mode, &netns)?;
        self.wait()
    }

    /// Process of the agent on node `node`.
    pub(crate) fn pid(&self, node: usize) -> u32 {
        self.nodes[node].process.id()
    }

    /// Creates or replaces an object; `file` is its file's name where objects are files.
    pub(crate) fn write(&self, file: &str, object: &Value) -> anyhow::Result<()> {
        match &self.store {
            Store::Files(directory) => write_object(directory, file, &object.to_string()),
            Store::Api(api) => {
                api.put(object.clone());
                Ok(())
            }
        }
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
            .args(["--uplink", "up0"]);
        match &self.store {
            Store::Files(directory) => command.arg("--objects").arg(directory),
            Store::Api(api) => command
                .arg("--kubeconfig")
                .arg(api.kubeconfig())
                // Beside an API server it installs itself for the container runtime, which is not to be the machine's.
                .arg(format!("--set=cni.configDir={}", directory.join("net.d").display()))
                .arg(format!("--set=cni.pluginDir={}", directory.join("cni").display())),
        };
        command
            .arg("--run-dir")
            .arg(&run_dir)
            .arg("--state-dir")
            .arg(&state_dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let process = netns.enter(|| command.spawn())?.context("starting the agent")?;
        let names = [instance, node, mode].map(str::to_owned);
        Ok(Agent { names, netns: netns.clone(), run_dir, log, process })
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
