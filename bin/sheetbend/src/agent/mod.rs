//! `sheetbend agent`: makes the networks of one node's pods.
//!
//! It can die at any moment: what it built stays pinned in the kernel and forwards on, and the next process finds it.

mod announce;
mod args;
mod cni;
mod core;
mod duties;
mod events;
mod flow_log;
mod growth;
mod health_checks;
mod heap;
mod leaks;
mod lessons;
mod policies;
mod policy_log;
mod prerequisites;
mod proxy_health;
mod publish;
mod services;
mod settings;
mod sockets;
mod view;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use sheetbend_apply::bpf::{FlowTableState, Kernel, KernelConfig};
use sheetbend_apply::netlink;
use sheetbend_compile::Compiler;
use sheetbend_ebpf_abi::names;
use sheetbend_intake::cni::Server;
use sheetbend_model::state::Attachment;
use sheetbend_model::types::NodeName;
use sheetbend_shell::admin;
use sheetbend_shell::config::Config;
use sheetbend_shell::drain::Drain;
use sheetbend_shell::ready::Ready;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::source::{self, Cluster, Kubernetes, Source};
use crate::{daemon, learnt};
pub(crate) use args::Args;
use cni::CniConfig;
use core::{Core, CoreConfig, Outputs};
use duties::Duties;
use flow_log::FlowLog;
pub(crate) use leaks::Leak;
use policy_log::PolicyLog;
pub(crate) use settings::SettingsFile;

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: Args) -> ExitCode {
    daemon::run(args.config(), |config| {
        heap::share();
        serve(config)
    })
}

