//! The facts a number means nothing without.

use std::fmt;
use std::fs;
use std::process::Command;

use serde::Serialize;

/// Where and when it was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    /// Model name of the first CPU.
    pub(crate) cpu: String,
    /// CPUs that this process may use.
    pub(crate) cpus: usize,
    /// `uname -r`.
    pub(crate) kernel: String,
    /// Memory, MiB.
    pub(crate) memory_mib: u64,
    /// Load average of the last minute when the run began: others' work on the machine.
    pub(crate) load: String,
    /// UTC, ISO 8601.
    pub(crate) date: String,
    /// Revision measured, with `+` for a changed tree.
    pub(crate) commit: String,
    /// Whether sample sizes were those of `--quick`.
    pub(crate) quick: bool,
}

impl Machine {
    /// Reads them.
    pub(crate) fn read(quick: bool) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        Self {
            cpu: field(&cpuinfo, "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: commit(),
            quick,
        }
    }
}

fn commit() -> String {
    let revision = output("git", &["rev-parse", "--short=12", "HEAD"]);
    if revision.is_empty() {
        return "unknown".into();
    }
    let changed = !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    format!("{revision}{}", if changed { "+" } else { "" })
}

fn output(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Measured {} on {} ({} CPUs, {} MiB), Linux {}, at commit {}, load average {} at the start{}.",
            self.date,
            self.cpu,
            self.cpus,
            self.memory_mib,
            self.kernel,
            self.commit,
            self.load,
            if self.quick { ", with the small samples of `--quick`" } else { "" },
        )
    }
}
