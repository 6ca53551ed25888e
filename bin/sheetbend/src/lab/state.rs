//! What is on disk of a lab: `/run/sheetbend/lab/<name>/`.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use super::failure::{Failure, NO_LAB, Outcome, USAGE};

/// Every lab of this machine has a directory here.
pub(crate) const ROOT: &str = "/run/sheetbend/lab";

/// A process, told apart from later ones with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessId {
    /// Process id in the machine's first PID namespace.
    pub(crate) pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot.
    pub(crate) start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot_id: String,
}

impl ProcessId {
    /// The process `pid`, if it runs now.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name stands in parentheses and may hold spaces: count from the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let state = fields.first()?;
        let start_time = fields.get(19)?.parse().ok()?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        (*state != "Z" && *state != "X").then_some(Self { pid, start_time, boot_id })
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// `lab.json`: whose lab it is and everything made for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabFile {
    /// The lab's name.
    pub(crate) name: String,
    /// `vxlan` or `host-gw`.
    pub(crate) mode: String,
    /// The supervisor; before it runs, whoever starts it.
    pub(crate) supervisor: ProcessId,
    /// Whether every pod has answered.
    pub(crate) ready: bool,
    /// Network namespaces, by name.
    pub(crate) namespaces: Vec<String>,
    /// Devices made by the lab itself, as `namespace/device`. They end with their namespace.
    pub(crate) devices: Vec<String>,
    /// Directories of pins on the lab's own bpffs.
    pub(crate) pins: Vec<String>,
    /// cgroup directories: the only thing that does not end with the supervisor.
    pub(crate) cgroups: Vec<String>,
}

/// A lab's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LabDir {
    /// `/run/sheetbend/lab/<name>`.
    pub(crate) path: PathBuf,
}

impl LabDir {
    /// The directory of the lab `name`.
    pub(crate) fn of(name: &str) -> Self {
        Self { path: Path::new(ROOT).join(name) }
    }

    /// Makes the directory with its `lab.json` in one step; refuses a name in use.
    pub(crate) fn create(file: &LabFile) -> Outcome<Self> {
        let dir = Self::of(&file.name);
        let draft = Path::new(ROOT).join(format!(".{}.{}", file.name, file.supervisor.pid));
        // `down` of another lab may remove the empty root between the two calls.
        let mut tries = 0;
        while let Err(error) = fs::create_dir_all(ROOT).and_then(|()| fs::create_dir(&draft)) {
            tries += 1;
            if error.kind() != ErrorKind::NotFound || tries > 10 {
                return Err(Failure::from(error));
            }
        }
        Self { path: draft.clone() }.write(file)?;
        match renameat2(AT_FDCWD, &draft, AT_FDCWD, &dir.path, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(dir),
            Err(nix::Error::EEXIST) => {
                fs::remove_dir_all(&draft)?;
                let name = &file.name;
                Err(Failure::new(
                    USAGE,
                    format!(
                        "lab {name:?} runs already; take it down with `sheetbend lab down --name {name}` or choose \
                         another --name"
                    ),
                ))
            }
            Err(error) => Err(Failure::from(error)),
        }
    }

