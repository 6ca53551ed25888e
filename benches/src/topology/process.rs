//! What a process weighs, and what it said last.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// A field of `/proc/PID/status` that is a size (`VmRSS`, `VmHWM`), in MiB.
///
/// # Errors
/// The process is gone.
pub(crate) fn mib(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kib: f64 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// utime + stime (proc_pid_stat(5), fields 14 and 15), hundredths of a second.
///
/// # Errors
/// The process is gone.
pub(crate) fn cpu_ticks(pid: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no process name")?;
    let field = |index: usize| -> anyhow::Result<u64> {
        Ok(fields.split_whitespace().nth(index).context("a short line")?.parse()?)
    };
    Ok(field(11)? + field(12)?)
}

/// The last lines of a log, in one.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
