//! Network namespaces by name, and doing things inside them.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};

/// A named network namespace. It lives until the sandbox ends.
#[derive(Clone, Debug)]
pub(crate) struct Netns {
    name: Arc<str>,
    file: Arc<File>,
}

impl Netns {
    /// Makes a namespace with the loopback device up, and without IPv6 duplicate address detection.
    pub(crate) fn create(name: &str) -> anyhow::Result<Self> {
        let netns = Self::create_bare(name)?;
        netns.ip("link set lo up")?;
        netns.sysctl("ipv6/conf/all/accept_dad", "0")?;
        netns.sysctl("ipv6/conf/default/accept_dad", "0")?;
        netns.sysctl("ipv4/ip_local_port_range", "10000 65000")?;
        netns.sysctl("ipv4/tcp_tw_reuse", "1")?;
        Ok(netns)
    }

    /// Makes a namespace as a container runtime does: empty, everything down.
    pub(crate) fn create_bare(name: &str) -> anyhow::Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        Self::open(name)
    }

    fn open(name: &str) -> anyhow::Result<Self> {
        let path = PathBuf::from("/run/netns").join(name);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { name: name.into(), file: Arc::new(file) })
    }

    /// Takes the name away, so that another may have it; the namespace ends with its last user.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        run(Command::new("ip").args(["netns", "delete", &self.name])).map(drop)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where `CNI_NETNS` finds it.
    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `work` on a thread inside the namespace. Sockets and processes made there stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> anyhow::Result<T> {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering namespace {}", self.name))?;
                Ok(work())
            });
            inside.join().map_err(|_| anyhow::anyhow!("work in namespace {} panicked", self.name))?
        })
    }

    /// `ip` in this namespace, one command a line.
    pub(crate) fn ip(&self, lines: &str) -> anyhow::Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        feed(&mut command, lines).with_context(|| format!("in namespace {}:\n{lines}", self.name))
    }

    /// Writes `/proc/sys/net/<key>`.
    pub(crate) fn sysctl(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value))?.with_context(|| format!("writing {path} in {}", self.name))
    }

    /// Makes it a router of both families.
    pub(crate) fn forward(&self) -> anyhow::Result<()> {
        self.sysctl("ipv4/ip_forward", "1")?;
        self.sysctl("ipv6/conf/all/forwarding", "1")?;
        self.sysctl("ipv4/conf/all/rp_filter", "0")?;
        self.sysctl("ipv4/conf/default/rp_filter", "0")
    }
}

/// Runs a command to its end; its standard error becomes the error.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Runs a command with `input` as its standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> anyhow::Result<()> {
    feed_bytes(command, input).map(drop)
}

/// The same, returning standard output.
pub(crate) fn feed_bytes(command: &mut Command, input: &str) -> anyhow::Result<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("writing to {command:?}"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let text = [output.stderr, output.stdout].concat();
        bail!("{command:?} failed ({}): {}", output.status, String::from_utf8_lossy(&text).trim());
    }
    Ok(output.stdout)
}
