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

/// The last lines of a log, in one.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}
