//! Network namespaces that live as long as a value: no name, no mount, nothing to clean up after kill -9.

pub mod agent;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace that only this process knows.
#[derive(Debug)]
pub struct Netns {
    file: File,
}

impl Netns {
    /// A new, empty namespace with its loopback up.
    pub fn new() -> Result<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("cannot open the new network namespace")
        });
        let file = made.join().map_err(|_| anyhow::anyhow!("the thread died"))??;
        let netns = Self { file };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A path to it, good while this value lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `work` inside, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
                work()
            });
            inside.join().map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                anyhow::anyhow!(text.unwrap_or_else(|| "the thread in the namespace died".to_owned()))
            })?
        })
    }

    /// `ip <arguments>` inside; its output.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.tool("ip", arguments)
    }

    /// `ip` or `tc` with `arguments` inside; its output.
    pub fn tool(&self, program: &str, arguments: &str) -> Result<String> {
        self.run(|| {
            let output = Command::new(program)
                .args(arguments.split_whitespace())
                .output()
                .with_context(|| format!("cannot run {program}"))?;
            if !output.status.success() {
                bail!("{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
    }

    /// Two namespaces joined by a cable: `uplink` in both, with these addresses.
    pub fn join(&self, other: &Netns, ours: &[&str], theirs: &[&str]) -> Result<()> {
        let netns = other.path();
        self.ip(&format!("link add uplink type veth peer name uplink netns {}", netns.display()))?;
        for (namespace, addresses) in [(self, ours), (other, theirs)] {
            for address in addresses {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                namespace.ip(&format!("addr add {address} dev uplink {nodad}"))?;
            }
            // Links of a real node have been up for long; nobody shall wait for their duplicate address detection.
            namespace.run(|| Ok(std::fs::write("/proc/sys/net/ipv6/conf/uplink/accept_dad", "0")?))?;
            namespace.ip("link set uplink up")?;
        }
        Ok(())
    }
}
