//! `sheetbend dns`: the cluster DNS, a process of its own, so that an agent's death costs no answer.

mod args;
mod config_map;
mod names;
mod routes;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sheetbend_dns::{Handle, Hosts, Responder, Server};
use sheetbend_shell::admin;
use sheetbend_shell::config::{Config, DnsConfig};
use sheetbend_shell::drain::Drain;
use sheetbend_shell::ready::Ready;
use tokio::net::TcpListener;
use tokio::runtime::Handle as Runtime;
use tracing::{info, warn};

use crate::{daemon, learnt, source};
pub(crate) use args::Args;

/// How long the cluster's names are waited for before other names are answered without them.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long queries to upstream servers may take when the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Workers on each address, where the configuration names no number.
const MAX_WORKERS: usize = 4;

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: &Args) -> ExitCode {
    daemon::run(args.config(), |config| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("starting the runtime")?;
        let served = runtime.block_on(serve(config));
        // The thread that watches the objects is not waited for.
        runtime.shutdown_background();
        served
    })
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let drain = Drain::on_signals()?;
    let ready = Ready::default();
    let (named, listening) = (ready.task("names"), ready.task("sockets"));
    let responder = Arc::new(responder(config)?);
    admin(config, &responder, &ready).await?;
    tokio::spawn(learnt::teller::run(learnt::socket(&config.node.run_dir), Arc::clone(&responder)));
    let mut names = names::follow(config, &responder, named, &drain).await?;
    if let Some((namespace, name)) = config.dns.config_map.as_ref().filter(|_| config.objects.is_none()) {
        let client = source::client(config).await?;
        let followed = config_map::Followed::new(config, client, namespace, name, &responder)?;
        tokio::spawn(followed.run());
    }

    // Who joins before it knows the names would spoil the answers of those that do.
    let handle = tokio::select! {
        joined = join(&config.dns, &responder, &mut names.known) => joined?,
        () = drain.requested() => return Ok(()),
    };
    listening.done();
    drain.requested().await;

    info!(seconds = config.dns.drain, "ending; still answering");
    let _not_ready = ready.task("its end");
    tokio::time::sleep(Duration::from_secs(config.dns.drain)).await;
    tokio::task::spawn_blocking(move || handle.stop()).await?;
    let answered = async {
        while responder.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(LAST_ANSWERS, answered).await.is_err() {
        warn!(queries = responder.waiting(), "ended before upstream servers answered");
    }
    if let Some(keeper) = names.keeper {
        // A keeper that panicked has said so; what it wrote last is whole.
        let _ = keeper.await;
    }
    info!("ended");
    Ok(())
}

fn responder(config: &Config) -> anyhow::Result<Responder> {
    let routes = routes::configured(config)?;
    let config = &config.dns;
    if routes.upstreams.is_empty() {
        warn!("no upstream server: only the cluster's names are answered; set dns.upstreams");
    }
    info!(zone = config.zone, listen = ?config.listen, %routes, "starting");
    let hosts = Hosts::new(config.hosts.iter().map(|(addr, name)| (*addr, name.as_str())), config.ttl);
    let responder = Responder::new(&config.zone, hosts, routes.routes(), config.cache_entries);
    responder.with_context(|| format!("dns.zone {:?} is no domain name", config.zone))
}

/// Begins to answer, once the names are known or, where nobody else answers, after [`PATIENCE`].
async fn join(
    config: &DnsConfig,
    responder: &Arc<Responder>,
    known: &mut tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<Handle> {
    while tokio::time::timeout(PATIENCE, known.wait_for(|known| *known)).await.is_err() {
        if Server::is_free(&config.listen) {
            warn!("the cluster's names are not known yet; answering for other names");
            break;
        }
        warn!("the cluster's names are not known yet; leaving all queries to the process that answers now");
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = config.workers.unwrap_or(cpus.min(MAX_WORKERS));
    let server = Server::bind(&config.listen, workers)?;
    info!(addresses = ?server.addresses(), workers, "answering");
    Ok(server.start(responder, &Runtime::current())?)
}

/// Serves probes and metrics.
async fn admin(config: &Config, responder: &Arc<Responder>, ready: &Ready) -> anyhow::Result<()> {
    let Some(addr) = config.dns.admin else { return Ok(()) };
    let listener = TcpListener::bind(addr).await.with_context(|| {
        format!("cannot listen on {addr}; give dns.admin another port (each process needs its own)")
    })?;
    let metrics = Arc::clone(responder);
    let metrics: admin::MetricsFn = Arc::new(move || metrics.metrics());
    tokio::spawn(admin::serve_tcp(listener, ready.clone(), metrics));
    Ok(())
}
