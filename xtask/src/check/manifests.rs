//! What every manifest must say, and whether lock files and the oldest compiler agree.

use anyhow::{Result, bail};

use super::{Outcome, succeed};
use crate::progress::Step;
use crate::repo::Repo;
use crate::{process, rooms};

/// Every package inherits the workspace's lints and names itself in one sentence.
pub(super) fn check(repo: &Repo, _step: &mut Step) -> Result<Outcome> {
    let mut wrong = Vec::new();
    let packages = rooms::packages(repo)?;
    for package in packages.iter().filter(|package| package.name != "sheetbend-ebpf-programs") {
        let path = format!("{}/Cargo.toml", package.directory);
        let manifest = repo.read(&path)?;
        if !manifest.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{path}: add `[lints]` with `workspace = true`"));
        }
        if manifest.contains("description = \"\"") {
            wrong.push(format!("{path}: say in `description` what the package is"));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(Outcome::Passed(format!("{} packages", packages.len())))
}

/// The committed lock files are those of the manifests.
pub(super) fn locks(repo: &Repo, step: &mut Step) -> Result<Outcome> {
    for manifest in ["Cargo.toml", "crates/ebpf/programs/Cargo.toml"] {
        let mut command = repo.cargo();
        // The graph itself is no help in an error.
        command.args(["metadata", "--format-version=1", "--locked", "--manifest-path", manifest]);
        let done = process::capture(&mut command, &mut |_| step.note(manifest))?;
        if !done.ok() {
            bail!(
                "the lock file beside {manifest} is out of date; run `cargo metadata` there and commit it\n{}",
                done.tail(5)
            );
        }
    }
    Ok(Outcome::Passed(String::new()))
}

/// The workspace builds with the compiler that `rust-version` promises.
pub(super) fn oldest_compiler(repo: &Repo, step: &mut Step) -> Result<Outcome> {
    let manifest = repo.read("Cargo.toml")?;
    let Some(oldest) = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")) else {
        bail!("Cargo.toml names no rust-version");
    };
    let oldest = oldest.trim_matches('"');
    let running =
        process::first_line(std::process::Command::new("rustc").current_dir(repo.root()).arg("--version"));
    let running = running.unwrap_or_default();
    if running.starts_with(&format!("rustc {oldest}.")) {
        return Ok(Outcome::Passed(format!("{oldest} is the compiler in use")));
    }
    let toolchain = format!("+{oldest}.0");
    let mut probe = std::process::Command::new("cargo");
    if process::first_line(probe.args([&toolchain, "--version"])).is_none() {
        return Ok(Outcome::Skipped(format!(
            "rustup has no toolchain {oldest}.0; `rustup toolchain install {oldest}.0`"
        )));
    }
    let mut command = std::process::Command::new("cargo");
    command.current_dir(repo.root()).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command.args([&toolchain, "check", "--workspace", "--target-dir"]).arg(repo.target().join("oldest"));
    succeed(&mut command, step)?;
    Ok(Outcome::Passed(oldest.to_owned()))
}
