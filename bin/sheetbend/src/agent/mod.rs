//! `sheetbend agent`: makes the networks of one node's pods.
//!
//! It can die at any moment: what it built stays pinned in the kernel and forwards on, and the next process finds it.

mod args;
mod cni;
mod core;
mod events;
mod view;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sheetbend_apply::bpf::{Kernel, KernelConfig};
use sheetbend_apply::netlink;
use sheetbend_compile::Compiler;
use sheetbend_intake::cni::Server;
use sheetbend_intake::file;
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::NodeName;
use sheetbend_shell::config::Config;
use sheetbend_shell::drain::Drain;
use sheetbend_shell::ready::Ready;
use sheetbend_shell::{admin, exit, log};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

pub(crate) use args::Args;
use cni::CniConfig;
use core::{Core, CoreConfig, Outputs};

/// The cluster as intake last saw it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Without attachments.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Names this state of the objects, where the intake can.
    pub(crate) generation: Option<String>,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: Args) -> ExitCode {
    let config = match args.config() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(exit::BAD_INPUT);
        }
    };
    log::init(&config.log_level, config.log_format);
    match serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::from(exit::INTERNAL)
        }
    }
}

fn serve(config: &Config) -> anyhow::Result<()> {
    let node = node_name(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _instance = lock(&config.node.run_dir)?;
    info!(%node, instance = config.node.instance, mode = %config.network.mode, "starting");
    runtime.block_on(daemon(config, node))
}

async fn daemon(config: &Config, node: NodeName) -> anyhow::Result<()> {
    let drain = Drain::on_signals()?;
    let ready = Ready::default();
    let kernel = open_kernel(config)?;
    let events = kernel.events()?;
    let counters = kernel.counters()?;
    let mut clusters = watch_cluster(config)?;
    let pod_cidrs = tokio::select! {
        pod_cidrs = own_pod_cidrs(&mut clusters, &node) => pod_cidrs?,
        () = drain.requested() => return Ok(()),
    };

    let (changes, core_changes) = mpsc::channel(1024);
    let (facts, node_facts) = watch::channel(None);
    let (view, views) = watch::channel(Arc::default());
    let cni_config = CniConfig {
        state_dir: config.node.state_dir.clone(),
        run_dir: config.node.run_dir.clone(),
        pod_cidrs,
        reuse_delay: Duration::from_secs(config.reuse_delay),
    };
    let (cni, restored) = cni::open(cni_config, changes, node_facts)?;
    let outputs = Outputs { facts, view, ready: ready.task("dataplane") };
    let core_config = CoreConfig {
        node: node.clone(),
        nat_ports: config.nat_ports,
        run_dir: config.node.run_dir.clone(),
        cgroup: config.node.cgroup.clone(),
    };
    let compiler = Compiler::new(node.clone(), config.network.clone());
    let core = Core::new(core_config, outputs, compiler, kernel, restored);
    let core = std::thread::Builder::new()
        .name("core".to_owned())
        .spawn(move || run_core(core, clusters, core_changes))?;

    let run_dir = &config.node.run_dir;
    let status = status_document(node.clone(), views.clone(), counters);
    let cni = Arc::new(cni);
    let server = Server::bind(&run_dir.join("cni.sock"))?;
    events::spawn(&run_dir.join("events.sock"), node, events, views)?;
    for rule in foreign_rules() {
        warn!("a rule of somebody else gets in our way: {rule}");
    }
    tokio::spawn(mark_ready(run_dir.join("ready"), ready.clone(), Arc::clone(&cni)));
    let admin_socket = run_dir.join("admin.sock");
    tokio::select! {
        result = server.serve(cni) => result.context("serving CNI")?,
        result = admin::serve(&admin_socket, ready, status, drain.clone()) => result.context("serving admin")?,
        () = drain.requested() => (),
    }
    // Dropping the CNI server drops the last sender of changes, which ends the core.
    drop(core);
    info!("ended; the kernel forwards on");
    Ok(())
}

fn open_kernel(config: &Config) -> anyhow::Result<Kernel> {
    let object = std::env::var_os("SHEETBEND_EBPF_OBJECT").map(Into::into);
    let kernel = Kernel::open(KernelConfig {
        bpffs: config.node.bpffs.clone(),
        instance: config.node.instance.clone(),
        node: sheetbend_ebpf_abi::NodeConfig::default(),
        object,
        limits: BTreeMap::new(),
    })?;
    Ok(kernel)
}

fn watch_cluster(config: &Config) -> anyhow::Result<watch::Receiver<Option<Cluster>>> {
    let directory = config.objects.as_deref().context(
        "no source of objects; give --objects DIR with Kubernetes YAML (watching an API server comes with the next release)",
    )?;
    let mut readings = file::watch(directory)?.readings;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        readings.mark_changed();
        while readings.changed().await.is_ok() {
            let reading = readings.borrow_and_update().clone();
            let cluster = reading.map(|reading| Cluster {
                snapshot: reading.snapshot,
                generation: reading.directory.file_name().map(|name| name.to_string_lossy().into_owned()),
            });
            if cluster.is_some() && sender.send(cluster).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Waits until the cluster has this node's Node with a pod range.
async fn own_pod_cidrs(
    clusters: &mut watch::Receiver<Option<Cluster>>,
    node: &NodeName,
) -> anyhow::Result<Vec<ipnet::IpNet>> {
    let own = |cluster: &Option<Cluster>| {
        let found = cluster.as_ref()?.snapshot.nodes.get(node)?;
        (!found.pod_cidrs.is_empty()).then(|| found.pod_cidrs.clone())
    };
    info!(%node, "waiting for this node's Node object with podCIDRs");
    let cluster =
        clusters.wait_for(|cluster| own(cluster).is_some()).await.context("the intake has ended")?;
    Ok(own(&cluster).unwrap_or_default())
}

fn run_core(core: Core, clusters: watch::Receiver<Option<Cluster>>, changes: mpsc::Receiver<cni::PodChange>) {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(core.run(clusters, changes)),
        Err(error) => error!("no runtime for the core: {error}"),
    }
}

fn status_document(
    node: NodeName,
    views: watch::Receiver<Arc<view::View>>,
    counters: aya::maps::MapData,
) -> admin::StatusFn {
    let counters = events::counters(counters);
    Arc::new(move || {
        let view = Arc::clone(&views.borrow());
        view.status(&node.0, &counters(), &foreign_rules())
    })
}

/// Rules of others on this node that drop what our programs hand to its stack.
fn foreign_rules() -> Vec<String> {
    match netlink::foreign_drops() {
        Ok(found) => found.iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("not known: {error}")],
    }
}

/// Writes `ready` when everything is up, and lets restored pods talk.
async fn mark_ready(path: std::path::PathBuf, ready: Ready, cni: Arc<cni::CniHandler>) {
    let mut all = ready.subscribe();
    if all.wait_for(|all| *all).await.is_err() {
        return;
    }
    cni.activate_restored();
    if let Err(error) = std::fs::write(&path, "ok\n") {
        error!(path = %path.display(), "cannot say that the agent is ready: {error}");
    }
}

fn node_name(config: &Config) -> anyhow::Result<NodeName> {
    match &config.node.name {
        Some(name) => Ok(NodeName::new(name.as_str())),
        None => {
            let name = nix::unistd::gethostname().context("reading the host name")?;
            Ok(NodeName::new(name.to_string_lossy().to_lowercase()))
        }
    }
}

/// One agent per run directory.
fn lock(run_dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(run_dir).with_context(|| format!("creating {}", run_dir.display()))?;
    for stale in ["ready", "applied"] {
        admin::remove_stale(&run_dir.join(stale))?;
    }
    let path = run_dir.join("agent.lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    file.try_lock().with_context(|| {
        format!(
            "another agent uses {}; stop it, or give this one --run-dir, --state-dir and --instance",
            run_dir.display()
        )
    })?;
    Ok(file)
}
