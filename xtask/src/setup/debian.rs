//! Debian packages by apt-get; other systems get a message.

use std::process::Command;

use anyhow::{Result, bail};

use super::machine;
use crate::process;
use crate::progress::Step;

/// Installs packages, with a fresh package list only when the present one does not know them.
pub(super) fn install(packages: &[&str], step: &mut Step) -> Result<()> {
    if process::find_program("apt-get", &[]).is_none() {
        bail!("this system has no apt-get; install the like of: {}", packages.join(" "));
    }
    if !machine::is_root() {
        bail!("installing Debian packages needs root: apt-get install {}", packages.join(" "));
    }
    if packages.iter().any(|package| !has_candidate(package)) {
        step.note("apt-get update");
        apt(&["update"], step)?;
    }
    let unknown: Vec<&str> = packages.iter().copied().filter(|package| !has_candidate(package)).collect();
    if !unknown.is_empty() {
        bail!("apt knows no package {}; add a source that has it", unknown.join(", "));
    }
    let arguments = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    if apt(&arguments, step).is_err() {
        // The list may be older than the archive.
        apt(&["update"], step)?;
        apt(&arguments, step)?;
    }
    Ok(())
}

fn has_candidate(package: &str) -> bool {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    output.is_ok_and(|output| candidate(&String::from_utf8_lossy(&output.stdout)))
}

fn candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)")
}

fn apt(arguments: &[&str], step: &mut Step) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("apt-get {} failed ({}):\n{}", arguments.join(" "), done.ending(), done.tail(8));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_candidate_is_unknown() {
        assert!(candidate("llvm-22-dev:\n  Installed: (none)\n  Candidate: 1:22.1.8\n"));
        assert!(!candidate("llvm-22-dev:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!candidate(""));
    }
}
