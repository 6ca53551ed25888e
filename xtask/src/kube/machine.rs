//! Process 1 of a machine: lays the machine out, then starts its services, starts them again, and reaps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::sethostname;

use super::plan::{Endpoint, Machine, OWN, PROGRAMS, Plan, Service};
use super::{cgroups, mounts};

/// Between two looks at children and endpoints.
const PAUSE: Duration = Duration::from_millis(100);
/// A service that ends is started again after this.
const RESTART: Duration = Duration::from_secs(1);
/// One that ends this often without having run for [`SETTLED`] stays down, and `up` says so.
const ATTEMPTS: u32 = 5;
const SETTLED: Duration = Duration::from_secs(60);

/// A name in `logs` that says a service stays down.
pub(super) fn gave_up(log: &Path) -> std::path::PathBuf {
    log.with_extension("down")
}

/// Runs machine `name` of the plan at `plan` for ever.
pub(super) fn run(plan: &Path, name: &str) -> Result<()> {
    let plan: Plan = serde_json::from_str(&std::fs::read_to_string(plan)?)?;
    let machine = plan.machines.iter().find(|machine| machine.name == name);
    let machine = machine.with_context(|| format!("the plan has no machine {name}"))?;
    // The supervisor closes this when eth0 is there.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    cgroups::enter(&plan.cluster, name)?;
    let apart = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(apart).context("cannot leave the host's namespaces")?;
    mounts::lay_out(machine)?;
    cgroups::leave_root()?;
    sethostname(name).context("cannot set the host name")?;
    write_files(machine)?;
    set_network(machine, &plan)?;
    let services = machine.services.iter().map(|service| Supervised::new(machine, service)).collect();
    supervise(services)
}

fn write_files(machine: &Machine) -> Result<()> {
    for (path, content) in &machine.files {
        let path = Path::new(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        // A link would lead to the host's file.
        drop(std::fs::remove_file(path));
        std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // The host may have a pod network of its own. These are overlays: what is removed here is still there for the host.
    for hosts in ["/etc/cni/net.d", "/opt/cni/bin"] {
        match std::fs::remove_dir_all(hosts) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {hosts}"));
            }
            _ => {}
        }
    }
    for directory in ["/etc/cni/net.d", "/etc/kubernetes/manifests", "/opt/cni/bin", "/var/lib/kubelet"] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
    }
    if let Some(plugins) = &machine.plugins {
        for entry in std::fs::read_dir(Path::new(OWN).join("cache").join(plugins))? {
            let path = entry?.path();
            let target = Path::new("/opt/cni/bin").join(path.file_name().unwrap_or_default());
            std::fs::copy(&path, target).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

fn set_network(machine: &Machine, plan: &Plan) -> Result<()> {
    for (name, value) in &machine.sysctls {
        let path = Path::new("/proc/sys").join(name);
        std::fs::write(&path, value).with_context(|| format!("cannot set {}", path.display()))?;
    }
    let mut lines = String::from("link set lo up\n");
    for address in &machine.addresses {
        let rest = if address.is_ipv4() { "/24" } else { "/64 nodad" };
        lines += &format!("address add {address}{rest} dev eth0\n");
    }
    lines += "link set eth0 up\n";
    for gateway in &plan.router.gateways {
        lines += &format!("route add default via {gateway} dev eth0\n");
    }
    ip(&lines)
}

/// Runs `ip` on lines of commands, in this process' network namespace.
pub(super) fn ip(lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start `ip`; install iproute2")?;
    child.stdin.take().context("ip has no standard input")?.write_all(lines.as_bytes())?;
    if !child.wait()?.success() {
        bail!("`ip -batch` failed on:\n{lines}");
    }
    Ok(())
}

/// A service and what has become of it.
struct Supervised<'a> {
    machine: &'a Machine,
    service: &'a Service,
    pid: Option<i32>,
    started: Instant,
    not_before: Instant,
    failures: u32,
}

impl<'a> Supervised<'a> {
    fn new(machine: &'a Machine, service: &'a Service) -> Self {
        let now = Instant::now();
        Self { machine, service, pid: None, started: now, not_before: now, failures: 0 }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.pid.is_none()
            && self.failures < ATTEMPTS
            && now >= self.not_before
            && self.service.after.as_ref().is_none_or(answers)
    }

    fn start(&mut self, now: Instant) -> Result<()> {
        let path = self.machine.own_log(&self.service.name);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let (program, arguments) = self.service.command.split_first().context("a service has a command")?;
        let child = Command::new(Path::new(PROGRAMS).join(program))
            .args(arguments)
            .env_clear()
            .env("PATH", search_path())
            .env("HOME", "/tmp")
            .envs(&self.service.environment)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        // Waited for by number: process 1 reaps everyone, and a `Child` would wait a second time.
        self.pid = Some(child.id().cast_signed());
        self.started = now;
        Ok(())
    }

    fn ended(&mut self, how: &str, now: Instant) {
        self.pid = None;
        self.not_before = now + RESTART;
        let settled = now.duration_since(self.started) > SETTLED;
        self.failures = if settled { 1 } else { self.failures + 1 };
        eprintln!("{} ended ({how})", self.service.name);
        if self.failures == ATTEMPTS {
            let mark = gave_up(&self.machine.own_log(&self.service.name));
            drop(std::fs::write(mark, format!("{how}, {ATTEMPTS} times in a row\n")));
        }
    }
}

/// The `PATH` of everything that runs in a machine.
pub(super) fn search_path() -> String {
    format!("{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

fn answers(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tcp(address) => std::net::TcpStream::connect_timeout(address, PAUSE).is_ok(),
        Endpoint::Unix(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
    }
}

fn supervise(mut services: Vec<Supervised<'_>>) -> Result<()> {
    loop {
        let ended = reap()?;
        let now = Instant::now();
        for service in &mut services {
            if let Some(how) = service.pid.and_then(|pid| ended.get(&pid)) {
                service.ended(how, now);
            }
            if service.is_due(now) {
                service.start(now)?;
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Children that have ended, services and orphans alike, and how.
pub(super) fn reap() -> Result<BTreeMap<i32, String>> {
    let mut ended = BTreeMap::new();
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
            Err(Errno::EINTR) => continue,
            status => status.context("cannot wait for children")?,
        };
        let how = if let WaitStatus::Exited(_, code) = status {
            format!("exit code {code}")
        } else if let WaitStatus::Signaled(_, signal, _) = status {
            signal.to_string()
        } else {
            continue;
        };
        if let Some(pid) = status.pid() {
            ended.insert(pid.as_raw(), how);
        }
    }
}
