//! `cargo xtask image`: Sheetbend as a container image, without Docker.

pub(crate) mod archive;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use self::archive::{Entry, Image};
use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::{ebpf, process};

/// The image's name; the tag is the workspace's version.
const NAME: &str = "ghcr.io/sheetbend/sheetbend";
/// Cargo profile of the binaries: release without symbols.
const PROFILE: &str = "image";

/// Build the container image: two static binaries and a licence, no shell, no libraries.
///
/// The archive is an OCI image layout that `ctr images import`, `podman load` and `docker load` take. Kernel programs
/// are inside the binary. With the musl target installed (`rustup target add x86_64-unknown-linux-musl`) the binaries
/// use musl, else a static glibc.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the archive goes; `target/xtask/image/sheetbend.tar` if left out.
    #[arg(long, short)]
    output: Option<PathBuf>,
}

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let path = build(repo, args.output.as_deref())?;
    println!("{}: {} ({:.1} MB)", tag(), path.display(), megabytes(path.metadata()?.len()));
    Ok(ExitCode::SUCCESS)
}

/// Builds the archive and gives its path.
pub(crate) fn build(repo: &Repo, output: Option<&Path>) -> Result<PathBuf> {
    if !repo.path(ebpf::OBJECT).is_file() {
        bail!("{} is missing; `cargo xtask ebpf` builds it", ebpf::OBJECT);
    }
    let target = target();
    let mut step = Step::start(format!("binaries for {target}"));
    let built = compile(repo, &target, &mut step);
    step.end(if built.is_ok() { Mark::Done } else { Mark::Failed }, "");
    let binaries = built?;
    let scratch = repo.scratch("image")?;
    let layer = scratch.join("layer.tar");
    let binary = |name: &str| Entry::File(binaries.join(name), true);
    let entries = [
        ("bin", Entry::Directory(0o755)),
        ("bin/sheetbend", binary("sheetbend")),
        ("bin/sheetbend-cni", binary("sheetbend-cni")),
        ("LICENSE", Entry::File(repo.path("LICENSE"), false)),
        ("tmp", Entry::Directory(0o1777)),
    ];
    archive::write_layer(&layer, &entries)?;
    let image = Image {
        tags: vec![tag()],
        entrypoint: vec!["/bin/sheetbend".to_owned()],
        command: Vec::new(),
        layers: vec![layer.clone()],
    };
    let path = output.map_or_else(|| scratch.join("sheetbend.tar"), Path::to_owned);
    archive::write(&path, &[image])?;
    std::fs::remove_file(&layer).context("cannot remove the layer")?;
    Ok(path)
}

fn tag() -> String {
    format!("{NAME}:v{}", env!("CARGO_PKG_VERSION"))
}

/// musl where its standard library is installed, else glibc.
fn target() -> String {
    let arch = std::env::consts::ARCH;
    let musl = format!("{arch}-unknown-linux-musl");
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--print", "target-libdir", "--target", &musl]);
    let is_there = process::first_line(&mut command).is_some_and(|line| Path::new(&line).is_dir());
    if is_there { musl } else { format!("{arch}-unknown-linux-gnu") }
}

/// Compiles both binaries statically; gives their directory.
fn compile(repo: &Repo, target: &str, step: &mut Step) -> Result<PathBuf> {
    let mut command = repo.cargo();
    command.args(["build", "--profile", PROFILE, "--target", target]);
    command.args(["--package", "sheetbend", "--package", "sheetbend-cni"]);
    // With a target named, these flags stay away from build scripts and procedural macros.
    let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    command.env(variable, "-C target-feature=+crt-static");
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("the binaries do not build ({}):\n{}", done.ending(), done.tail(30));
    }
    let directory = repo.target().join(target).join(PROFILE);
    for name in ["sheetbend", "sheetbend-cni"] {
        check_static(&directory.join(name))?;
    }
    Ok(directory)
}

/// A binary that asks for a loader cannot start in an image that has none.
fn check_static(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if has_interpreter(&bytes) {
        bail!("{} is not static: it names a program interpreter", path.display());
    }
    Ok(())
}

/// Whether a 64-bit little-endian ELF file has a `PT_INTERP` program header (ELF-64 object format, 1.5d2).
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at + size)?;
        Some(bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let headers = || {
        let (start, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        let kind = |index| number(usize::try_from(start + index * size).ok()?, 4);
        Some((0..count).any(|index| kind(index) == Some(PT_INTERP)))
    };
    headers().unwrap_or(false)
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn a_dynamic_binary_is_noticed() {
        let mut elf = vec![0; 64 + 2 * 56];
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[64] = 1;
        elf[64 + 56] = 1;
        assert!(!has_interpreter(&elf));
        elf[64 + 56] = 3;
        assert!(has_interpreter(&elf));
        assert!(!has_interpreter(b"#!/bin/sh"));
    }
}
