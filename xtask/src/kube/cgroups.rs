//! A cgroup for each machine, in every hierarchy that the kernel has mounted, version 1 and 2 alike.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Below this, in each hierarchy, lie clusters, and below them machines.
const ROOT: &str = "sheetbend-kube";
/// Where the hierarchies are mounted.
pub(super) const MOUNTS: &str = "/sys/fs/cgroup";
/// `cpu.shares` of each group on the way to a machine; a process without a group has 1024.
const WEIGHT: &str = "20480";
/// Processes leave the kernel a moment after they end.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// `None` for cgroup v2; for v1 the controllers as mount options, e.g. `memory` or `none,name=systemd`.
    pub(super) controllers: Option<String>,
}

/// The hierarchies mounted at or below `/sys/fs/cgroup`.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let found = parse(&text);
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted at {MOUNTS}; mount one: mount -t cgroup2 cgroup2 {MOUNTS}");
    }
    Ok(found)
}

/// Reads `/proc/self/mountinfo` (proc(5)).
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    mountinfo.lines().filter_map(hierarchy).collect()
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mount = PathBuf::from(left.split(' ').nth(4)?);
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    if !mount.starts_with(MOUNTS) {
        return None;
    }
    match kind {
        "cgroup2" => Some(Hierarchy { mount, controllers: None }),
        "cgroup" => {
            let keep = |option: &&str| {
                !matches!(*option, "rw" | "ro" | "xattr" | "clone_children")
                    && !option.starts_with("release_agent")
            };
            let names: Vec<&str> = options.split(',').filter(keep).collect();
            let named = names.iter().all(|name| name.starts_with("name="));
            let none = if named { "none," } else { "" };
            Some(Hierarchy { mount, controllers: Some(format!("{none}{}", names.join(","))) })
        }
        _ => None,
    }
}

/// The cgroups of a cluster's machines, in every hierarchy.
pub(super) fn paths(cluster: &str, machines: &[String]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for hierarchy in hierarchies()? {
        let root = hierarchy.mount.join(ROOT).join(cluster);
        paths.extend(machines.iter().map(|machine| root.join(machine)));
    }
    Ok(paths)
}

/// Makes the cgroups of one machine and moves this process into them.
pub(super) fn enter(cluster: &str, machine: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut path = hierarchy.mount.clone();
        for part in [ROOT, cluster, machine] {
            let parent = path.clone();
            path.push(part);
            make(&parent, &path)?;
        }
        move_here(&path)?;
    }
    Ok(())
}

/// Moves this process from the machine's own v2 cgroup to a leaf, so that the machine's may hand controllers on.
pub(super) fn leave_root() -> Result<()> {
    for hierarchy in hierarchies()?.iter().filter(|hierarchy| hierarchy.controllers.is_none()) {
        let leaf = hierarchy.mount.join("init");
        make(&hierarchy.mount, &leaf)?;
        move_here(&leaf)?;
    }
    Ok(())
}

/// Moves this process into the cgroups of `machine` among `paths`, so that it counts as a process of that node.
pub(super) fn join(paths: &[PathBuf], machine: &str) -> Result<()> {
    for path in paths.iter().filter(|path| path.ends_with(machine)) {
        let leaf = path.join("init");
        move_here(if leaf.is_dir() { &leaf } else { path })?;
    }
    Ok(())
}

fn make(parent: &Path, path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make the cgroup {}", path.display()));
        }
        _ => {}
    }
    // A new v1 cpuset is empty, and nothing can run in it.
    let is_v1 = !parent.join("cgroup.controllers").exists();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let target = path.join(file);
        if is_v1 && target.exists() {
            write(&target, std::fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    // To the scheduler a group is one process beside those of its parent, however many it holds: without more weight
    // a busy machine starves all of a cluster together.
    let shares = path.join("cpu.shares");
    if shares.exists() {
        write(&shares, WEIGHT)?;
    }
    // A v2 child has only the controllers its parent hands on. Beside v1 hierarchies nobody needs them.
    if path.starts_with(format!("{MOUNTS}/unified")) {
        return Ok(());
    }
    if let Ok(controllers) = std::fs::read_to_string(parent.join("cgroup.controllers")) {
        let all: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
        if !all.is_empty() {
            // Refused where a parent holds processes; kubelet then says which controller it misses.
            drop(std::fs::write(parent.join("cgroup.subtree_control"), all.join(" ")));
        }
    }
    Ok(())
}

fn move_here(cgroup: &Path) -> Result<()> {
    write(&cgroup.join("cgroup.procs"), "0")
}

fn write(path: &Path, value: &str) -> Result<()> {
    std::fs::write(path, value).with_context(|| format!("cannot write {value:?} to {}", path.display()))
}

/// Removes cgroups with all below them, and the parents that become empty. What is gone already is fine.
pub(super) fn remove(paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        remove_tree(path)?;
        for parent in path.ancestors().skip(1).take(2) {
            drop(std::fs::remove_dir(parent));
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let deadline = Instant::now() + EMPTY_LIMIT;
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("cannot remove the cgroup {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_from_mountinfo() {
        let text = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
34 30 0:29 / /elsewhere rw - cgroup2 cgroup2 rw
";
        let found: Vec<(String, Option<String>)> = parse(text)
            .into_iter()
            .map(|found| (found.mount.display().to_string(), found.controllers))
            .collect();
        let expected = [
            ("/sys/fs/cgroup/cpu,cpuacct", Some("cpu,cpuacct")),
            ("/sys/fs/cgroup/systemd", Some("none,name=systemd")),
            ("/sys/fs/cgroup/unified", None),
        ];
        let expected = expected.map(|(mount, names)| (mount.to_owned(), names.map(str::to_owned)));
        assert_eq!(found, expected);
    }
}
