//! `sheetbend controller`: what a cluster needs once. Several may run; the one that holds the Lease acts.

mod balancer;
mod cluster_policies;
mod election;
mod lease;
mod policies;
mod ranges;
mod report;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use sheetbend_compile::Compiler;
use sheetbend_intake::kube::{self, Client, Watched};
use sheetbend_model::types::NodeName;
use sheetbend_shell::config::{ClusterPoolConfig, Config};
use sheetbend_shell::drain::Drain;
use tokio::sync::watch;
use tracing::info;

use crate::agent::Args as AgentArgs;
use crate::{daemon, source};
use balancer::Balancer;
use cluster_policies::ClusterPolicies;
use policies::Policies;
use report::Reports;

/// Between two tries of what was refused.
const RETRY: Duration = Duration::from_secs(5);

/// `sheetbend controller`.
#[derive(Debug, clap::Args)]
// Its group would have the name of the one inside.
#[group(skip)]
pub(crate) struct Args {
    /// Namespace of the Lease.
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// Name in the election, which no other controller may have.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    #[command(flatten)]
    agent: AgentArgs,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: &Args) -> ExitCode {
    daemon::run(args.agent.config(), |config| serve(args, config))
}

fn serve(args: &Args, config: &Config) -> anyhow::Result<()> {
    let identity = match &args.identity {
        Some(identity) => identity.clone(),
        None => {
            let host = nix::unistd::gethostname().context("reading the host name")?;
            format!("{}-{}", host.to_string_lossy(), std::process::id())
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let drain = Drain::on_signals()?;
        let client = source::client(config).await?;
        info!(identity, pool = ?config.cluster_pool.blocks, "starting");
        let (leads, leading) = watch::channel(false);
        tokio::spawn(lease::run(client.clone(), args.namespace.clone(), identity.clone(), leads));
        tokio::select! {
            () = act(client.clone(), &config.cluster_pool, config, identity.clone(), leading) => {}
            () = drain.requested() => {}
        }
        lease::release(client, &args.namespace, &identity).await;
        Ok(())
    })
}

/// Acts whenever something changed and we lead. Returns when the intake has ended.
async fn act(
    client: Client,
    pool: &ClusterPoolConfig,
    config: &Config,
    identity: String,
    mut leading: watch::Receiver<bool>,
) {
    let Watched { mut readings, mut problems, mut standings, lookups: _lookups } =
        kube::watch_controlled(client.clone());
    let pools = ranges::pools(pool);
    let mut compiler = Compiler::new(NodeName::new(""), config.network.clone());
    let mut policies = Policies::default();
    let mut cluster_policies = ClusterPolicies::new(client.clone());
    let mut reports = Reports::new(client.clone(), identity);
    let mut balancer = Balancer::new(client.clone(), config.load_balancer_default);
    let mut again = false;
    loop {
        tokio::select! {
            changed = readings.changed() => if changed.is_err() { return },
            changed = problems.changed() => if changed.is_err() { return },
            changed = standings.changed() => if changed.is_err() { return },
            changed = leading.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if again => {}
        }
        if !*leading.borrow() {
            // Another writes meanwhile.
            balancer.forget();
            cluster_policies.forget();
            continue;
        }
        let Some(reading) = readings.borrow_and_update().clone() else { continue };
        let found = problems.borrow_and_update().clone();
        let standing = standings.borrow_and_update().clone();
        again = !ranges::give(&client, &pools, &reading.snapshot).await;
        let (unassigned, refused) = balancer.give(&reading.snapshot, &found).await;
        again |= refused;
        let mut faults = report::faults(&mut compiler, &reading.snapshot, &found);
        faults.extend(unassigned);
        faults.extend(policies.follow(&reading.snapshot));
        faults.extend(cluster_policies.follow(&reading.snapshot));
        again |= !cluster_policies.tell(&standing, &faults).await;
        reports.tell(faults).await;
    }
}
