//! `cargo xtask fuzz`: hostile input for every parser.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::MISMATCH;
use crate::process;
use crate::progress::{Mark, Step};
use crate::repo::Repo;

/// Give every parser what it does not expect, for a time.
///
/// A target reads its corpus (tests/fuzz/corpus), then inputs made from it by mutations. Nothing may panic, hang, or be
/// read otherwise than it was written. An input that fails is shrunk and written below target/tmp/fuzz.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only targets whose name contains this.
    filter: Option<String>,
    /// How long each target gets, two at once.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Draw the inputs of an earlier run again; it said its number.
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let mut command = repo.cargo();
    command.args(["test", "--package", "sheetbend-fuzz", "--test", "fuzz", "--", "--test-threads=2"]);
    command.args(&args.filter);
    command.env("SHEETBEND_FUZZ_SECONDS", args.seconds.to_string());
    if let Some(seed) = args.seed {
        command.env("SHEETBEND_SEED", seed.to_string());
    }
    let mut step = Step::start(format!("fuzz: {} s for each target", args.seconds));
    let mut lines = Vec::new();
    let finished = process::capture(&mut command, &mut |line| {
        step.note(line);
        if line.contains(" inputs, SHEETBEND_SEED=") {
            lines.push(line.to_owned());
        }
    })?;
    step.end(if finished.ok() { Mark::Done } else { Mark::Failed }, "");
    lines.iter().for_each(|line| println!("{line}"));
    if finished.ok() {
        if lines.is_empty() {
            bail!("no target's name contains {:?}", args.filter.as_deref().unwrap_or_default());
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", finished.tail(40));
    Ok(ExitCode::from(MISMATCH))
}
