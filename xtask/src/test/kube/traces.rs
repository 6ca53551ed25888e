//! What a test cluster could leave behind on the machine, listed before and after.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The kernel takes its time over namespaces.
const PATIENCE: Duration = Duration::from_secs(20);

/// Links, mounts, cgroups, pins, processes and directories, one line each. Other clusters' are left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Traces {
    lines: BTreeSet<String>,
}

impl Traces {
    /// Lists what could be of cluster `name`.
    pub(super) fn now(name: &str) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for directory in
            ["/sys/class/net", "/sys/fs/bpf", "/run/netns", "/var/lib", "/var/lib/sheetbend-kube"]
        {
            list(Path::new(directory), 0, &mut lines);
        }
        for directory in
            ["/etc/cni", "/opt/cni", "/var/lib/kubelet", "/var/lib/containerd", "/run/containerd"]
        {
            list(Path::new(directory), 2, &mut lines);
        }
        lines.retain(|line| !is_foreign(line, name));
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        lines.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
        cgroups(Path::new("/sys/fs/cgroup"), 4, name, &mut lines);
        processes(name, &mut lines);
        for file in ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"] {
            let value = std::fs::read_to_string(Path::new("/proc/sys").join(file)).unwrap_or_default();
            lines.insert(format!("sysctl {file} = {}", value.trim()));
        }
        Ok(Self { lines })
    }

    /// How many processes are listed.
    pub(super) fn processes(&self) -> usize {
        self.lines.iter().filter(|line| line.starts_with("process ")).count()
    }

    /// Waits a little for the machine to be as it was, and says what is not.
    pub(super) fn assert_unchanged(&self, name: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = Self::now(name)?;
            let left: Vec<&str> = now.lines.difference(&self.lines).map(String::as_str).take(12).collect();
            let gone: Vec<&str> = self.lines.difference(&now.lines).map(String::as_str).take(12).collect();
            if left.is_empty() && gone.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("left behind: {left:?}; gone: {gone:?}");
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

/// The directory of clusters comes with the first and goes with the last, which may be somebody else's.
fn is_foreign(line: &str, name: &str) -> bool {
    let base = "/var/lib/sheetbend-kube";
    line == base || line.starts_with(base) && !line.contains(name)
}

fn list(directory: &Path, depth: u32, lines: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        lines.insert(entry.path().display().to_string());
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), depth - 1, lines);
        }
    }
}

fn cgroups(directory: &Path, depth: u32, name: &str, lines: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if path.display().to_string().contains(name) {
            lines.insert(format!("cgroup {}", path.display()));
        }
        if depth > 0 {
            cgroups(&path, depth - 1, name, lines);
        }
    }
}

/// Processes in a cgroup of the cluster, and its supervisor.
fn processes(name: &str, lines: &mut BTreeSet<String>) {
    let (cgroup, plan) = (format!("/sheetbend-kube/{name}/"), format!("/sheetbend-kube/{name}/plan.json"));
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |file: &str| {
            String::from_utf8_lossy(&std::fs::read(entry.path().join(file)).unwrap_or_default()).into_owned()
        };
        if read("cgroup").contains(&cgroup) || read("cmdline").contains(&plan) {
            lines.insert(format!("process {}", entry.file_name().display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_clusters_are_not_ours() {
        assert!(is_foreign("/var/lib/sheetbend-kube/default", "t1-0"));
        assert!(is_foreign("/var/lib/sheetbend-kube", "t1-0"));
        assert!(!is_foreign("/var/lib/sheetbend-kube/t1-0", "t1-0"));
        assert!(!is_foreign("/var/lib/kubelet", "t1-0"));
    }
}
