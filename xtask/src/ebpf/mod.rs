//! `cargo xtask ebpf`: builds the kernel programs and keeps the committed object beside a hash of its sources.

mod build;
mod compiler;
mod elf;
mod sources;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

pub(crate) use self::build::{build, build_into};
pub(crate) use self::compiler::{Compiler, find as compiler};
use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::{MISMATCH, MISSING};

/// The object that user space embeds.
pub(crate) const OBJECT: &str = "crates/ebpf/object/sheetbend.o";
/// SHA-256 of the sources the object was built from.
const SOURCES_HASH: &str = "crates/ebpf/object/sheetbend.sha256";
/// The compiler and linker that built it.
const COMPILER: &str = "crates/ebpf/object/sheetbend.compiler";

/// Build the eBPF programs into crates/ebpf/object (needs `cargo xtask setup --for test`).
///
/// The compiler is Debian's rustc with rust-web-src, or else rustup's nightly with rust-src. With --check nothing is
/// written: the programs are built again and compared with the committed object.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compare with the committed object instead of replacing it.
    #[arg(long)]
    check: bool,
}

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    if compiler().is_none() {
        eprintln!("error: no compiler for eBPF; run `cargo xtask setup --for test`");
        return Ok(ExitCode::from(MISSING));
    }
    let mut step = Step::start("eBPF programs");
    if !args.check {
        let done = write(repo, &mut step);
        step.end(if done.is_ok() { Mark::Done } else { Mark::Failed }, done.as_deref().unwrap_or_default());
        return done.map(|_| ExitCode::SUCCESS);
    }
    let verdict = check(repo, &mut step);
    match verdict {
        Ok(note) => {
            step.end(Mark::Done, &note);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            step.end(Mark::Failed, &format!("{error:#}"));
            Ok(ExitCode::from(MISMATCH))
        }
    }
}

fn write(repo: &Repo, step: &mut Step) -> Result<String> {
    let compiler = compiler().context("no compiler for eBPF; run `cargo xtask setup --for test`")?;
    let hash = sources::hash(repo)?;
    let built = build(repo, &compiler, step)?;
    let object = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let dir = repo.path("crates/ebpf/object");
    std::fs::create_dir_all(&dir)?;
    replace(&repo.path(OBJECT), &object)?;
    replace(&repo.path(SOURCES_HASH), format!("{hash}\n").as_bytes())?;
    replace(&repo.path(COMPILER), format!("{}\n", compiler.version()).as_bytes())?;
    Ok(format!("{OBJECT}, {} bytes, sources {}", object.len(), &hash[..12]))
}

/// By rename, so that a build that runs meanwhile sees the old or the new file, never half of one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, bytes).with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::rename(&fresh, path).with_context(|| format!("cannot replace {}", path.display()))
}

/// Whether the committed hash is that of the sources; needs no toolchain.
pub(crate) fn check_hash(repo: &Repo) -> Result<String> {
    let committed = repo.read(SOURCES_HASH).context("run `cargo xtask ebpf`")?;
    let hash = sources::hash(repo)?;
    if committed.trim() != hash {
        bail!(
            "{OBJECT} was built from other sources than these; run `cargo xtask ebpf` and commit the result"
        );
    }
    Ok(format!("sources {}", &hash[..12]))
}

/// Builds again and compares with the committed object.
pub(crate) fn check(repo: &Repo, step: &mut Step) -> Result<String> {
    let compiler = compiler().context("no compiler for eBPF; run `cargo xtask setup --for test`")?;
    check_hash(repo)?;
    let built = build(repo, &compiler, step)?;
    let fresh = std::fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let committed = std::fs::read(repo.path(OBJECT)).context("run `cargo xtask ebpf`")?;
    if fresh == committed {
        return Ok(format!("the same {} bytes as {OBJECT}", fresh.len()));
    }
    let recorded = repo.read(COMPILER).context("run `cargo xtask ebpf`")?;
    if recorded.trim() != compiler.version() {
        return Ok(format!(
            "built, bytes not compared: {OBJECT} is from {}, this machine has {}",
            recorded.trim(),
            compiler.version()
        ));
    }
    let differences = elf::differences(&committed, &fresh)?;
    if differences.is_empty() {
        return Ok(format!("programs and maps equal those of {OBJECT}; debug information differs"));
    }
    bail!(
        "{OBJECT} is not what its sources build ({}); run `cargo xtask ebpf` and commit the result",
        differences.join(", ")
    )
}

/// Whether two objects differ in what the kernel gets of them.
pub(crate) fn programs_differ(one: &Path, other: &Path) -> Result<bool> {
    Ok(!elf::differences(&std::fs::read(one)?, &std::fs::read(other)?)?.is_empty())
}
