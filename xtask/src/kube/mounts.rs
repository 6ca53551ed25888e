//! A machine's file system: the host's, read-only, with everything that nodes write made private.
//!
//! `/etc` and `/opt` are overlays in memory, `/var` and `/tmp` the machine's own directory, `/run` a tmpfs; `/proc`,
//! `/sys`, the cgroup hierarchies and `/sys/fs/bpf` show what the machine's namespaces hold. All of it is shared, so
//! that a Pod's hostPath volume sees mounts made later, and all of it ends with the machine's last process.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};

use super::cgroups::{self, Hierarchy};
use super::plan::{Machine, OWN, PROGRAMS};

/// Settings of the whole kernel that kubelet wants. It reads these values and so writes nothing.
const KERNEL: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Keeps mounts of this namespace from reaching any other.
pub(super) fn make_private() -> Result<()> {
    change("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)
}

/// A `/proc` of this PID namespace.
pub(super) fn proc() -> Result<()> {
    fresh("proc", Path::new("/proc"), None)
}

/// Lays out everything for `machine`; the caller is alone in new mount and cgroup namespaces.
pub(super) fn lay_out(machine: &Machine) -> Result<()> {
    make_private()?;
    let hierarchies = cgroups::hierarchies()?;
    let links = cgroup_links();
    for inside in ["var/lib", "var/log", "var/cache", "tmp", "run"] {
        make(&machine.directory.join(inside))?;
    }
    run(machine)?;
    for name in ["etc", "opt"] {
        overlay(name)?;
    }
    std::os::unix::fs::symlink("/run", machine.directory.join("var/run"))?;
    open_to_all(&machine.directory.join("tmp"))?;
    bind(&machine.directory.join("tmp"), Path::new("/tmp"))?;
    bind(&machine.directory.join("var"), Path::new("/var"))?;
    make(Path::new("/var/tmp"))?;
    open_to_all(Path::new("/var/tmp"))?;
    sys(&hierarchies, &links)?;
    proc()?;
    kernel_settings()?;
    change("/", MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY)?;
    change("/", MsFlags::MS_REC | MsFlags::MS_SHARED)
}

/// `/run`, with the cache, the logs and the programs that this machine has.
fn run(machine: &Machine) -> Result<()> {
    let prepared = machine.directory.join("run");
    fresh("tmpfs", &prepared, Some("mode=755"))?;
    let own = prepared.join(OWN.trim_start_matches("/run/"));
    for inside in ["cache", "logs", "bin", "etc/upper", "etc/work", "opt/upper", "opt/work", "kernel"] {
        make(&own.join(inside))?;
    }
    for inside in ["lock", "netns"] {
        make(&prepared.join(inside))?;
    }
    bind(&machine.cache, &own.join("cache"))?;
    bind(&machine.logs, &own.join("logs"))?;
    move_to(&prepared, Path::new("/run"))?;
    for (name, path) in &machine.programs {
        let target = Path::new(OWN).join("cache").join(path);
        std::os::unix::fs::symlink(&target, Path::new(PROGRAMS).join(name))
            .with_context(|| format!("cannot link {name}"))?;
    }
    Ok(())
}

fn overlay(name: &str) -> Result<()> {
    let (own, target) = (Path::new(OWN).join(name), Path::new("/").join(name));
    let options = format!("lowerdir={},upperdir={}/upper,workdir={1}/work", target.display(), own.display());
    fresh("overlay", &target, Some(&options))
}

fn sys(hierarchies: &[Hierarchy], links: &[(PathBuf, PathBuf)]) -> Result<()> {
    fresh("sysfs", Path::new("/sys"), None)?;
    let root = Path::new(cgroups::MOUNTS);
    if !hierarchies.iter().any(|hierarchy| hierarchy.mount == root) {
        fresh("tmpfs", root, Some("mode=755"))?;
    }
    for Hierarchy { mount, controllers } in hierarchies {
        make(mount)?;
        match controllers {
            None => fresh("cgroup2", mount, None)?,
            Some(options) => fresh("cgroup", mount, Some(options))?,
        }
    }
    for (link, target) in links {
        std::os::unix::fs::symlink(target, link)?;
    }
    fresh("bpf", Path::new("/sys/fs/bpf"), Some("mode=0700"))
}

/// `cpu` → `cpu,cpuacct` and the like.
fn cgroup_links() -> Vec<(PathBuf, PathBuf)> {
    let entries = std::fs::read_dir(cgroups::MOUNTS).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), std::fs::read_link(entry.path()).ok()?))).collect()
}

fn kernel_settings() -> Result<()> {
    for (name, value) in KERNEL {
        let (seen, real) = (Path::new(OWN).join("kernel").join(name), Path::new("/proc/sys").join(name));
        if real.exists() {
            make(seen.parent().unwrap_or(Path::new("/")))?;
            std::fs::write(&seen, format!("{value}\n"))?;
            bind(&seen, &real)?;
        }
    }
    Ok(())
}

fn make(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

fn open_to_all(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o1777))
        .with_context(|| format!("cannot open {} to all", path.display()))
}

fn fresh(kind: &str, target: &Path, options: Option<&str>) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount {kind} ({}) at {}", options.unwrap_or(""), target.display()))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("cannot bind {} to {}", source.display(), target.display()))
}

fn move_to(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .with_context(|| format!("cannot move {} to {}", source.display(), target.display()))
}

fn change(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot set {flags:?} on {target}"))
}
