//! A node: its namespace, its agent, and the plugin installed on it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use sheetbend_model::types::Family;

use super::plugin::Plugin;
use crate::lab::children::{self, Process};
use crate::lab::layout;
use crate::lab::netns::Netns;

/// How long an agent may take until it serves.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long an agent may take to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Where the name server of a node says whether it is ready: in the node's own namespace.
const NAMES_ADMIN: &str = "127.0.0.1:9153";

/// How an agent is started.
#[derive(Clone, Debug)]
pub(super) struct AgentCommand {
    /// `sheetbend`.
    pub(super) program: PathBuf,
    /// `--instance`.
    pub(super) instance: String,
    /// `--objects`.
    pub(super) objects: PathBuf,
    /// `--network-mode`.
    pub(super) mode: String,
    /// `run/`, `state/`, `agent.log` and `config.yaml` are in here.
    pub(super) dir: PathBuf,
}

/// A node of the lab.
#[derive(Debug)]
pub(super) struct LabNode {
    /// Its name.
    pub(super) name: String,
    /// From 1.
    pub(super) index: u8,
    /// Its namespace.
    pub(super) netns: Netns,
    /// The plugin installed on it.
    pub(super) plugin: Plugin,
    command: AgentCommand,
    agent: Mutex<Option<Process>>,
    names: Mutex<Option<Process>>,
}

impl LabNode {
    /// A node whose agent does not run yet.
    pub(super) fn new(
        (name, index): (String, u8),
        netns: Netns,
        command: AgentCommand,
        plugin: Plugin,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(command.dir.join("run"))?;
        fs::create_dir_all(command.dir.join("state"))?;
        // Without a file of its own, the agent would read this machine's.
        let [ipv4, ipv6] = layout::node_local_dns();
        let config = format!("network:\n  mode: {}\ndns:\n  nodeLocal: ['{ipv4}', '{ipv6}']\n", command.mode);
        fs::write(command.dir.join("config.yaml"), config)?;
        let (agent, names) = (Mutex::new(None), Mutex::new(None));
        Ok(Self { name, index, netns, plugin, command, agent, names })
    }

    /// Its addresses between the nodes.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        layout::node_addresses(self.index)
    }

    /// Its own address of the family that `other` has.
    pub(super) fn address_like(&self, other: IpAddr) -> IpAddr {
        layout::node_address(self.index, Family::of(other))
    }

    /// Its directory.
    pub(super) fn dir(&self) -> &Path {
        &self.command.dir
    }

    /// Starts the agent; does not wait until it serves.
    pub(super) fn start(&self) -> anyhow::Result<()> {
        let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        if agent.as_mut().is_some_and(|process| process.ended().is_none()) {
            bail!("the agent of {} runs already", self.name);
        }
        let _ = fs::remove_file(self.ready_file());
        let AgentCommand { program, instance, objects, mode, dir } = &self.command;
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = Command::new(program);
        command
            .arg("agent")
            .arg("--config")
            .arg(dir.join("config.yaml"))
            .args(["--node", &self.name, "--instance", instance, "--network-mode", mode])
            .arg("--objects")
            .arg(objects)
            .arg("--run-dir")
            .arg(dir.join("run"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        *agent = Some(self.spawn(&mut command)?);
        Ok(())
    }

    /// Starts the name server, unless it runs; does not wait until it serves.
    pub(super) fn start_names(&self) -> anyhow::Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.as_mut().is_some_and(|process| process.ended().is_none()) {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(self.names_log())?;
        let listen: Vec<String> = self.addresses().iter().map(ToString::to_string).collect();
        let mut command = Command::new(&self.command.program);
        command
            .arg("dns")
            .arg("--config")
            .arg(self.command.dir.join("config.yaml"))
            .arg("--objects")
            .arg(&self.command.objects)
            // The lab's packets stay in the lab: nobody outside is asked.
            .args(["--listen", &listen.join(","), "--upstreams", "none"])
            .args(["--set", &format!("dns.admin={NAMES_ADMIN}")])
            // Its agent is there.
            .args(["--set", &format!("node.runDir={}", self.command.dir.join("run").display())])
            .args(["--set", "dns.workers=1", "--set", "dns.drain=0"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        *names = Some(self.spawn(&mut command)?);
        Ok(())
    }

    /// Starts a process on the node, without settings that are for this machine's own.
    fn spawn(&self, command: &mut Command) -> anyhow::Result<Process> {
        const OWN: [&str; 3] = ["SHEETBEND_NETWORK_", "SHEETBEND_NODE_", "SHEETBEND_DNS_"];
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if OWN.iter().any(|own| text.starts_with(own)) {
                command.env_remove(&name);
            }
        }
        let process = self.netns.run(|| children::spawn(command))?;
        process.with_context(|| format!("cannot start {}", self.command.program.display()))
    }

    /// Waits until the name server answers.
    pub(super) fn wait_names(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.names_ready() {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = names.as_mut().and_then(Process::ended) {
                let log = tail(&self.names_log(), 12);
                bail!("the name server of {} ended with {status}: {log}", self.name);
            }
            drop(names);
            if start.elapsed() > START_PATIENCE {
                let log = tail(&self.names_log(), 12);
                bail!("the name server of {} is not ready after 30 s: {log}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn names_ready(&self) -> bool {
        let asked = self.netns.run(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect(NAMES_ADMIN)?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        asked.is_ok_and(|answer| answer.is_ok_and(|text| text.contains(" 200 ")))
    }

    fn names_log(&self) -> PathBuf {
        self.command.dir.join("dns.log")
    }

    /// Waits until the agent serves CNI requests.
    pub(super) fn wait_ready(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.ready_file().exists() {
            let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
            match agent.as_mut().map(Process::ended) {
                Some(None) if start.elapsed() < START_PATIENCE => {}
                Some(None) => {
                    bail!(
                        "the agent of {} is not ready after {START_PATIENCE:?}: {}",
                        self.name,
                        self.log_tail()
                    )
                }
                Some(Some(status)) => {
                    bail!("the agent of {} ended with {status}: {}", self.name, self.log_tail())
                }
                None => bail!("the agent of {} was stopped", self.name),
            }
            drop(agent);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the agent with `signal`.
    pub(super) fn stop(&self, signal: Signal) -> anyhow::Result<()> {
        let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut process) = agent.take() else { bail!("the agent of {} does not run", self.name) };
        process.stop(signal, STOP_PATIENCE)?;
        Ok(())
    }

    /// `running` with its process id in the lab, or what became of it.
    pub(super) fn agent_state(&self) -> String {
        let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        match agent.as_mut().map(|process| (process.id(), process.ended())) {
            None => "stopped".to_owned(),
            Some((_, Some(status))) => format!("ended ({status})"),
            Some((_, None)) if self.ready_file().exists() => "ready".to_owned(),
            Some((_, None)) => "starting".to_owned(),
        }
    }

    /// The generation of objects that the agent has applied last, if it says so.
    pub(super) fn applied(&self) -> Option<String> {
        let text = fs::read_to_string(self.command.dir.join("run/applied")).ok()?;
        Some(text.trim().to_owned())
    }

    fn ready_file(&self) -> PathBuf {
        self.command.dir.join("run/ready")
    }

    fn log_file(&self) -> PathBuf {
        self.command.dir.join("agent.log")
    }

    fn log_tail(&self) -> String {
        tail(&self.log_file(), 12)
    }
}

/// The last lines of a file.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
