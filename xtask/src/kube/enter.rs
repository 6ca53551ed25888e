//! Running programs inside a cluster's machines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::machine::search_path;
use super::record::{Record, directory};
use super::settings::CONTROL_PLANE;

/// The name under which the underlay's router is entered.
pub(super) const UNDERLAY: &str = "underlay";

/// Process 1 of `machine` as the host numbers it.
pub(super) fn pid_of(record: &Record, machine: &str) -> Result<i32> {
    let name = &record.settings.name;
    let supervisor = record.alive().with_context(|| {
        format!("cluster {name} does not run; `cargo xtask kube up --name {name}` makes it anew")
    })?;
    if machine == UNDERLAY {
        return Ok(supervisor.pid);
    }
    let is_it = |pid: &i32| {
        let path = format!("/proc/{pid}/cmdline");
        let line = std::fs::read(path).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.get(2) == Some(&b"machine".as_slice()) && words.get(4) == Some(&machine.as_bytes())
    };
    children(supervisor.pid).into_iter().find(is_it).with_context(|| {
        let all = record.settings.machines().join(", ");
        format!(
            "cluster {name} runs no machine {machine}; it was made with: {all}, and the router `{UNDERLAY}`"
        )
    })
}

fn children(parent: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        fields.split(' ').nth(1).and_then(|field| field.parse().ok()) == Some(parent)
    })
    .collect()
}

/// A machine's file system, seen from the host.
pub(super) fn root_of(record: &Record, machine: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/proc/{}/root", pid_of(record, machine)?)))
}

/// A command that runs as on `machine`: all its namespaces, its programs.
pub(super) fn command(record: &Record, machine: &str, program: &str) -> Result<Command> {
    let pid = pid_of(record, machine)?;
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--all", "--wd=/", "--", program]);
    command.env("PATH", search_path()).env("HOME", "/tmp");
    Ok(command)
}

/// A command with the host's files and the network of `machine`, which ends with the cluster.
pub(super) fn with_network(record: &Record, machine: &str, program: &Path) -> Result<Command> {
    let pid = pid_of(record, machine)?;
    let supervisor = record.alive().map(|process| process.pid).context("the cluster does not run")?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg(format!("--pid=/proc/{supervisor}/ns/pid"));
    command.arg("--").arg(program);
    Ok(command)
}

/// `kubectl` as the cluster's administrator, with the host's files.
pub(super) fn kubectl(record: &Record, kubectl: &Path) -> Result<Command> {
    let mut command = with_network(record, CONTROL_PLANE, kubectl)?;
    command.arg("--kubeconfig").arg(kubeconfig(&record.settings.name));
    Ok(command)
}

/// The administrator's kubeconfig.
pub(super) fn kubeconfig(cluster: &str) -> PathBuf {
    directory(cluster).join("admin.kubeconfig")
}

/// Runs a command to its end and gives its standard output; an error holds its standard error.
pub(super) fn output(mut command: Command) -> Result<String> {
    let output = command.stdin(std::process::Stdio::null()).output().context("cannot start nsenter")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
