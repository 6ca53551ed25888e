//! The build of the kernel programs: the same bytes from any directory.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::compiler::Compiler;
use crate::process;
use crate::progress::Step;
use crate::repo::{Repo, cargo_home};

/// Builds `crates/ebpf/programs` and gives the path of the object.
pub(crate) fn build(repo: &Repo, compiler: &Compiler, step: &mut Step) -> Result<PathBuf> {
    build_into(repo, &repo.target().join("ebpf"), compiler, step)
}

/// Like [`build`], in a target directory of the caller's.
pub(crate) fn build_into(
    repo: &Repo,
    target: &Path,
    compiler: &Compiler,
    step: &mut Step,
) -> Result<PathBuf> {
    let flags: Vec<String> = remapped(repo, compiler)?
        .into_iter()
        .map(|(from, to)| serde_json::to_string(&format!("--remap-path-prefix={from}={to}")))
        .collect::<Result<_, _>>()?;
    let mut command = compiler.cargo();
    command
        .args(["build", "--release", "--locked", "--config"])
        .arg(format!("build.rustflags=[{}]", flags.join(",")))
        .arg("--target-dir")
        .arg(target)
        .current_dir(repo.path("crates/ebpf/programs"));
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("the eBPF build failed ({}):\n{}", done.ending(), done.tail(60));
    }
    Ok(target.join("bpfel-unknown-none/release/sheetbend"))
}

/// Directories that differ between machines, and what stands for them in the object.
fn remapped(repo: &Repo, compiler: &Compiler) -> Result<Vec<(String, String)>> {
    let mut pairs = vec![(repo.root().display().to_string(), "/sheetbend".to_owned())];
    pairs.extend(
        compiler.library_sources().iter().map(|path| (path.display().to_string(), "/rust".to_owned())),
    );
    let registry = cargo_home().join("registry/src");
    if registry.is_dir() {
        for entry in
            std::fs::read_dir(&registry).with_context(|| format!("cannot read {}", registry.display()))?
        {
            pairs.push((entry?.path().display().to_string(), "/registry".to_owned()));
        }
    }
    Ok(pairs)
}
