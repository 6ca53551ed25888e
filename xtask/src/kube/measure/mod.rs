//! `kube measure`: what Sheetbend does on a real cluster, in figures.

mod churn;
mod full_sockets;
mod load;
mod pods;
mod proxy;
mod readiness;
mod report;
mod rolls;
mod scale;
mod smoke;
mod starts;

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use self::pods::Cluster;
use self::report::Row;
use super::{Which, build};
use crate::MISMATCH;
use crate::progress::{Mark, Step};
use crate::repo::Repo;

/// Arguments of `kube measure`.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// What to measure; everything if left out.
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// How many times the agents are rolled.
    #[arg(long, default_value_t = 20)]
    times: u32,
    /// Another cluster, to set how soon pods start beside; made with `kube up --name NAME --network peer`.
    #[arg(long, value_name = "NAME")]
    peer: Option<String>,
    /// Print the table and leave docs/performance.md alone.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Roll the DaemonSet under TCP, UDP and HTTP load: nothing may fail.
    Rolls,
    /// Delete agents while pods come and go: nothing may be left over.
    Churn,
    /// Make ten pods a second: how soon another node lets them in.
    Readiness,
    /// Start pods one by one, and in turn on the --peer: from scheduled to ready.
    Starts,
    /// Write 1,000 nodes and 10,000 pods: the agent's memory and idle CPU, and how soon a change is in the kernel.
    Scale,
}

/// Runs the sections, prints the rows, and ends with 1 where a promise is broken.
pub(super) fn run(repo: &Repo, args: &Args) -> Result<ExitCode> {
    let cluster = Cluster { record: args.which.record()?, kubectl: build::kubectl()? };
    let wants = |section| args.sections.is_empty() || args.sections.contains(&section);
    let mut rows = Vec::new();
    if wants(Section::Rolls) {
        rows.extend(section("agents rolled under load", &cluster, |cluster, step| {
            rolls::measure(cluster, args.times, step)
        })?);
    }
    if wants(Section::Churn) {
        rows.extend(section("agents deleted while pods come and go", &cluster, churn::measure)?);
    }
    if wants(Section::Readiness) {
        rows.extend(section("new pods at ten a second", &cluster, readiness::measure)?);
    }
    if wants(Section::Starts) {
        let peer = args.peer.clone().map(|name| Which { name: Some(name) }.record()).transpose()?;
        let peer = peer.map(|record| Cluster { record, kubectl: cluster.kubectl.clone() });
        rows.extend(section("pods from scheduled to ready", &cluster, |cluster, step| {
            peer.iter().try_for_each(Cluster::make_namespace)?;
            let rows = starts::measure(cluster, peer.as_ref(), step);
            peer.iter().try_for_each(Cluster::remove_namespace)?;
            rows
        })?);
    }
    if wants(Section::Scale) {
        rows.extend(section("1,000 nodes and 10,000 pods", &cluster, scale::measure)?);
    }
    println!("{}", report::table(&rows));
    if !args.dry_run {
        report::write(repo, &cluster.record.settings, &rows)?;
    }
    let broken: Vec<&Row> = rows.iter().filter(|row| row.kept == Some(false)).collect();
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(MISMATCH) })
}

/// One section in a namespace of its own, which goes afterwards.
fn section<T>(
    name: &str,
    cluster: &Cluster,
    measure: impl FnOnce(&Cluster, &mut Step) -> Result<T>,
) -> Result<T> {
    let mut step = Step::start(name);
    let outcome = cluster.make_namespace().and_then(|()| measure(cluster, &mut step));
    let cleaned = cluster.remove_namespace();
    step.end(if outcome.is_ok() { Mark::Done } else { Mark::Failed }, "");
    let value = outcome?;
    cleaned?;
    Ok(value)
}

/// What must work on the cluster `name`, which Sheetbend runs.
pub(crate) fn smoke(name: &str) -> Result<()> {
    let which = Which { name: Some(name.to_owned()) };
    let cluster = Cluster { record: which.record()?, kubectl: build::kubectl()? };
    section("pods, Services, policy and a replaced agent", &cluster, smoke::run)
}
