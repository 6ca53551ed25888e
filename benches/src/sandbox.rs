//! A private world: process, mount and network namespaces that end with this process, however it ends.
//!
//! Process 1 of the sandbox is this binary again. When it dies, or its parent does (Ctrl-C, kill -9), the kernel kills
//! everything inside, and with it every network namespace, link, pin and file under `/run`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Uid;

/// Set inside.
pub(crate) const INSIDE: &str = "SHEETBEND_BENCH_SANDBOX";

/// Directory for everything a benchmark writes besides its results.
pub(crate) const SCRATCH: &str = "/run/sbb";

/// Runs this program again inside a sandbox and returns its exit code, or `None` when this already is the inside.
pub(crate) fn enter() -> anyhow::Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() {
        furnish()?;
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        bail!("benchmarks make network namespaces and load eBPF programs, which needs root; run with sudo");
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET)
        .context("making private namespaces")?;
    let executable = std::env::current_exe().context("finding this program")?;
    // Other work on the machine disturbs less; what is measured beside one another runs at the same niceness.
    let status = Command::new("nice")
        .args(["-n", "-15"])
        .arg(executable)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .context("starting inside the private namespaces")?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(70);
    Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(70))))
}

fn furnish() -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("tying this process to its parent")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("making mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("mounting /proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("mounting /run")?;
    if Path::new("/sys/fs/bpf").exists() {
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).context("mounting bpffs")?;
    }
    for directory in ["/run/netns", SCRATCH] {
        fs::create_dir_all(directory).with_context(|| format!("making {directory}"))?;
    }
    Ok(())
}
