//! `cargo xtask bench`: runs the benchmarks and writes their tables into docs/performance.md.

mod document;
mod machine;
mod registry;

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use self::registry::Bench;
use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::setup::{self, Purpose};
use crate::{MISMATCH, MISSING, demo, process};

const DOCUMENT: &str = "docs/performance.md";

/// Measure, beside the peers, and write the tables into docs/performance.md.
///
/// A benchmark is a file benches/<name>.json that names a program; the program prints one JSON object a row. A row with
/// "met": false misses its target, and the exit code is 1. Load never leaves network namespaces made for it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only benchmarks whose name contains this.
    filter: Option<String>,
    /// Name the benchmarks and what they measure, and run none.
    #[arg(long)]
    list: bool,
    /// Print the tables and leave docs/performance.md alone.
    #[arg(long)]
    dry_run: bool,
}

/// One row of a table, by column key.
type Row = Map<String, Value>;

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let filter = args.filter.as_deref().unwrap_or_default();
    let benches: Vec<Bench> =
        registry::read(repo)?.into_iter().filter(|bench| bench.name.contains(filter)).collect();
    if args.list {
        benches.iter().for_each(|bench| println!("{:20} {}", bench.name, bench.title));
        return Ok(ExitCode::SUCCESS);
    }
    if benches.is_empty() {
        bail!("no benchmark has that name; `cargo xtask bench --list` names them");
    }
    if setup::ensure(Purpose::Bench).iter().any(|thing| !thing.optional) {
        return Ok(ExitCode::from(MISSING));
    }
    demo::build(repo)?;
    let mut document = repo.read(DOCUMENT).unwrap_or_default();
    let (mut missed, mut broken) = (0, Vec::new());
    for bench in &benches {
        let mut step = Step::start(format!("bench {}", bench.name));
        match rows(repo, bench, &mut step) {
            Ok(rows) => {
                let misses = rows.iter().filter(|row| row.get("met") == Some(&Value::Bool(false))).count();
                missed += misses;
                step.end(
                    if misses > 0 { Mark::Failed } else { Mark::Done },
                    &format!("{} rows, {misses} miss", rows.len()),
                );
                let table = document::table(bench, &rows);
                println!("{table}");
                document = document::put(&document, &bench.name, &table);
            }
            Err(error) => {
                step.end(Mark::Failed, &format!("{error:#}"));
                broken.push(bench.name.as_str());
            }
        }
    }
    if !args.dry_run {
        document = document::put(&document, "machine", &machine::facts(repo));
        std::fs::write(repo.path(DOCUMENT), document).with_context(|| format!("cannot write {DOCUMENT}"))?;
    }
    if missed == 0 && broken.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "{missed} rows miss their target; did not run: {}",
        if broken.is_empty() { "none".into() } else { broken.join(", ") }
    );
    Ok(ExitCode::from(MISMATCH))
}

/// Builds and runs one benchmark and reads its rows.
fn rows(repo: &Repo, bench: &Bench, step: &mut Step) -> Result<Vec<Row>> {
    let mut command = program(repo, bench, step)?;
    command
        .args(&bench.arguments)
        .env("SHEETBEND_BIN", repo.target().join("release"))
        .current_dir(repo.root());
    let limit = Duration::from_secs(bench.limit_seconds);
    let done = process::capture_within(&mut command, Some(limit), &mut |line| step.note(line))?;
    let log = repo.scratch("bench")?.join(format!("{}.log", bench.name));
    std::fs::write(&log, &done.output)?;
    let rows: Vec<Row> = done.output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    // A benchmark may end with 1 to say that a target is missed; its rows say which.
    if rows.is_empty() || done.code != Some(0) && done.code != Some(1) {
        bail!("{}, {} rows, see {}\n{}", done.ending(), rows.len(), log.display(), done.tail(20));
    }
    Ok(rows)
}

/// The built program, so that cargo is not part of what is measured.
fn program(repo: &Repo, bench: &Bench, step: &mut Step) -> Result<Command> {
    let mut build = repo.cargo();
    build.args(["build", "--release", "--package", &bench.package, bench.target_flag(), &bench.target]);
    let built = process::capture(&mut build, &mut |line| step.note(line))?;
    if !built.ok() {
        bail!("it does not build:\n{}", built.tail(40));
    }
    let directory = if bench.is_example { "release/examples" } else { "release" };
    Ok(Command::new(repo.target().join(directory).join(&bench.target)))
}
