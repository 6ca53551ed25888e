//! `cargo xtask mutants`: would the matrix notice if the kernel programs were wrong?

mod lab;
mod scratch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use self::scratch::Scratch;
use crate::demo;
use crate::ebpf;
use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::setup::{self, Purpose};
use crate::test::Tally;
use crate::{MISMATCH, MISSING};

/// Break the kernel programs on purpose, one patch at a time, and see the matrix fail.
///
/// Each xtask/mutants/*.patch is applied to a copy of the sources, the programs are built again, and a lab runs
/// with them. A mutant is killed when it builds, the lab comes up, and the matrix names cells that do not match; a
/// build failure or a time-out is no kill. Before that a control run with the right programs must match.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only mutants whose name contains this.
    filter: Option<String>,
    /// Name the mutants and run none.
    #[arg(long)]
    list: bool,
    /// Only apply and build them, without a lab.
    #[arg(long)]
    build_only: bool,
}

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let filter = args.filter.as_deref().unwrap_or_default();
    let patches = patches(repo, filter)?;
    if args.list {
        patches.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    if setup::ensure(Purpose::Test).iter().any(|thing| !thing.optional) {
        return Ok(ExitCode::from(MISSING));
    }
    if args.build_only {
        return build_only(repo, &patches);
    }
    let tally = hunt(repo, &patches)?;
    tally.failures.iter().for_each(|failure| println!("failed: {failure}"));
    println!("{} killed, {} not killed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(MISMATCH) })
}

/// All mutants, counted for `cargo xtask test`.
pub(crate) fn tally(repo: &Repo) -> Result<Tally> {
    hunt(repo, &patches(repo, "")?)
}

fn patches(repo: &Repo, filter: &str) -> Result<Vec<(String, PathBuf)>> {
    let files = repo.files("xtask/mutants", ".patch")?;
    let named = files.iter().map(|file| (name_of(file), repo.path(file)));
    let found: Vec<_> = named.filter(|(name, _)| name.contains(filter)).collect();
    if found.is_empty() {
        bail!("xtask/mutants has no patch whose name contains `{filter}`");
    }
    Ok(found)
}

fn name_of(file: &str) -> String {
    Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn hunt(repo: &Repo, patches: &[(String, PathBuf)]) -> Result<Tally> {
    demo::build(repo)?;
    let compiler = ebpf::compiler().context("no compiler for eBPF; run `cargo xtask setup --for test`")?;
    let scratch = Scratch::new(repo)?;
    let mut tally = Tally::default();

    let mut step = Step::start("mutants: control run with the right programs");
    let right = scratch.build(&compiler, "control", None, &mut step)?;
    let control = lab::mismatches(repo, "control", &right, &mut step);
    match &control {
        Ok(cells) if cells.is_empty() => step.end(Mark::Done, "everything matches"),
        Ok(cells) => step.end(Mark::Failed, &format!("{} cells do not match", cells.len())),
        Err(error) => step.end(Mark::Failed, &format!("{error:#}")),
    };
    if !control.is_ok_and(|cells| cells.is_empty()) {
        for (name, _) in patches {
            tally.fail(format!("mutant {name}: not run, the right programs do not match either"));
        }
        return Ok(tally);
    }
    for (name, patch) in patches {
        let mut step = Step::start(format!("mutant {name}"));
        match killed(repo, &scratch, &compiler, (name, patch), &right, &mut step) {
            Ok(how) => {
                tally.passed += 1;
                step.end(Mark::Done, &how);
            }
            Err(error) => {
                step.end(Mark::Failed, &format!("{error:#}"));
                tally.fail(format!("mutant {name} is not killed"));
            }
        }
    }
    Ok(tally)
}

fn build_only(repo: &Repo, patches: &[(String, PathBuf)]) -> Result<ExitCode> {
    let compiler = ebpf::compiler().context("no compiler for eBPF; run `cargo xtask setup --for test`")?;
    let scratch = Scratch::new(repo)?;
    let mut step = Step::start("mutants: the right programs");
    let right = scratch.build(&compiler, "control", None, &mut step)?;
    step.end(Mark::Done, "");
    for (name, patch) in patches {
        let mut step = Step::start(format!("mutant {name}"));
        let object = scratch.build(&compiler, name, Some(patch), &mut step)?;
        if !ebpf::programs_differ(&right, &object)? {
            bail!("{name} changes no program");
        }
        step.end(Mark::Done, &object.display().to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether every patch applies to the sources as they are; needs no toolchain.
pub(crate) fn check(repo: &Repo) -> Result<String> {
    let patches = patches(repo, "")?;
    let scratch = Scratch::new(repo)?;
    for (_, patch) in &patches {
        scratch.apply_only(patch)?;
    }
    Ok(format!("{} patches apply", patches.len()))
}

/// How the mutant was killed: the cells that gave it away.
fn killed(
    repo: &Repo,
    scratch: &Scratch,
    compiler: &ebpf::Compiler,
    (name, patch): (&str, &Path),
    right: &Path,
    step: &mut Step,
) -> Result<String> {
    let object = scratch.build(compiler, name, Some(patch), step)?;
    if !ebpf::programs_differ(right, &object)? {
        bail!("the patch changes no program");
    }
    let cells = lab::mismatches(repo, name, &object, step)?;
    if cells.is_empty() {
        bail!("it survives: every cell of the matrix matches");
    }
    let shown: Vec<&str> = cells.iter().take(3).map(String::as_str).collect();
    Ok(format!("killed by {} cells, e.g.\n    {}", cells.len(), shown.join("\n    ")))
}
