//! `cargo xtask test`: every kind of test, one summary.

mod demo;
mod kube;
mod policy;
mod tally;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use self::policy::Part;
pub(crate) use self::tally::Tally;
use crate::progress::{Mark, Step, seconds};
use crate::repo::{Repo, cache};
use crate::setup::{self, Purpose};
use crate::{MISMATCH, check, ebpf, mutants, process};

/// Compares with cyclonus, which is built for it.
const CYCLONUS: &str = "networkpolicy";
/// So many failed tests with root are run again.
const AGAIN: usize = 3;
/// Packages whose tests need root; `cargo test` without root only counts them.
const ROOT_PACKAGES: &[(&str, Kind)] =
    &[("sheetbend-kernel-tests", Kind::Kernel), ("sheetbend-interop-tests", Kind::Interop)];

/// Run the tests: all of them, or one kind.
///
/// Without an argument: setup, check, the eBPF object rebuilt and compared, unit, kernel, interop and demo tests, and
/// with CI=true the mutants and a real cluster. Kernel, interop and demo tests need root; every packet stays inside network namespaces
/// that the tests make. The last line is `N passed, N failed`, with `, N skipped` where something could not run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which kind.
    #[arg(value_enum, default_value_t = Kind::All)]
    kind: Kind,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// A kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Pure: unit, property against the oracle, golden. No root.
    Unit,
    /// Packets through the kernel. Root.
    Kernel,
    /// Strangers' programs against ours: cnitool, dig, cyclonus. Root.
    Interop,
    /// All tests of policy: unit, property, program, datapath, lab and cyclonus. Root.
    Policy,
    /// Changes of policy are atomic for each pod: 1,000,000 packets and more, judged meanwhile. Root.
    PolicyAtomic,
    /// The demo, killed at five points and run again, and two at once. Root.
    Demo,
    /// Real clusters: they come up beside one another, carry Sheetbend, and leave nothing, killed or not. Root; of all
    /// these, `smoke` alone is part of continuous integration.
    Kube,
    /// Everything.
    All,
}

/// One line of the summary.
struct Row {
    name: &'static str,
    tally: Tally,
    took: Duration,
}

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let filter = args.filter.as_deref();
    let wants = |kind| args.kind == Kind::All || args.kind == kind;
    let mut rows = Vec::new();
    let mut row = |name, run: &mut dyn FnMut() -> Result<Tally>| {
        let started = Instant::now();
        let tally = run().unwrap_or_else(|error| Tally::failure(format!("{name}: {error:#}")));
        rows.push(Row { name, tally, took: started.elapsed() });
    };
    if args.kind == Kind::All {
        row("setup", &mut || Ok(set_up()));
        row("check", &mut || Ok(gates(repo)));
        row("eBPF object", &mut || Ok(rebuilt(repo)));
    }
    if wants(Kind::Unit) {
        row("unit", &mut || unit(repo, filter));
    }
    for (package, kind) in ROOT_PACKAGES {
        if wants(*kind) && has_package(repo, package)? {
            row(if *kind == Kind::Kernel { "kernel" } else { "interop" }, &mut || {
                with_root(repo, package, filter)
            });
        }
    }
    if wants(Kind::Demo) {
        row("demo", &mut || demo::run(repo, filter));
    }
    let parts = match args.kind {
        Kind::Policy => policy::ALL,
        Kind::PolicyAtomic => &[policy::ATOMIC],
        Kind::Unit | Kind::Kernel | Kind::Interop | Kind::Demo | Kind::Kube | Kind::All => &[],
    };
    for part in parts {
        row(part.name, &mut || self::part(repo, part, filter));
    }
    if args.kind == Kind::Kube {
        row("kube", &mut || kube::run(repo, filter));
    }
    if args.kind == Kind::All && is_ci() {
        row("kube", &mut || kube::in_ci(repo));
        row("mutants", &mut || mutants::tally(repo));
    }
    Ok(summary(&rows))
}

