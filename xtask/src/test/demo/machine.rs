//! What a demo could leave behind on the machine, listed before and after.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What is waited for: a killed demo's supervisor notices at once, but the kernel takes its time over namespaces.
const PATIENCE: Duration = Duration::from_secs(20);

/// Namespaces, links, pins, cgroups, processes and `/run`, one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    lines: BTreeSet<String>,
}

impl Machine {
    /// Lists them.
    pub(super) fn now() -> Result<Self> {
        let mut lines = BTreeSet::new();
        list("link", Path::new("/sys/class/net"), 0, &mut lines);
        list("pin", Path::new("/sys/fs/bpf"), 8, &mut lines);
        // systemd's own churn in /run is not ours: its upper level, and all below the directories we use.
        list("run", Path::new("/run"), 0, &mut lines);
        list("run", Path::new("/run/netns"), 0, &mut lines);
        list("run", Path::new("/run/sheetbend"), 8, &mut lines);
        lines.retain(|line| !is_foreign(line));
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let mut cgroups = BTreeSet::new();
            directories(Path::new(root), 6, &mut cgroups);
            lines.extend(cgroups.into_iter().filter(|path| path.contains("demo-")));
        }
        namespaces(&mut lines);
        Ok(Self { lines })
    }

    /// Waits a little for the machine to be as it was, and says what is not.
    pub(super) fn assert_unchanged(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = Self::now()?;
            let left: Vec<&str> = now.lines.difference(&self.lines).map(String::as_str).collect();
            let gone: Vec<&str> = self.lines.difference(&now.lines).map(String::as_str).collect();
            if left.is_empty() && gone.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                let some = |lines: &[&str]| lines.iter().take(12).copied().collect::<Vec<_>>().join(", ");
                bail!(
                    "left behind ({}): [{}]; gone ({}): [{}]",
                    left.len(),
                    some(&left),
                    gone.len(),
                    some(&gone)
                );
            }
            thread::sleep(Duration::from_millis(250));
        }
    }
}

fn list(kind: &str, directory: &Path, depth: u32, lines: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        lines.insert(format!("{kind} {}", path.display()));
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(kind, &path, depth - 1, lines);
        }
    }
}

fn directories(directory: &Path, depth: u32, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found.insert(format!("cgroup {}", entry.path().display()));
        if depth > 0 {
            directories(&entry.path(), depth - 1, found);
        }
    }
}

/// A lab of another name belongs to somebody else on this machine, who may start and end it at any time.
fn is_foreign(line: &str) -> bool {
    // The two directories that all labs share stay, empty.
    let shared = ["run /run/sheetbend", "run /run/sheetbend/lab", "run /run/netns"].contains(&line);
    let lab = line.strip_prefix("run /run/sheetbend/lab/").is_some_and(|lab| !lab.starts_with("demo-"));
    shared || lab || line.strip_prefix("run /run/netns/").is_some_and(|name| !name.contains("demo-"))
}

/// Processes of demos, and with them the namespaces they keep alive.
fn namespaces(lines: &mut BTreeSet<String>) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let path = process.path();
        let Ok(program) = std::fs::read_link(path.join("exe")) else { continue };
        let ours = program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sheetbend"));
        let arguments = std::fs::read(path.join("cmdline")).unwrap_or_default();
        if !ours || !String::from_utf8_lossy(&arguments).contains("demo") {
            continue;
        }
        lines.insert(format!("process {} of {}", process.file_name().to_string_lossy(), program.display()));
        if let Ok(namespace) = std::fs::read_link(path.join("ns/net")) {
            lines.insert(format!("namespace {}", namespace.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn other_labs_are_not_ours() {
        assert!(is_foreign("run /run/sheetbend/lab/kx-12/lab.json"));
        assert!(!is_foreign("run /run/sheetbend/lab/demo-12/lab.json"));
        assert!(!is_foreign("run /run/sheetbend/stray"));
    }

    #[test]
    fn a_file_left_behind_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let listed = || {
            let mut lines = BTreeSet::new();
            list("run", dir.path(), 3, &mut lines);
            lines
        };
        let before = listed();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        let after = listed();
        let left: Vec<&String> = after.difference(&before).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left[1].ends_with("/a/b"));
    }
}
