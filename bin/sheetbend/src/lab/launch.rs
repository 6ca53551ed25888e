//! From a user's command to a supervisor that is process 1 of namespaces of its own.
//!
//! `up` or `demo` (the owner) starts `lab launch`, which unshares and starts `lab supervise`, prints its process id
//! and ends. The owner writes that id to `lab.json` and says "go" on the supervisor's standard input. Until it says
//! "detach", the end of that pipe, however it came, ends the lab.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{ChildStdin, Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::failure::{Failure, MISSING, Outcome};
use super::state::{LabDir, LabFile, ProcessId};

/// `request.json`: what the owner asks of the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabRequest {
    /// The lab's name.
    pub(crate) name: String,
    /// Number of nodes.
    pub(crate) nodes: u8,
    /// `vxlan` or `host-gw`.
    pub(crate) mode: String,
    /// Give pods the addresses that their status names.
    pub(crate) keep_addresses: bool,
    /// Ranges of each node's pods, the first node's first.
    pub(crate) pod_cidrs: Vec<Vec<IpNet>>,
    /// When the user's command began, seconds since 1970.
    pub(crate) began: f64,
}

impl LabRequest {
    /// Ranges of the pods of node `index` (from 1).
    pub(crate) fn cidrs_of(&self, index: u8) -> &[IpNet] {
        self.pod_cidrs.get(usize::from(index).saturating_sub(1)).map_or(&[], Vec::as_slice)
    }
}

/// The owner's hold on a supervisor: the lab ends when this is dropped without [`Owner::detach`].
#[derive(Debug)]
pub(crate) struct Owner {
    /// The lab's directory.
    pub(crate) dir: LabDir,
    /// The supervisor.
    pub(crate) supervisor: ProcessId,
    pipe: ChildStdin,
}

impl Owner {
    /// Starts a supervisor for `request`, whose directory `dir` exists.
    pub(crate) fn start(dir: LabDir, request: &LabRequest) -> Outcome<Self> {
        fs::write(dir.join("request.json"), serde_json::to_vec_pretty(request)?)?;
        let log = File::create(dir.join("lab.log"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["lab", "launch"])
            .arg(&dir.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        // Taken before `wait`, which would close it.
        let mut pipe = child.stdin.take().context("the supervisor has no standard input")?;
        let mut answer = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut answer)?;
        }
        let status = child.wait()?;
        let pid = answer.trim().parse().ok().filter(|_| status.success());
        let Some(supervisor) = pid.and_then(ProcessId::of) else {
            let log = fs::read_to_string(dir.join("lab.log")).unwrap_or_default();
            return Err(Failure::new(MISSING, format!("the lab's supervisor did not start: {}", log.trim())));
        };
        dir.update(|file| file.supervisor = supervisor.clone())?;
        pipe.write_all(b"go\n")?;
        Ok(Self { dir, supervisor, pipe })
    }

    /// Lets the lab live on without its owner.
    pub(crate) fn detach(mut self) -> anyhow::Result<()> {
        self.pipe.write_all(b"detach\n").context("the supervisor is gone")
    }
}

/// Refuses to begin without the rights and tools that a lab needs.
pub(crate) fn check_rights() -> Outcome {
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(
            MISSING,
            "a lab makes network namespaces and loads eBPF programs, which needs root; run the same command with sudo",
        ));
    }
    if Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Err(Failure::new(
            MISSING,
            "the command `ip` is missing; install iproute2 (cargo xtask setup does)",
        ));
    }
    Ok(())
}

/// The first `lab.json`, which names the owner until the supervisor runs.
pub(crate) fn first_file(request: &LabRequest) -> anyhow::Result<LabFile> {
    let own = ProcessId::of(std::process::id()).context("cannot read /proc; is it mounted?")?;
    Ok(LabFile {
        name: request.name.clone(),
        mode: request.mode.clone(),
        supervisor: own,
        ready: false,
        namespaces: Vec::new(),
        devices: Vec::new(),
        pins: Vec::new(),
        cgroups: Vec::new(),
    })
}

/// `sheetbend lab launch DIR`: makes the namespaces and starts the supervisor inside them.
pub(crate) fn run(dir: &Path) -> ExitCode {
    match launch(dir) {
        Ok(pid) => {
            // Standard output is the pipe to the owner.
            let _ = writeln!(std::io::stdout(), "{pid}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(MISSING)
        }
    }
}

fn launch(dir: &Path) -> anyhow::Result<u32> {
    nix::unistd::setsid().context("cannot leave the terminal's session")?;
    let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    unshare(flags).context("cannot make PID, mount and network namespaces")?;
    private_mounts(dir)?;
    let child = Command::new(std::env::current_exe()?)
        .args(["lab", "supervise"])
        .arg(dir)
        .current_dir("/")
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the supervisor")?;
    Ok(child.id())
}

/// A `/run` of our own that shares only the lab's directory with the machine, and a bpffs of our own.
fn private_mounts(dir: &Path) -> anyhow::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    if !Path::new("/sys/fs/bpf").is_dir() {
        bail!("/sys/fs/bpf is missing: this kernel has no BPF file system (CONFIG_BPF_SYSCALL)");
    }
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).context("cannot mount a bpffs")?;
    let shared = File::open(dir)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .context("cannot mount a private /run")?;
    fs::create_dir_all(dir)?;
    let source = format!("/proc/self/fd/{}", shared.as_raw_fd());
    mount(Some(source.as_str()), dir, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("cannot share {} with the machine", dir.display()))?;
    fs::create_dir_all(super::netns::NETNS_DIR)?;
    Ok(())
}
