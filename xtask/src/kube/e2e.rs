//! `kube e2e`: Kubernetes' own tests, in parallel.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::build::{self, TestPrograms};
use super::enter::UNDERLAY;
use super::record::Record;
use super::{Which, enter, junit, wait};
use crate::progress::{Mark, Step, seconds};
use crate::repo::Repo;
use crate::{MISMATCH, process};

pub(super) const CONFORMANCE: &str = r"\[sig-network\].*\[Conformance\]";
/// Tests of kube-proxy itself, of SCTP sockets, of a cloud provider's clean-up, of gates that are off, and those that are
/// known to fail at random; docs/conformance/kubernetes.md says why of each.
const SKIP: &str = r"KubeProxy|kube-proxy|\[Feature:SCTPConnectivity\]|Netpol.*SCTP|cleanup finalizer|\[Feature:OffByDefault\]|\[Flaky\]|IPerf2|switch session affinity for LoadBalancer service with Local";

/// How many tests run at once where nobody says.
pub(super) const PROCS: usize = 4;

/// Arguments of `kube e2e`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) which: Which,
    /// Tests whose full name matches this regular expression.
    #[arg(long, default_value = r"\[sig-network\]")]
    pub(super) focus: String,
    /// But not those that match this one; empty skips none.
    #[arg(long, default_value = SKIP)]
    pub(super) skip: String,
    #[command(flatten)]
    pub(super) how: How,
}

#[derive(clap::Args)]
pub(super) struct How {
    /// How many tests run at once.
    #[arg(long, default_value_t = PROCS)]
    pub(super) procs: usize,
    /// Return at once; the results are in the directory that is printed.
    #[arg(long)]
    pub(super) background: bool,
    /// Only list what would run.
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Runs `kube e2e`.
pub(super) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let record = args.which.record()?;
    let programs = build::test_programs()?;
    let kubectl = build::kubectl()?;
    let results = results(repo, &record, "e2e")?;
    let mut command = ginkgo(&record, &programs, &kubectl, args, &results)?;
    if args.how.background {
        return in_background(command, &results);
    }
    let started = Instant::now();
    let mut step = Step::start(format!("tests matching {}", args.focus));
    let done = process::capture(&mut command, &mut |line| {
        // A letter for each test that is left out, thousands in a line.
        if !line.starts_with("SSSS") {
            step.note(line);
        }
    })?;
    std::fs::write(results.join("ginkgo.log"), &done.output)?;
    let found = junit::read(&results.join("junit.xml"));
    step.end(if done.ok() { Mark::Done } else { Mark::Failed }, &results.display().to_string());
    let found = found.with_context(|| format!("the tests did not run:\n{}", done.tail(20)))?;
    let (passed, failed) = (found.passed.len(), found.failed.len());
    if passed == 0 && failed == 0 {
        bail!("no test matches --focus {:?} without --skip {:?}", args.focus, args.skip);
    }
    if args.how.dry_run {
        for name in &found.passed {
            println!("{name}");
        }
        println!("{passed} tests would run");
        return Ok(ExitCode::SUCCESS);
    }
    for (name, why) in &found.skipped {
        println!("skipped: {name}: {why}");
    }
    for name in &found.failed {
        println!("failed: {name}");
    }
    let took = seconds(started.elapsed());
    println!("e2e in {took}: {}", results.join("junit.xml").display());
    println!("{passed} passed, {failed} failed, {} skipped", found.skipped.len());
    Ok(if failed == 0 && done.ok() { ExitCode::SUCCESS } else { ExitCode::from(MISMATCH) })
}

/// A new directory for what a run of tests writes.
pub(super) fn results(repo: &Repo, record: &Record, tests: &str) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    repo.scratch(&format!("kube/{}-{tests}-{now}", record.settings.name))
}

/// The command, in the router's network, as a client out there; it ends with the cluster.
fn ginkgo(
    record: &Record,
    programs: &TestPrograms,
    kubectl: &Path,
    args: &Args,
    results: &Path,
) -> Result<Command> {
    let mut command = enter::with_network(record, UNDERLAY, &programs.ginkgo)?;
    // Ginkgo lists from one process only.
    let procs = if args.how.dry_run { 1 } else { args.how.procs };
    command.arg(format!("--procs={procs}"));
    command.args(["--no-color", "--timeout=6h", "--junit-report=junit.xml"]);
    command.arg(format!("--output-dir={}", results.display()));
    command.arg(format!("--focus={}", args.focus));
    if !args.skip.is_empty() {
        command.arg(format!("--skip={}", args.skip));
    }
    if args.how.dry_run {
        command.args(["--dry-run", "-v"]);
    }
    command.arg(&programs.e2e).arg("--").arg("--provider=skeleton");
    // Only the first process counts them itself, and tests of two nodes would skip themselves in the others.
    command.arg(format!("--num-nodes={}", record.settings.nodes));
    command.arg(format!("--kubeconfig={}", enter::kubeconfig(&record.settings.name).display()));
    command.arg(format!("--kubectl-path={}", kubectl.display()));
    // Nothing may be kept by a test outside its own directory.
    command.env("HOME", results).env("TMPDIR", results).current_dir(results);
    Ok(command)
}

fn in_background(mut command: Command, results: &Path) -> Result<ExitCode> {
    let log: PathBuf = results.join("ginkgo.log");
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn().context("cannot start ginkgo")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    println!("process {} runs the tests; output: {}", child.id(), log.display());
    println!("at the end: {}", results.join("junit.xml").display());
    print!("{}", wait::tail(&log, 3));
    Ok(ExitCode::SUCCESS)
}
