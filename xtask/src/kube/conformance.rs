//! `kube conformance`: the suites that say whether a network is one of Kubernetes'.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::record::Record;
use super::settings::CONTROL_PLANE;
use super::verdicts::Verdicts;
use super::{Which, build, e2e, enter};
use crate::progress::{Mark, Step, seconds};
use crate::repo::Repo;
use crate::{MISMATCH, process};

/// The Go test that holds every other of the suite of network-policy-api.
const ROOT: &str = "TestConformance";

/// Name of the resource's definition.
const RESOURCE: &str = "clusternetworkpolicies.policy.networking.k8s.io";
/// Agents look for a resource that is not there at most every 30 s, and as much later as chance has it.
const FOUND: Duration = Duration::from_secs(62);

/// Arguments of `kube conformance`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// The suite.
    #[arg(long, value_enum, default_value_t = Suite::SigNetwork)]
    suite: Suite,
    #[command(flatten)]
    how: e2e::How,
}

#[derive(Clone, Copy, ValueEnum)]
enum Suite {
    /// Kubernetes' own tests of sig-network.
    SigNetwork,
    /// ClusterNetworkPolicy, of sigs.k8s.io/network-policy-api, without SCTP. One test at a time.
    ClusterNetworkPolicy,
}

/// Runs the suite.
pub(super) fn run(repo: &Repo, args: Args) -> Result<ExitCode> {
    let Args { which, suite, how } = args;
    match suite {
        Suite::SigNetwork => {
            let focus = e2e::CONFORMANCE.to_owned();
            e2e::run(repo, &e2e::Args { which, focus, skip: String::new(), how })
        }
        Suite::ClusterNetworkPolicy => {
            if how.background || how.dry_run || how.procs != e2e::PROCS {
                bail!("--procs, --background and --dry-run are for the suite sig-network");
            }
            cluster_network_policy(repo, &which.record()?)
        }
    }
}

fn cluster_network_policy(repo: &Repo, record: &Record) -> Result<ExitCode> {
    let built = build::network_policy_api()?;
    install(record, &built.crd)?;
    let results = e2e::results(repo, record, "cluster-network-policy")?;
    let mut command: Command = enter::with_network(record, CONTROL_PLANE, &built.program)?;
    command.args([&format!("-test.run=^{ROOT}$"), "-test.v", "-test.timeout=3h", "-all-features"]);
    command.env("KUBECONFIG", enter::kubeconfig(&record.settings.name));
    // Nothing may be kept by a test outside its own directory.
    command.env("HOME", &results).env("TMPDIR", &results).current_dir(&results);
    let started = Instant::now();
    let mut step = Step::start("tests of ClusterNetworkPolicy");
    let done = process::capture(&mut command, &mut |line| step.note(line))?;
    let log = results.join("verdicts.log");
    std::fs::write(&log, &done.output).with_context(|| format!("cannot write {}", log.display()))?;
    step.end(if done.ok() { Mark::Done } else { Mark::Failed }, &log.display().to_string());
    let found = Verdicts::read(&done.output, ROOT);
    for name in &found.failed {
        println!("failed: {name}");
    }
    println!("ClusterNetworkPolicy in {}: {}", seconds(started.elapsed()), log.display());
    println!("{found}");
    if !found.ran(ROOT) {
        bail!("no test ran ({}):\n{}", done.ending(), done.tail(20));
    }
    Ok(if found.failed.is_empty() && done.ok() { ExitCode::SUCCESS } else { ExitCode::from(MISMATCH) })
}

/// Installs the resource's definition where there is none, and waits until every agent has found it.
fn install(record: &Record, definition: &Path) -> Result<()> {
    let kubectl = build::kubectl()?;
    let mut ask = enter::kubectl(record, &kubectl)?;
    ask.args(["get", "customresourcedefinitions", RESOURCE]);
    if enter::output(ask).is_ok() {
        return Ok(());
    }
    let mut apply = enter::kubectl(record, &kubectl)?;
    apply.args(["apply", "--server-side", "-f"]).arg(definition);
    enter::output(apply).with_context(|| format!("cannot install {RESOURCE}"))?;
    let step = Step::start(format!("agents find {RESOURCE}"));
    std::thread::sleep(FOUND);
    step.end(Mark::Done, "");
    Ok(())
}
