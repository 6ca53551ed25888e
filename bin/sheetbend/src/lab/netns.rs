//! Network namespaces: made, entered and named without leaving this process.
//!
//! A socket belongs to the namespace of the thread that made it, for good. So everything here is a short-lived
//! thread that enters a namespace, does one thing, and ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::children;

/// Where `ip netns` looks for names.
pub(crate) const NETNS_DIR: &str = "/run/netns";

/// A network namespace, held open.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
}

impl Netns {
    /// Makes a namespace called `name` under [`NETNS_DIR`], loopback up.
    pub(crate) fn create(name: &str) -> anyhow::Result<Self> {
        let path = Path::new(NETNS_DIR).join(name);
        fs::create_dir_all(NETNS_DIR)?;
        File::create_new(&path).with_context(|| format!("network namespace {name} exists already"))?;
        let made = on_thread(|| -> anyhow::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            bind_own(&path)
        });
        made.with_context(|| format!("network namespace {name}"))?;
        let netns = Self::open(&path)?;
        netns.batch("link set lo up")?;
        Ok(netns)
    }

    /// Gives this process's own namespace the name `name`.
    pub(crate) fn name_own(name: &str) -> anyhow::Result<Self> {
        let path = Path::new(NETNS_DIR).join(name);
        fs::create_dir_all(NETNS_DIR)?;
        File::create_new(&path)?;
        bind_own(&path)?;
        let netns = Self::open(&path)?;
        netns.batch("link set lo up")?;
        Ok(netns)
    }

    /// Opens the namespace at `path`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file =
            File::open(path).with_context(|| format!("cannot open the namespace {}", path.display()))?;
        Ok(Self { file })
    }

    /// Another handle of the same namespace.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    /// Runs `work` inside the namespace, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
    }

    /// Makes the calling thread a member of the namespace, for good.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs the lines of `commands` through `ip -batch` inside the namespace.
    pub(crate) fn batch(&self, commands: &str) -> anyhow::Result<()> {
        self.run(|| ip_batch(commands))?
    }

    /// Writes kernel settings of the namespace: (path below `/proc/sys/net`, value).
    pub(crate) fn sysctl(&self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        self.run(|| {
            for (name, value) in settings {
                let path = Path::new("/proc/sys/net").join(name);
                fs::write(&path, value)
                    .with_context(|| format!("cannot write {value} to {}", path.display()))?;
            }
            Ok(())
        })?
    }
}

/// Takes the name `name` away; the namespace ends with its last process and socket.
pub(crate) fn delete(name: &str) -> anyhow::Result<()> {
    let path = Path::new(NETNS_DIR).join(name);
    umount2(&path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", path.display()))?;
    fs::remove_file(&path)?;
    Ok(())
}

/// Where the supervisor with process id `pid` keeps the namespace `name`, seen from outside its mount namespace.
pub(crate) fn outside_path(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{NETNS_DIR}/{name}"))
}

fn bind_own(path: &Path) -> anyhow::Result<()> {
    let own = Path::new("/proc/thread-self/ns/net");
    mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind the namespace to {}", path.display()))
}

fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn ip_batch(commands: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = children::spawn(&mut command)
        .context("cannot run `ip`; install iproute2 (cargo xtask setup does)")?;
    let (status, said) = process.converse(format!("{commands}\n").as_bytes())?;
    if !status.success() {
        bail!("ip refused a command: {}\n{commands}", String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}
