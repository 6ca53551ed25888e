//! The eBPF toolchain: a compiler with library sources, LLVM, bpf-linker.

use std::process::Command;

use anyhow::{Result, bail};

use super::debian;
use crate::progress::Step;
use crate::repo::cargo_home;
use crate::{ebpf, process};

/// The linker's version; the committed object was linked by it.
const LINKER_VERSION: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

pub(super) fn compiler() -> Option<String> {
    ebpf::compiler().map(|compiler| compiler.version())
}

pub(super) fn get_compiler(step: &mut Step) -> Result<()> {
    let Err(debian) = debian::install(&["rustc-web", "cargo-web", "rust-web-src"], step) else {
        return Ok(());
    };
    let Some(rustup) = process::find_program("rustup", &[cargo_home().join("bin")]) else {
        bail!("{debian:#}; and there is no rustup to get a nightly toolchain with");
    };
    step.note("rustup toolchain install nightly");
    let mut command = Command::new(rustup);
    command.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("neither Debian ({debian:#}) nor rustup ({}) has it:\n{}", done.ending(), done.tail(5));
    }
    Ok(())
}

pub(super) fn llvm() -> Option<String> {
    // The linker's build wants the static libraries, not only the tools.
    super::exists(&format!("{LLVM_PREFIX}/lib/libLLVMCore.a"))?;
    super::exists(&format!("{LLVM_PREFIX}/lib/libPolly.a"))?;
    super::exists(&format!("{LLVM_PREFIX}/bin/llvm-config"))?;
    super::exists("/usr/include/zstd.h")?;
    super::exists("/usr/include/zlib.h")?;
    Some(LLVM_PREFIX.to_owned())
}

pub(super) fn linker() -> Option<String> {
    let path = process::find_program("bpf-linker", &[cargo_home().join("bin")])?;
    let version = process::first_line(Command::new(&path).arg("--version"))?;
    version.ends_with(LINKER_VERSION).then(|| path.display().to_string())
}

pub(super) fn get_linker(step: &mut Step) -> Result<()> {
    if llvm().is_none() {
        bail!("LLVM 22 is missing");
    }
    let features = ["--version", LINKER_VERSION, "--force", "--no-default-features", "--features", "llvm-22"];
    cargo_install("bpf-linker", &features, step)
}

/// Unoptimised: it runs for a second, and so it builds in two minutes instead of ten.
pub(super) fn get_deny(step: &mut Step) -> Result<()> {
    cargo_install("cargo-deny", &["--locked", "--debug"], step)
}

fn cargo_install(package: &str, arguments: &[&str], step: &mut Step) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["install", package]).args(arguments);
    command.env("LLVM_PREFIX", LLVM_PREFIX).env_remove("CARGO_TARGET_DIR");
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("cargo install failed ({}):\n{}", done.ending(), done.tail(15));
    }
    Ok(())
}
