//! `cargo xtask bench`: builds for release and hands over to `sheetbend-bench`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::MISSING;
use crate::demo;
use crate::kube::{coredns_for_bench, kube_proxy_for_bench};
use crate::repo::Repo;
use crate::setup::{self, Purpose};

const DOCUMENT: &str = "docs/performance.md";

/// Measure, beside the peers, and write the tables into docs/performance.md.
///
/// Load never leaves network namespaces made for it. Tables are written after each section, and those of sections that do
/// not run stay. Arguments go to `sheetbend-bench`: names of sections, --quick for
/// small samples, --enforce to fail where a target is missed; try `cargo xtask bench -- --help`. A new section is a
/// file in benches/src/section.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the tables and leave docs/performance.md alone.
    #[arg(long)]
    dry_run: bool,
    /// Arguments for `sheetbend-bench`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the subcommand: on success this process becomes the benchmark.
pub(crate) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    if setup::ensure(Purpose::Bench).iter().any(|thing| !thing.optional) {
        return Ok(ExitCode::from(MISSING));
    }
    demo::build(repo)?;
    let status = repo
        .cargo()
        .args([
            "build",
            "--release",
            "-p",
            "sheetbend-bench",
            "-p",
            "sheetbend-compile",
            "--bins",
            "--example",
            "scale",
        ])
        .status();
    if !status.context("cannot run cargo")?.success() {
        bail!("sheetbend-bench does not build");
    }
    let mut command = Command::new(repo.target().join("release/sheetbend-bench"));
    command.current_dir(repo.root()).args(&args.arguments);
    if measures(&args.arguments, &["dns"]) {
        command.env("SHEETBEND_COREDNS", coredns_for_bench()?);
    }
    if measures(&args.arguments, &["services", "largest-services", "traffic"]) {
        command.env("SHEETBEND_KUBE_PROXY", kube_proxy_for_bench()?);
    }
    if !args.dry_run {
        command.arg("--json").arg(repo.scratch("bench")?.join("rows.jsonl")).args(["--markdown", DOCUMENT]);
    }
    let error = command.exec();
    Err(error).context("cannot start sheetbend-bench")
}

/// Whether the sections named, of which none means all, include one of these.
fn measures(arguments: &[OsString], these: &[&str]) -> bool {
    let mut sections = arguments.iter().filter(|word| !word.to_string_lossy().starts_with('-')).peekable();
    sections.peek().is_none() || sections.any(|word| word == "all" || these.iter().any(|it| word == it))
}
