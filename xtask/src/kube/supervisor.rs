//! Process 1 of a cluster: holds the underlay, starts the machines, and takes everything with it when it ends.
//!
//! The kernel ends every process of a PID namespace with its first one, and with them go their mounts, network
//! namespaces and eBPF links. So `kill -9` of this one process is a complete tear-down but for cgroups and files.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use super::machine::{ip, reap};
use super::mounts;
use super::plan::{Machine, Plan, Router};
use super::record::Record;

/// What `up` writes into the supervisor's standard input when the cluster shall stay.
pub(super) const STAY: u8 = b's';
/// The bridge that joins the machines.
const BRIDGE: &str = "underlay";

/// Starts the supervisor of the plan at `plan` in a PID namespace of its own; the child has this process' view of files.
pub(super) fn spawn(plan: &Path, log: File) -> Result<std::process::Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["kube", "supervise"]).arg(plan).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    // Out of the terminal's process group: Ctrl-C reaches `up` alone, whose end the supervisor notices.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    in_new(CloneFlags::CLONE_NEWPID, &mut command).context("cannot start the cluster's supervisor")
}

/// Spawns `command` in new namespaces while this process stays in its own.
fn in_new(flags: CloneFlags, command: &mut Command) -> Result<std::process::Child> {
    let (pid, net) = (File::open("/proc/self/ns/pid")?, File::open("/proc/self/ns/net")?);
    unshare(flags).context("cannot make namespaces")?;
    let child = command.spawn();
    if flags.contains(CloneFlags::CLONE_NEWNET) {
        setns(net.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot return to the network namespace")?;
    }
    // A PID namespace can be chosen anew only from one's own.
    setns(pid.as_fd(), CloneFlags::CLONE_NEWPID).context("cannot return to the PID namespace")?;
    child.with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Runs a cluster until its last machine ends, or until `up` ends before it said that the cluster shall stay.
pub(super) fn run(path: &Path) -> Result<()> {
    // Giving up ends every process that this one sees.
    if std::process::id() != 1 {
        bail!("`kube supervise` is started by `kube up` only, in a PID namespace of its own");
    }
    let plan: Plan = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
        .context("cannot leave the host's namespaces")?;
    mounts::make_private()?;
    mounts::proc()?;
    sethostname(&plan.cluster).context("cannot set the host name")?;
    make_underlay(&plan.router)?;
    plan.router.internet.start(&plan.directory)?;
    let mut waiting = Vec::new();
    for (index, machine) in plan.machines.iter().enumerate() {
        waiting.push(start(path, machine, index)?);
    }
    // Each machine reads its standard input to the end before it goes on.
    drop(waiting);
    let mut word = [0];
    if !matches!(std::io::stdin().read(&mut word), Ok(1)) || word[0] != STAY {
        return give_up(&plan.cluster);
    }
    loop {
        for (pid, how) in reap()? {
            eprintln!("process {pid} ended ({how})");
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn make_underlay(router: &Router) -> Result<()> {
    let mut lines = format!("link set lo up\nlink add {BRIDGE} type bridge\nlink set {BRIDGE} up\n");
    for gateway in &router.gateways {
        let rest = if gateway.is_ipv4() { "/24" } else { "/64 nodad" };
        lines += &format!("address add {gateway}{rest} dev {BRIDGE}\n");
    }
    for address in router.world.iter().chain(&router.internet.addresses) {
        lines += &format!("address add {address} dev lo\n");
    }
    ip(&lines)?;
    // What is asked from here is asked by the world: a neighbour's address would look like a node's.
    for (block, world) in router.underlay.iter().zip(&router.world) {
        // The kernel's own route to an IPv6 block has this metric.
        let metric = if world.is_ipv6() { "metric 256" } else { "" };
        ip(&format!("route replace {block} dev {BRIDGE} src {world} {metric}\n"))?;
    }
    for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(Path::new("/proc/sys/net").join(family), "1").context("cannot set forwarding")?;
    }
    Ok(())
}

fn start(plan: &Path, machine: &Machine, index: usize) -> Result<std::process::ChildStdin> {
    let log = File::create(machine.log("machine"))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["kube", "machine"]).arg(plan).arg(&machine.name);
    command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    let mut child = in_new(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET, &mut command)
        .with_context(|| format!("cannot start {}", machine.name))?;
    // Interface names have at most 15 characters; a node's name may be longer.
    let port = format!("port{index}");
    ip(&format!(
        "link add {port} type veth peer name eth0 netns {}\nlink set {port} master {BRIDGE}\nlink set {port} up\n",
        child.id()
    ))?;
    child.stdin.take().context("a machine has a standard input")
}

/// `up` was interrupted: removes what outlives this process, and ends.
fn give_up(cluster: &str) -> Result<()> {
    let Some(record) = Record::read(cluster)? else { return Ok(()) };
    // Ends every other process of this PID namespace, as the kernel would, but leaves this one to clean up.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL).ok();
    reap()?;
    Record { supervisor: None, ready: true, ..record }.remove()
}
