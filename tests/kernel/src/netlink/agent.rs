//! A node with the real agent, called by the real plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sheetbend_apply::netlink::pod_links;
use sheetbend_apply::store::{FAIL_POINT_VARIABLE, boot_id};

use super::Netns;

/// How long an agent may take to start.
const START: Duration = Duration::from_secs(60);
/// The agent's name for its pins.
const INSTANCE: &str = "test";

/// Gives this process its own mounts with a BPF file system, all gone when it ends. To be called before threads are.
pub fn private_mounts() -> Result<()> {
    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)
        .context("cannot mount a BPF file system")
}

/// A program of this workspace: in the directory `SHEETBEND_BIN`, or as built beside the tests.
///
/// # Errors
/// It has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os("SHEETBEND_BIN") {
        return Ok(PathBuf::from(directory).join(name));
    }
    let tests = std::env::current_exe()?;
    let beside =
        tests.parent().and_then(Path::parent).context("the tests lie in target/<profile>/deps")?.join(name);
    ensure!(beside.exists(), "{} is not there; run: cargo build -p {name}", beside.display());
    Ok(beside)
}

/// What the plugin answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Exit code 0.
    pub ok: bool,
    /// Standard output, `null` when empty.
    pub json: Value,
}

/// One node: a network namespace with an uplink, and directories of its own. Its agent is killed with this value.
#[derive(Debug)]
pub struct AgentNode {
    /// The node.
    pub netns: Netns,
    name: String,
    /// What is at the other end of its cable; `None` where others keep it.
    _other: Option<Netns>,
    directory: tempfile::TempDir,
    pins: PathBuf,
    agent: Option<Child>,
    kubernetes: bool,
    /// `key=value` of its configuration.
    settings: Vec<String>,
}

