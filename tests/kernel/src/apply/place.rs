//! A private mount namespace with a bpffs, and a private network namespace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sheetbend_apply::bpf::{Kernel, KernelConfig, PodLink};
use sheetbend_ebpf_abi::NodeConfig;
use sheetbend_model::state::AttachmentId;
use sheetbend_model::types::Mac;

/// Whether these tests cannot run here: without root, or not asked for.
pub fn need_root() -> bool {
    std::env::var_os("SHEETBEND_KERNEL_TESTS").is_none_or(|value| value != "1")
        || !nix::unistd::geteuid().is_root()
}

/// Namespaces of this process's own; they vanish with it.
#[derive(Debug)]
pub struct Place {
    bpffs: PathBuf,
}

impl Place {
    /// Moves the calling process, which has one thread, into namespaces of its own.
    pub fn enter() -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare: needs root")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make / private")?;
        let bpffs = PathBuf::from("/sys/fs/bpf");
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none).context("mount bpffs")?;
        Ok(Self { bpffs })
    }

    /// Where the bpffs is.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// A configuration for `instance` with small tables of flows, which the kernel allocates at once.
    pub fn config(&self, instance: &str) -> KernelConfig {
        let small =
            ["CT", "CT_NEW", "SERVICE_FLOWS", "SNAT", "AFFINITY", "ROUND_ROBIN", "SOCKETS", "FRAGMENTS"];
        let mut limits: BTreeMap<String, u32> = small.map(|name| (name.to_owned(), 1_024)).into();
        limits.extend(["SYMBOLS", "SLOTS", "BACKENDS", "CONNECTIONS"].map(|name| (name.to_owned(), 16_384)));
        KernelConfig {
            bpffs: self.bpffs.clone(),
            instance: instance.to_owned(),
            node: NodeConfig {
                uplink_mtu: 1_500,
                pod_mtu: 1_450,
                nat_port_count: 1,
                ..NodeConfig::default()
            },
            object: None,
            limits,
            ceilings: BTreeMap::new(),
        }
    }

    /// Opens `instance`.
    pub fn open(&self, instance: &str) -> anyhow::Result<Kernel> {
        Kernel::open(self.config(instance)).with_context(|| format!("open {instance}"))
    }

    /// A new device; returns its interface index.
    pub fn device(&self) -> anyhow::Result<u32> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("apply{}", NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["link", "add", &name, "type", "veth", "peer", "name", &format!("{name}p")])?;
        nix::net::if_::if_nametoindex(name.as_str()).context("interface index")
    }

    /// Name of a device.
    pub fn name(&self, ifindex: u32) -> anyhow::Result<String> {
        let devices = nix::net::if_::if_nameindex()?;
        let device = devices.iter().find(|device| device.index() == ifindex).context("no such device")?;
        Ok(device.name().to_str()?.to_owned())
    }

    /// Deletes a device.
    pub fn delete_device(&self, ifindex: u32) -> anyhow::Result<()> {
        ip(&["link", "del", &self.name(ifindex)?])
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    command("ip", arguments).map(drop)
}

/// Runs `ip` or `tc` (Debian: iproute2) and returns what it says.
pub(super) fn command(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run {program} (Debian: iproute2)"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Every attachment has the same MAC and MTU here.
pub fn links(_: &AttachmentId) -> Option<PodLink> {
    Some(PodLink { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1_450, shaped: false })
}