/// Whether this is continuous integration, where slow kinds run too.
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

fn set_up() -> Tally {
    let mut tally = Tally::default();
    for thing in setup::ensure(Purpose::Test) {
        if thing.optional {
            tally.skipped += 1;
        } else {
            tally.fail(format!("setup: {} is missing", thing.name));
        }
    }
    tally
}

fn gates(repo: &Repo) -> Tally {
    let mut tally = Tally::default();
    for gate in check::gates(repo, "") {
        match gate.mark {
            Mark::Done => tally.passed += 1,
            Mark::Skipped => tally.skipped += 1,
            Mark::Failed => tally.fail(format!("check: {} ({})", gate.name, seconds(gate.took))),
        }
    }
    tally
}

fn rebuilt(repo: &Repo) -> Tally {
    let mut step = Step::start("eBPF object rebuilt and compared");
    match ebpf::check(repo, &mut step) {
        Ok(note) => {
            step.end(Mark::Done, &note);
            Tally { passed: 1, ..Tally::default() }
        }
        Err(error) => {
            step.end(Mark::Failed, &format!("{error:#}"));
            Tally::failure("eBPF object: rebuild differs or fails".to_owned())
        }
    }
}

fn unit(repo: &Repo, filter: Option<&str>) -> Result<Tally> {
    let mut command = repo.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    for (package, _) in ROOT_PACKAGES {
        if has_package(repo, package)? {
            command.args(["--exclude", package]);
        }
    }
    // The line that ends a plain `cargo test` would be noise here.
    command.env("SHEETBEND_XTASK", "1");
    cargo_test(repo, "unit tests", command, filter.as_slice())
}

fn with_root(repo: &Repo, package: &str, filter: Option<&str>) -> Result<Tally> {
    let targets = test_targets(repo, package)?;
    let programs: Vec<&str> = targets.iter().flat_map(|target| ["--test", target]).collect();
    as_root(repo, package, &programs, filter.as_slice())
}

/// A part of the tests; `filter` in the place of its own filters.
fn part(repo: &Repo, part: &Part, filter: Option<&str>) -> Result<Tally> {
    let filters = if filter.is_some() { filter.as_slice() } else { part.filters };
    let name = format!("policy-{}", part.name.trim_start_matches("policy-"));
    if part.root {
        return as_root(repo, &name, part.programs, filters);
    }
    let mut command = repo.cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]).args(part.programs);
    command.env("SHEETBEND_XTASK", "1");
    cargo_test(repo, &name, command, filters)
}

/// Runs the test programs that `programs` choose with all that needs root.
fn as_root(repo: &Repo, name: &str, programs: &[&str], filters: &[&str]) -> Result<Tally> {
    if !setup::is_root() {
        let text = format!("{name} needs root: sudo env \"PATH=$PATH\" cargo xtask test");
        Step::start(name).end(Mark::Failed, &text);
        return Ok(Tally::failure(text));
    }
    // The tests run the real binaries. `--workspace` and `--tests` select the features that the unit tests were built
    // with; `--package` would select others, and build every dependency again.
    let mut build = repo.cargo();
    build.args(["build", "--workspace", "--bins", "--tests"]);
    let mut step = Step::start("binaries for the tests");
    let built = process::capture(&mut build, &mut |line| step.note(line))?;
    if !built.ok() {
        step.end(Mark::Failed, &built.tail(60));
        return Ok(Tally::failure(format!("{name}: the binaries do not build")));
    }
    step.end(Mark::Done, "");
    let command = root_command(repo, programs)?;
    let mut tally = cargo_test(repo, name, command, filters)?;
    once_more(repo, programs, &mut tally)?;
    Ok(tally)
}

