//! The facts about this machine that its figures mean nothing without.

use std::process::Command;

use crate::process;
use crate::repo::Repo;
use crate::setup;

/// A list of facts in Markdown.
pub(super) fn facts(repo: &Repo) -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let first = |program: &str, arguments: &[&str]| {
        process::first_line(Command::new(program).args(arguments).current_dir(repo.root()))
            .unwrap_or_default()
    };
    let dirty = if first("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty() {
        ""
    } else {
        " with changes"
    };
    [
        format!("- Processor: {}, {cores} cores", field("model name")),
        format!("- Memory: {} MiB", memory_kib() / 1024),
        format!("- Kernel: {}", setup::release()),
        format!("- Virtual machine: {}", if field("flags").contains("hypervisor") { "yes" } else { "no" }),
        format!("- BPF JIT: {}", sysctl("net/core/bpf_jit_enable")),
        format!("- Compiler: {}", first("rustc", &["--version"])),
        format!("- Sheetbend: {}{dirty}", first("git", &["rev-parse", "--short", "HEAD"])),
        format!("- Date: {}", first("date", &["--utc", "+%Y-%m-%d"])),
    ]
    .join("\n")
}

fn memory_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn sysctl(path: &str) -> String {
    let value = std::fs::read_to_string(format!("/proc/sys/{path}")).unwrap_or_default();
    match value.trim() {
        "0" => "off".to_owned(),
        "" => "unknown".to_owned(),
        _ => "on".to_owned(),
    }
}
