//! `cargo xtask check`: every gate that needs no root, one line each.

mod conformance;
mod deny;
mod dependencies;
mod generated;
mod manifests;
mod modules;

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::{MISMATCH, ebpf, mutants, process, rooms};

/// Every gate that needs no root: format, lints, docs, rooms, dependencies, generated files, the eBPF object's hash.
///
/// `cargo xtask test` runs it first, and CI runs that.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Format the code and rewrite generated files first.
    #[arg(long)]
    fix: bool,
    /// Only the gates whose name contains this.
    filter: Option<String>,
}

/// What a gate found.
enum Outcome {
    Passed(String),
    Skipped(String),
}

struct Gate {
    name: &'static str,
    run: fn(&Repo, &mut Step) -> Result<Outcome>,
}

/// The result of one gate, for the summary.
pub(crate) struct GateResult {
    /// The gate's name.
    pub(crate) name: &'static str,
    /// How it ended.
    pub(crate) mark: Mark,
    /// How long it took.
    pub(crate) took: Duration,
}

const GATES: &[Gate] = &[
    Gate { name: "format", run: format },
    Gate { name: "lock files", run: manifests::locks },
    Gate { name: "manifests", run: manifests::check },
    Gate { name: "rooms", run: |repo, _| rooms::check(repo).map(Outcome::Passed) },
    Gate { name: "modules", run: modules::check },
    Gate { name: "unused dependencies", run: dependencies::check },
    Gate { name: "generated files", run: generated::check },
    Gate { name: "conformance map", run: conformance::check },
    Gate { name: "eBPF object's sources", run: |repo, _| ebpf::check_hash(repo).map(Outcome::Passed) },
    Gate { name: "mutants", run: |repo, _| mutants::check(repo).map(Outcome::Passed) },
    Gate { name: "cargo-deny", run: deny::check },
    Gate { name: "clippy", run: clippy },
    Gate { name: "documentation", run: documentation },
    Gate { name: "oldest compiler", run: manifests::oldest_compiler },
];

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let filter = args.filter.as_deref().unwrap_or_default();
    if args.fix {
        if "generated files".contains(filter) {
            generated::write(repo)?;
        }
        if "format".contains(filter) {
            cargo(repo, &["fmt", "--all"], &mut Step::start("cargo fmt"))?;
        }
    }
    let results = gates(repo, filter);
    let failed: Vec<&str> =
        results.iter().filter(|gate| gate.mark == Mark::Failed).map(|gate| gate.name).collect();
    if results.is_empty() {
        let names: Vec<&str> = GATES.iter().map(|gate| gate.name).collect();
        bail!("no gate has that name; there are: {}", names.join(", "));
    }
    if failed.is_empty() {
        println!("{} gates passed", results.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} of {} gates failed: {}", failed.len(), results.len(), failed.join(", "));
    Ok(ExitCode::from(MISMATCH))
}

/// Runs the gates whose name contains `filter`.
pub(crate) fn gates(repo: &Repo, filter: &str) -> Vec<GateResult> {
    GATES.iter().filter(|gate| gate.name.contains(filter)).map(|gate| one(repo, gate)).collect()
}

fn one(repo: &Repo, gate: &Gate) -> GateResult {
    let mut step = Step::start(format!("check: {}", gate.name));
    let (mark, note) = match (gate.run)(repo, &mut step) {
        Ok(Outcome::Passed(note)) => (Mark::Done, note),
        Ok(Outcome::Skipped(note)) => (Mark::Skipped, note),
        Err(error) => (Mark::Failed, format!("\n{error:#}\n")),
    };
    GateResult { name: gate.name, mark, took: step.end(mark, &note) }
}

fn format(repo: &Repo, step: &mut Step) -> Result<Outcome> {
    cargo(repo, &["fmt", "--all", "--", "--check"], step)?;
    cargo(repo, &["fmt", "--manifest-path", "crates/ebpf/programs/Cargo.toml", "--", "--check"], step)?;
    Ok(Outcome::Passed(String::new()))
}

fn clippy(repo: &Repo, step: &mut Step) -> Result<Outcome> {
    cargo(repo, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], step)?;
    Ok(Outcome::Passed(String::new()))
}

fn documentation(repo: &Repo, step: &mut Step) -> Result<Outcome> {
    let mut command = repo.cargo();
    command
        .args(["doc", "--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");
    succeed(&mut command, step)?;
    Ok(Outcome::Passed(String::new()))
}

fn cargo(repo: &Repo, arguments: &[&str], step: &mut Step) -> Result<()> {
    let mut command = repo.cargo();
    command.args(arguments);
    succeed(&mut command, step)
}

/// Runs a command; an error holds what it printed.
fn succeed(command: &mut Command, step: &mut Step) -> Result<()> {
    let done = process::capture(command, &mut |line| step.note(line))?;
    if !done.ok() {
        bail!("{}", without_progress(&done.tail(300)));
    }
    Ok(())
}

/// Cargo's lines on what it compiles say nothing about a failure.
fn without_progress(text: &str) -> String {
    let noise = ["Compiling ", "Checking ", "Documenting ", "Downloaded ", "Downloading ", "Blocking "];
    let useful = |line: &&str| !noise.iter().any(|word| line.trim_start().starts_with(word));
    text.lines().filter(useful).collect::<Vec<_>>().join("\n")
}