fn serve(config: &Config) -> anyhow::Result<()> {
    let node = node_name(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _instance = lock(&config.node.run_dir)?;
    info!(%node, instance = config.node.instance, mode = %config.network.mode, "starting");
    runtime.block_on(work(config, node))
}

async fn work(config: &Config, node: NodeName) -> anyhow::Result<()> {
    let drain = Drain::on_signals()?;
    let ready = Ready::default();
    if config.objects.is_none() {
        prerequisites::check(config)?;
    }
    let kernel = open_kernel(config)?;
    let events = kernel.events()?;
    let counters = kernel.counters()?;
    let live = kernel.live_connections()?;
    let Source { mut clusters, kubernetes } = source::open(config, &drain).await?;
    let pod_cidrs = tokio::select! {
        pod_cidrs = own_pod_cidrs(&mut clusters, &node) => pod_cidrs?,
        () = drain.requested() => return Ok(()),
    };

    let (changes, core_changes) = mpsc::channel(1024);
    let (questions, core_questions) = mpsc::channel(4);
    let (lessons, core_lessons) = mpsc::channel(1024);
    let (patterns, asked_about) = watch::channel(None);
    let (facts, node_facts) = watch::channel(None);
    let announcing = (facts.subscribe(), clusters.clone(), node.clone());
    let (view, views) = watch::channel(Arc::default());
    let (flows, flow_tables) = watch::channel(Vec::new());
    let cni_config = CniConfig {
        state_dir: config.node.state_dir.clone(),
        run_dir: config.node.run_dir.clone(),
        pod_cidrs: pod_cidrs.clone(),
        reuse_delay: Duration::from_secs(config.reuse_delay),
    };
    let (cni, restored) = cni::open(cni_config, changes, node_facts)?;
    let (attached, news) = mpsc::unbounded_channel();
    let outputs = Outputs {
        facts,
        view,
        flows,
        ready: ready.task("dataplane"),
        attached: kubernetes.is_some().then_some(attached),
        patterns,
        settings: SettingsFile::new(&config.node.state_dir),
    };
    let core_config = CoreConfig {
        node: node.clone(),
        nat_ports: config.nat_ports,
        run_dir: config.node.run_dir.clone(),
        state_dir: config.node.state_dir.clone(),
        cgroup: config.node.cgroup.clone(),
    };
    let compiler = Compiler::new(node.clone(), config.network.clone());
    let core = Core::new(core_config, outputs, compiler, kernel, restored);
    let api_clusters = clusters.clone();
    let core = std::thread::Builder::new()
        .name("core".to_owned())
        .spawn(move || run_core(core, clusters, core_changes, core_questions, core_lessons))?;

    let run_dir = &config.node.run_dir;
    let status = status_document(node.clone(), views.clone(), flow_tables, counters);
    let cni = Arc::new(cni);
    let own_name = node.clone();
    let server = Server::bind(&run_dir.join("cni.sock"))?;
    lessons::spawn(&learnt::socket(run_dir), lessons, asked_about)?;
    tokio::spawn(health_checks::serve(views.clone()));
    if let Some(address) = config.health_address {
        tokio::spawn(proxy_health::serve(address, own_name.clone(), views.clone()));
    }
    let flow_file = flow_log::path(&config.node.state_dir);
    let flow_log = FlowLog::open(&flow_file, config.flows.ring);
    let policy_log = PolicyLog::new(&config.policy, config.log_format, Instant::now());
    events::spawn(&run_dir.join("events.sock"), node, events, views.clone(), flow_log, policy_log)?;
    for rule in foreign_rules() {
        warn!("a rule of somebody else gets in our way: {rule}");
    }
    tokio::spawn(mark_ready(run_dir.join("ready"), ready.clone(), Arc::clone(&cni)));
    let admin_socket = run_dir.join("admin.sock");
    let leaks = leaks::document(config.node.state_dir.clone(), questions, api_clusters.clone());
    let services = services::documents(own_name.clone(), views.clone(), live);
    let policies = policies::documents(views.clone());
    let snapshot = policies::snapshot(api_clusters.clone());
    let documents = [("/leaks", leaks), ("/snapshot", snapshot), ("/flows", flow_log::document(flow_file))]
        .into_iter()
        .chain(services)
        .chain(policies)
        .collect();
    let announcing = announce(announcing, kubernetes.as_ref(), &drain);
    let (duties, keeper) = api_server(config, kubernetes, news, api_clusters, (own_name, pod_cidrs), &ready);
    tokio::select! {
        result = duties => result?,
        result = server.serve(cni) => result.context("serving CNI")?,
        result = admin::serve(&admin_socket, ready, status, documents, drain.clone()) => result.context("serving admin")?,
        () = drain.requested() => (),
    }
    // Without an answer its Lease runs out by itself.
    let _ = tokio::time::timeout(Duration::from_secs(2), announcing).await;
    if let Some(keeper) = keeper {
        // A failure is in the log; the next process has an older Snapshot.
        let _ = tokio::time::timeout(Duration::from_secs(5), keeper).await;
    }
    // Dropping the CNI server drops the last sender of changes, which ends the core.
    drop(core);
    info!("ended; the kernel forwards on");
    Ok(())
}

/// Begins to answer for addresses of Services, as L2Announcements say.
fn announce(
    (facts, clusters, node): (
        watch::Receiver<Option<cni::NodeFacts>>,
        watch::Receiver<Option<Cluster>>,
        NodeName,
    ),
    kubernetes: Option<&Kubernetes>,
    drain: &Drain,
) -> JoinHandle<()> {
    let meeting = kubernetes.map(|kubernetes| announce::Meeting {
        client: kubernetes.client.clone(),
        namespace: std::env::var("POD_NAMESPACE").unwrap_or_else(|_| "kube-system".to_owned()),
    });
    tokio::spawn(announce::run(meeting, node, clusters, facts, drain.clone()))
}

/// Begins what is written to the API server. The first future ends when this process must; without an API server it
/// never does.
fn api_server(
    config: &Config,
    kubernetes: Option<Kubernetes>,
    news: mpsc::UnboundedReceiver<Arc<Attachment>>,
    clusters: watch::Receiver<Option<Cluster>>,
    (node, pod_cidrs): (NodeName, Vec<ipnet::IpNet>),
    ready: &Ready,
) -> (impl Future<Output = anyhow::Result<()>> + use<>, Option<JoinHandle<()>>) {
    let (duties, keeper) = match kubernetes {
        Some(Kubernetes { client, watched, keeper }) => {
            tokio::spawn(publish::run(client.clone(), news, clusters.clone(), watched.lookups));
            let duties = Duties {
                client,
                node,
                cni: config.cni.clone(),
                run_dir: config.node.run_dir.clone(),
                pod_cidrs,
            };
            (Some(duties.run(ready.clone(), clusters)), Some(keeper))
        }
        None => (None, None),
    };
    let until_it_must_end = async move {
        match duties {
            Some(duties) => duties.await,
            None => std::future::pending().await,
        }
    };
    (until_it_must_end, keeper)
}

fn open_kernel(config: &Config) -> anyhow::Result<Kernel> {
    let object = std::env::var_os("SHEETBEND_EBPF_OBJECT").map(Into::into);
    let kernel = Kernel::open(KernelConfig {
        bpffs: config.node.bpffs.clone(),
        instance: config.node.instance.clone(),
        node: sheetbend_ebpf_abi::NodeConfig::default(),
        object,
        limits: flow_tables(config.conntrack.entries),
        ceilings: flow_tables(config.conntrack.max_entries),
    })?;
    Ok(kernel)
}

/// Map name → entries, for so many flows.
fn flow_tables(flows: u32) -> BTreeMap<String, u32> {
    [(names::CT, flows), (names::SERVICE_FLOWS, flows), (names::SNAT, flows / 2)]
        .map(|(name, entries)| (name.to_owned(), entries))
        .into()
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

fn run_core(
    core: Core,
    clusters: watch::Receiver<Option<Cluster>>,
    changes: mpsc::Receiver<cni::PodChange>,
    questions: mpsc::Receiver<leaks::Question>,
    lessons: mpsc::Receiver<lessons::Lesson>,
) {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(core.run(clusters, changes, questions, lessons)),
        Err(error) => error!("no runtime for the core: {error}"),
    }
}

fn status_document(
    node: NodeName,
    views: watch::Receiver<Arc<view::View>>,
    flows: watch::Receiver<Vec<FlowTableState>>,
    counters: aya::maps::MapData,
) -> admin::StatusFn {
    let counters = events::counters(counters);
    Arc::new(move || {
        let view = Arc::clone(&views.borrow());
        let mut status = view.status(&node.0, &counters(), &foreign_rules());
        status["flowTables"] = growth::document(&flows.borrow());
        status
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
pub(crate) fn lock(run_dir: &Path) -> anyhow::Result<File> {
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