impl AgentNode {
    /// A node 192.0.2.1, 2001:db8::1 with these pod ranges. No agent runs yet.
    pub fn new(pod_cidrs: &[&str]) -> Result<Self> {
        let (netns, other) = (Netns::new()?, Netns::new()?);
        netns.join(&other, &["192.0.2.1/24", "2001:db8::1/64"], &["192.0.2.2/24", "2001:db8::2/64"])?;
        let node = Self::with(netns, Some(other), "a")?;
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a" },
            "spec": { "podCIDR": pod_cidrs[0], "podCIDRs": pod_cidrs },
            "status": { "addresses": [
                { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "InternalIP", "address": "2001:db8::1" },
            ] },
        });
        fs::write(node.path("objects/node.json"), object.to_string())?;
        Ok(node)
    }

    /// A node called `name` with the address 192.0.2.`host` and 2001:db8::`host`, on the bridge `br0` of `link` by its
    /// port `p`+`host`. No agent runs yet.
    pub fn on_bridge(link: &Netns, name: &str, host: u8) -> Result<Self> {
        let netns = Netns::new()?;
        link.ip(&format!("link add p{host} type veth peer name uplink netns {}", netns.path().display()))?;
        link.ip(&format!("link set p{host} master br0 up"))?;
        netns.run(|| Ok(fs::write("/proc/sys/net/ipv6/conf/uplink/accept_dad", "0")?))?;
        netns.ip(&format!("addr add 192.0.2.{host}/24 dev uplink"))?;
        netns.ip(&format!("addr add 2001:db8::{host:x}/64 dev uplink nodad"))?;
        netns.ip("link set uplink up")?;
        Self::with(netns, None, name)
    }

    fn with(netns: Netns, other: Option<Netns>, name: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        // Each node has its own BPF file system: tests run side by side.
        let pins = directory.path().join("bpf");
        fs::create_dir(&pins)?;
        let none: Option<&str> = None;
        nix::mount::mount(Some("bpf"), &pins, Some("bpf"), nix::mount::MsFlags::empty(), none)?;
        let node = Self {
            netns,
            name: name.to_owned(),
            _other: other,
            directory,
            pins,
            agent: None,
            kubernetes: false,
            settings: Vec::new(),
        };
        fs::create_dir(node.path("objects"))?;
        Ok(node)
    }

    /// The agent's objects come from this API server from now on, which must serve in the node's namespace.
    pub fn watch_api_server(&mut self, url: &str) -> Result<()> {
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}]});
        fs::write(self.path("kubeconfig"), config.to_string())?;
        self.kubernetes = true;
        Ok(())
    }

    /// Agents that start from now on have this setting.
    pub fn set(&mut self, key: &str, value: &Path) {
        self.settings.push(format!("--set={key}={}", value.display()));
    }

    /// What `sheetbend status` says.
    pub fn status(&self) -> Result<Value> {
        let mut command = Command::new(program("sheetbend")?);
        command.args(["status", "-o", "json", "--socket"]);
        let output = command.arg(self.path("run/admin.sock")).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// A path below the node's directory: `run`, `state`, `objects`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts an agent; with `fail_point` it dies by SIGKILL when it gets there.
    pub fn start(&mut self, fail_point: Option<&str>) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        let mut command = self.sheetbend("agent")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(name) = fail_point {
            command.env(FAIL_POINT_VARIABLE, name);
        }
        self.agent = Some(command.spawn().context("cannot start the agent")?);
        Ok(())
    }

    /// Runs `sheetbend uninstall`; what it says.
    pub fn uninstall(&self) -> Result<String> {
        let output = self.sheetbend("uninstall")?.output()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "{text}");
        Ok(text)
    }

    /// What `sheetbend debug leaks` lists.
    pub fn leaks(&self) -> Result<Vec<Value>> {
        let mut command = Command::new(program("sheetbend")?);
        command.args(["debug", "leaks", "--wait", "2", "-o", "json", "--socket"]);
        let output = command.arg(self.path("run/admin.sock")).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(matches!(output.status.code(), Some(0 | 1)), "{text}");
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        let leaks = answer["leaks"].as_array().cloned().unwrap_or_default();
        ensure!(leaks.is_empty() == output.status.success(), "{leaks:?} and {:?}", output.status);
        Ok(leaks)
    }

    fn sheetbend(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns.path().display()))
            .args(["setpriv", "--pdeathsig", "KILL"])
            .arg(program("sheetbend")?)
            .args([subcommand, "--node", &self.name, "--instance", INSTANCE, "--network-mode", "vxlan"])
            .arg("--run-dir")
            .arg(self.path("run"))
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg(format!("--set=node.bpffs={}", self.pins.display()))
            .args(&self.settings);
        if self.kubernetes {
            command.arg("--kubeconfig").arg(self.path("kubeconfig"));
            command.arg(format!("--set=cni.configDir={}", self.path("net.d").display()));
            command.arg(format!("--set=cni.pluginDir={}", self.path("plugins").display()));
        } else {
            command.arg("--objects").arg(self.path("objects"));
        }
        Ok(command)
    }

    /// Starts an agent and waits until it is ready.
    pub fn start_ready(&mut self, fail_point: Option<&str>) -> Result<()> {
        self.start(fail_point)?;
        let start = Instant::now();
        while !self.path("run/ready").exists() {
            if let Some(status) = self.agent.as_mut().context("started")?.try_wait()? {
                bail!("the agent ended with {status}:\n{}", self.log()?);
            }
            ensure!(start.elapsed() < START, "the agent is not ready after {START:?}:\n{}", self.log()?);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The last lines of the agents' log.
    pub fn log(&self) -> Result<String> {
        let text = fs::read_to_string(self.path("log"))?;
        let lines: Vec<&str> = text.lines().collect();
        Ok(lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    /// Kills the agent with SIGKILL, if it lives. `ready` goes, so that the next start is waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            // It may have died at its fail point.
            let _ = agent.kill();
            agent.wait()?;
        }
        match fs::remove_file(self.path("run/ready")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Asks the agent to end, and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("started")?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).context("cannot stop the agent")?;
        let status = agent.wait()?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", self.log()?);
        self.kill()
    }

    /// Sends SIGKILL without waiting; [`AgentNode::kill`] tidies up.
    pub fn signal_kill(&self) -> Result<()> {
        let id = self.agent.as_ref().context("started")?.id();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(id)?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).context("cannot kill the agent")
    }

    /// Whether the agent has died by itself.
    pub fn has_died(&mut self) -> Result<bool> {
        Ok(self.agent.as_mut().context("started")?.try_wait()?.is_some())
    }

    /// The network configuration of this node, with `extra` keys.
    pub fn config(&self, version: &str, extra: &Value) -> Value {
        let mut config = json!({
            "cniVersion": version, "name": "sheetbend", "type": "sheetbend-cni", "runDir": self.path("run"),
        });
        if let (Some(config), Some(extra)) = (config.as_object_mut(), extra.as_object()) {
            config.extend(extra.clone());
        }
        config
    }

    /// Runs the plugin.
    pub fn cni(&self, command: &str, container: &str, netns: &Path, extra: &Value) -> Result<Answer> {
        self.cni_of(command, container, netns, extra, None)
    }

    /// Runs the plugin for a pod of Kubernetes, `namespace/name`, whose container is called like it.
    pub fn cni_pod(&self, command: &str, pod: &str, netns: &Path) -> Result<Answer> {
        let (namespace, name) = pod.split_once('/').context("namespace/name")?;
        let arguments = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        self.cni_of(command, name, netns, &Value::Null, Some(&arguments))
    }

    fn cni_of(
        &self,
        command: &str,
        container: &str,
        netns: &Path,
        extra: &Value,
        arguments: Option<&str>,
    ) -> Result<Answer> {
        let mut plugin = Command::new(program("sheetbend-cni")?)
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .envs(arguments.map(|arguments| ("CNI_ARGS", arguments)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let config = self.config("1.1.0", extra).to_string();
        plugin.stdin.take().context("piped")?.write_all(config.as_bytes())?;
        let output = plugin.wait_with_output()?;
        let json =
            if output.stdout.is_empty() { Value::Null } else { serde_json::from_slice(&output.stdout)? };
        Ok(Answer { ok: output.status.success(), json })
    }

    fn names(&self, directory: &str) -> Result<BTreeSet<String>> {
        let directory = self.path("state").join(boot_id()?).join(directory);
        let Ok(entries) = fs::read_dir(&directory) else { return Ok(BTreeSet::new()) };
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect::<std::io::Result<_>>().context("reading the state directory")
    }

    /// Leases (address → container), attachments (container → addresses) and veths must say the same. Returns the
    /// attachments.
    pub fn consistent(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let state = self.path("state").join(boot_id()?);
        let read = |path: PathBuf| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
        let (mut attachments, mut links) = (BTreeMap::new(), BTreeSet::new());
        for name in self.names("attachments")? {
            let attachment = read(state.join("attachments").join(&name))?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let addresses: BTreeSet<String> =
                attachment["addresses"].as_array().context("addresses")?.iter().map(text).collect();
            links.insert(text(&attachment["host_ifname"]));
            attachments.insert(text(&attachment["id"]["container_id"]), addresses);
        }
        let mut leased: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for addr in self.names("leases")? {
            let lease = read(state.join("leases").join(&addr))?;
            let container = lease["attachment"]["container_id"].as_str().unwrap_or_default().to_owned();
            leased.entry(container).or_default().insert(addr);
        }
        ensure!(leased == attachments, "leases {leased:?}, attachments {attachments:?}");
        let all: Vec<&String> = attachments.values().flatten().collect();
        ensure!(
            all.len() == all.iter().collect::<BTreeSet<_>>().len(),
            "an address is held twice: {attachments:?}"
        );
        let found: BTreeSet<String> = self.netns.run(|| Ok(pod_links()?))?.into_keys().collect();
        ensure!(found == links, "links {found:?}, attachments have {links:?}");
        Ok(attachments)
    }
}

impl Drop for AgentNode {
    fn drop(&mut self) {
        // Nothing more can be done in a destructor; the mounts are this process's own.
        let _ = self.kill();
        let _ = nix::mount::umount2(&self.pins, nix::mount::MntFlags::MNT_DETACH);
    }
}
