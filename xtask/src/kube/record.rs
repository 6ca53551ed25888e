//! What one cluster created, written before it is created, so that anyone can take it down.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::cgroups;
use super::settings::{Settings, check_name};

/// Each cluster's directory is here; nothing else is.
const BASE: &str = "/var/lib/sheetbend-kube";
/// How long the kernel may take to end a cluster's processes.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// As seen from the machine.
    pub(super) pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/PID/stat`.
    started: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    boot: String,
}

impl Process {
    /// The running process `pid`.
    pub(super) fn of(pid: i32) -> Result<Self> {
        let started = start_time(pid).with_context(|| format!("process {pid} is gone"))?;
        Ok(Self { pid, started, boot: boot_id() })
    }

    /// Whether it still runs. A zombie does not.
    pub(super) fn runs(&self) -> bool {
        self.boot == boot_id() && start_time(self.pid) == Some(self.started)
    }

    /// Ends it, and waits until it is gone with every process of its PID namespace.
    pub(super) fn end(&self) -> Result<()> {
        if !self.runs() {
            return Ok(());
        }
        kill(Pid::from_raw(self.pid), Signal::SIGKILL)
            .with_context(|| format!("cannot end process {}", self.pid))?;
        let deadline = Instant::now() + END_LIMIT;
        while self.runs() {
            if Instant::now() > deadline {
                bail!("process {} does not end; see /proc/{}/stack", self.pid, self.pid);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses; what follows the last one is fixed.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18)?.parse().ok()).flatten()
}

/// The record of one cluster: `cluster.json` in its directory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// What the user asked for.
    pub(super) settings: Settings,
    /// The `up` that makes or made it.
    pub(super) maker: Process,
    /// Process 1 of the cluster; everything in it ends with this one.
    pub(super) supervisor: Option<Process>,
    /// Every cgroup that the cluster's machines have, in each hierarchy.
    pub(super) cgroups: Vec<PathBuf>,
    /// `up` has finished.
    pub(super) ready: bool,
}

/// A cluster's directory.
pub(super) fn directory(name: &str) -> PathBuf {
    Path::new(BASE).join(name)
}

impl Record {
    /// Claims the name: makes the directory and writes the record. Fails if the directory is there.
    pub(super) fn claim(settings: Settings) -> Result<Self> {
        let directory = directory(&settings.name);
        std::fs::create_dir_all(BASE).with_context(|| format!("cannot make {BASE}"))?;
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let names = settings.machines();
        let cgroups = cgroups::paths(&settings.name, &names)?;
        let maker = Process::of(std::process::id().cast_signed())?;
        let record = Self { settings, maker, supervisor: None, cgroups, ready: false };
        record.write()?;
        Ok(record)
    }

    /// Replaces the file whole.
    pub(super) fn write(&self) -> Result<()> {
        let directory = directory(&self.settings.name);
        let (new, path) = (directory.join("cluster.json.new"), directory.join("cluster.json"));
        std::fs::write(&new, serde_json::to_string_pretty(self)?)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The record of `name`; `None` if there is no such cluster.
    pub(super) fn read(name: &str) -> Result<Option<Self>> {
        let path = directory(name).join("cluster.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let why = || format!("{} is not a record of this version; remove {0} by hand", path.display());
        serde_json::from_str(&text).map(Some).with_context(why)
    }

    /// The supervisor, if it runs.
    pub(super) fn alive(&self) -> Option<&Process> {
        self.supervisor.as_ref().filter(|process| process.runs())
    }

    /// Ends everything the record names and removes it. Running it twice does no harm.
    pub(super) fn remove(&self) -> Result<()> {
        let me = std::process::id().cast_signed();
        // An `up` that is still at work would go on creating.
        if self.maker.pid != me && !self.ready {
            self.maker.end()?;
        }
        if let Some(supervisor) = &self.supervisor {
            supervisor.end()?;
        }
        cgroups::remove(&self.cgroups)?;
        remove_directory(&self.settings.name)
    }
}

/// Removes a cluster's directory; the record goes last, so that an interrupted removal can be taken up again.
fn remove_directory(name: &str) -> Result<()> {
    check_name(name)?;
    let directory = directory(name);
    let Ok(entries) = std::fs::read_dir(&directory) else { return Ok(()) };
    let device = directory.metadata()?.dev();
    let record = directory.join("cluster.json");
    for entry in entries {
        let path = entry?.path();
        if path == record {
            continue;
        }
        let meta = path.symlink_metadata()?;
        if meta.dev() != device {
            bail!("{} is a mount; unmount it and run `down` again", path.display());
        }
        if meta.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
            .with_context(|| format!("cannot remove {}", path.display()))?;
    }
    std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    // Fails, as it should, while another cluster is there.
    drop(std::fs::remove_dir(BASE));
    Ok(())
}

/// The names of all clusters, sorted, running or not.
pub(super) fn names() -> Vec<String> {
    let entries = std::fs::read_dir(BASE).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A directory without a record is what an `up` left that was killed between two system calls.
pub(super) fn sweep(name: &str) -> Result<()> {
    if Record::read(name)?.is_none() { remove_directory(name) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn a_process_with_another_start_is_another() {
        let mine = Process::of(std::process::id().cast_signed()).unwrap();
        assert!(mine.runs());
        assert!(!Process { started: mine.started + 1, ..mine.clone() }.runs());
        assert!(!Process { boot: "another".into(), ..mine }.runs());
    }

    #[test]
    fn a_zombie_does_not_run() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process { pid: child.id().cast_signed(), started: 0, boot: boot_id() };
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(start_time(process.pid), None);
        child.wait().unwrap();
    }
}