    /// A path inside the directory.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.join("control.sock")
    }

    /// The directory that all agents watch: a link to the newest generation.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.join("cluster")
    }

    /// The directory of one node: `run/`, `state/`, `agent.log`.
    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.path.join("nodes").join(node)
    }

    /// Reads `lab.json`.
    pub(crate) fn read(&self) -> anyhow::Result<LabFile> {
        let path = self.join("lab.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Writes `lab.json`, whole or not at all.
    pub(crate) fn write(&self, file: &LabFile) -> anyhow::Result<()> {
        let draft = self.join(".lab.json");
        fs::write(&draft, serde_json::to_vec_pretty(file)?)?;
        fs::rename(&draft, self.join("lab.json"))?;
        Ok(())
    }

    /// Changes `lab.json` under the lab's lock.
    pub(crate) fn update(&self, change: impl FnOnce(&mut LabFile)) -> anyhow::Result<()> {
        let _lock = self.lock()?;
        let mut file = self.read()?;
        change(&mut file);
        self.write(&file)
    }

    /// Takes the lab's lock, waiting for its holder; it is free again when the value is dropped or the process ends.
    fn lock(&self) -> anyhow::Result<Flock<File>> {
        self.flock("lock")
    }

    /// Lets one `apply` or `delete` at a time through; the supervisor takes [`LabDir::lock`] meanwhile.
    pub(crate) fn change_lock(&self) -> anyhow::Result<Flock<File>> {
        self.flock("change.lock")
    }

    fn flock(&self, name: &str) -> anyhow::Result<Flock<File>> {
        let file = File::options().create(true).truncate(false).write(true).open(self.join(name))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("cannot lock the lab")
    }

    /// Removes the directory, and the roots above it when no other lab is left.
    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot remove {}", self.path.display()));
            }
        }
        // Fails while another lab lives there, which is right.
        let _ = fs::remove_dir(ROOT);
        let _ = fs::remove_dir("/run/sheetbend");
        Ok(())
    }
}

/// All labs whose supervisor runs, by name.
pub(crate) fn running() -> Vec<(LabDir, LabFile)> {
    let mut labs: Vec<_> = directories()
        .into_iter()
        .filter_map(|dir| dir.read().ok().map(|file| (dir, file)))
        .filter(|(_, file)| file.supervisor.is_alive())
        .collect();
    labs.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    labs
}

/// The lab a command means: the one called `name`, or the only one.
pub(crate) fn find(name: Option<&str>) -> Outcome<(LabDir, LabFile)> {
    let mut labs = running();
    if let Some(name) = name {
        let known: Vec<String> = labs.iter().map(|(_, file)| file.name.clone()).collect();
        return labs.into_iter().find(|(_, file)| file.name == name).ok_or_else(|| {
            let known = if known.is_empty() {
                "none runs".to_owned()
            } else {
                format!("running: {}", known.join(", "))
            };
            Failure::new(NO_LAB, format!("no lab is called {name:?} ({known})"))
        });
    }
    match (labs.pop(), labs.len()) {
        (Some(lab), 0) => Ok(lab),
        (None, _) => Err(Failure::new(NO_LAB, "no lab runs; start one with `sheetbend lab up -f DIR`")),
        (Some(last), _) => {
            let mut names: Vec<String> = labs.into_iter().map(|(_, file)| file.name).collect();
            names.push(last.1.name);
            let names = names.join(", ");
            Err(Failure::new(NO_LAB, format!("several labs run ({names}); say which one with --name")))
        }
    }
}

/// Removes what is left of labs whose supervisor is gone. Returns their names.
///
/// Processes, namespaces, devices and pins ended with the supervisor; the directory and cgroups are left.
pub(crate) fn sweep() -> anyhow::Result<Vec<String>> {
    let mut swept = Vec::new();
    for dir in directories() {
        let Ok(file) = dir.read() else {
            // A draft is complete before it gets its name; one without lab.json belongs to nobody.
            if older_than(&dir.path, Duration::from_secs(10)) {
                dir.remove()?;
            }
            continue;
        };
        if !file.supervisor.is_alive() {
            for cgroup in &file.cgroups {
                let _ = fs::remove_dir(cgroup);
            }
            dir.remove()?;
            swept.push(file.name);
        }
    }
    Ok(swept)
}

/// Refuses a name that cannot be part of a namespace's or a socket's name.
pub(crate) fn check_name(name: &str) -> Outcome {
    let good = !name.is_empty()
        && name.len() <= 32
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(Failure::new(
        USAGE,
        format!(
            "{name:?} cannot name a lab; use 1 to 32 lower-case letters, digits and '-', as in `--name shop-1`"
        ),
    ))
}

fn directories() -> Vec<LabDir> {
    let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
    entries.flatten().map(|entry| LabDir { path: entry.path() }).collect()
}

fn older_than(path: &Path, age: Duration) -> bool {
    let modified = fs::metadata(path).and_then(|meta| meta.modified()).ok();
    modified.and_then(|time| time.elapsed().ok()).is_some_and(|elapsed| elapsed > age)
}