/// `cargo test` of test programs, with what those that need root are told.
fn root_command(repo: &Repo, programs: &[&str]) -> Result<Command> {
    let mut command = repo.cargo();
    command.args(["test", "--no-fail-fast", "--workspace"]).args(programs);
    command.env("SHEETBEND_KERNEL_TESTS", "1").env("SHEETBEND_CNITOOL", cache().join("bin/cnitool"));
    if programs.contains(&CYCLONUS) {
        command.env("SHEETBEND_CYCLONUS", crate::kube::cyclonus(repo)?);
    }
    Ok(command)
}

/// Tests that failed run once more, one at a time: what fails only beside other work is counted as passed, and named
/// as flaky. Many failures are no accident.
fn once_more(repo: &Repo, programs: &[&str], tally: &mut Tally) -> Result<()> {
    let failed = tally.failed_tests();
    if failed.len() > AGAIN || failed.len() != tally.failed {
        return Ok(());
    }
    for (index, name) in failed.iter().enumerate().rev() {
        let mut command = root_command(repo, programs)?;
        command.args(["--", "--exact", name]);
        let mut step = Step::start(format!("again, alone: {name}"));
        let done = process::capture(&mut command, &mut |line| step.note(line))?;
        if done.ok() && Tally::read(&done.output).passed == 1 {
            step.end(Mark::Done, "flaky");
            tally.passed_again(index);
        } else {
            step.end(Mark::Failed, "");
        }
    }
    Ok(())
}

/// Runs a `cargo test`, shows its progress and counts its results.
fn cargo_test(repo: &Repo, name: &str, mut command: Command, filters: &[&str]) -> Result<Tally> {
    if !filters.is_empty() {
        command.arg("--").args(filters);
    }
    let mut step = Step::start(name);
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    let log = repo.scratch("test")?.join(format!("{}.log", name.replace(' ', "-")));
    std::fs::write(&log, &done.output).with_context(|| format!("cannot write {}", log.display()))?;
    let mut tally = Tally::read(&done.output);
    if !done.ok() && tally.failed == 0 {
        tally.fail(format!("{name}: {}, see {}", done.ending(), log.display()));
    }
    let mark = if tally.failed > 0 { Mark::Failed } else { Mark::Done };
    step.end(mark, &format!("{tally}; {}", log.display()));
    if tally.failed > 0 {
        eprint!("{}", tally::failures_of(&done.output));
    }
    Ok(tally)
}

fn has_package(repo: &Repo, package: &str) -> Result<bool> {
    Ok(crate::rooms::packages(repo)?.iter().any(|known| known.name == package))
}

/// Names of a package's integration tests: `tests/NAME.rs` and `tests/NAME/main.rs`.
fn test_targets(repo: &Repo, package: &str) -> Result<Vec<String>> {
    let packages = crate::rooms::packages(repo)?;
    let known = packages.iter().find(|known| known.name == package);
    let known = known.with_context(|| format!("the workspace has no package {package}"))?;
    let below = format!("{}/tests/", known.directory);
    let inside = known.roots.iter().filter_map(|root| root.strip_prefix(&below));
    Ok(inside.map(|root| root.trim_end_matches(".rs").trim_end_matches("/main").to_owned()).collect())
}

/// Prints a line a kind and the failures; the last line is the sum.
fn summary(rows: &[Row]) -> ExitCode {
    println!("\n{:12} {:>7} {:>7} {:>8}  time", "kind", "passed", "failed", "skipped");
    let mut sum = Tally::default();
    for Row { name, tally, took } in rows {
        println!(
            "{name:12} {:>7} {:>7} {:>8}  {}",
            tally.passed,
            tally.failed,
            tally.skipped,
            seconds(*took)
        );
        sum.add(tally);
    }
    for flaky in &sum.flaky {
        println!("flaky: {flaky}");
    }
    for failure in &sum.failures {
        println!("failed: {failure}");
    }
    println!("{sum}");
    if sum.failed == 0 && sum.passed > 0 { ExitCode::SUCCESS } else { ExitCode::from(MISMATCH) }
}
