//! `kube up`.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::build::{self, Components};
use super::enter;
use super::layout;
use super::plan::Plan;
use super::record::{self, Process, Record};
use super::settings::{CONTROL_PLANE, Network, Settings};
use super::wait::until;
use super::{images, install, peer, supervisor};
use crate::progress::{Mark, Step, seconds};
use crate::repo::Repo;

/// A machine with two busy cores needs the most of this.
const LIMIT: Duration = Duration::from_secs(240);

/// Makes a cluster; if that fails, nothing of it is left.
pub(super) fn run(repo: &Repo, settings: Settings) -> Result<()> {
    if settings.network == Network::Sheetbend {
        install::check(repo)?;
    }
    let started = Instant::now();
    let components = build::components()?;
    let built = started.elapsed();
    make_room(&settings.name)?;
    let mut record = Record::claim(settings)?;
    let outcome = create(repo, &mut record, &components);
    if let Err(error) = outcome {
        if let Err(lost) = keep_logs(repo, &record.settings.name) {
            eprintln!("    the logs are lost: {lost:#}");
        }
        let cleaned = record.remove();
        return Err(error.context(match cleaned {
            Ok(()) => "the cluster did not come up, and was removed".to_owned(),
            Err(why) => format!("the cluster did not come up, and was not removed either ({why:#})"),
        }));
    }
    let took = started.elapsed() - built;
    announce(&record.settings, took);
    Ok(())
}

/// Refuses a name in use; removes what a killed `up` or a reboot left of it.
fn make_room(name: &str) -> Result<()> {
    let Some(old) = Record::read(name)? else { return record::sweep(name) };
    if old.alive().is_some() || old.maker.runs() {
        bail!("cluster {name} is there already; `cargo xtask kube down --name {name}` ends it");
    }
    let step = Step::start(format!("removing what is left of cluster {name}"));
    old.remove()?;
    step.end(Mark::Done, "");
    Ok(())
}

/// The cluster's directory goes; its logs may say why it did not come up.
fn keep_logs(repo: &Repo, name: &str) -> Result<()> {
    let kept = repo.scratch(&format!("kube/{name}-logs"))?;
    for entry in std::fs::read_dir(record::directory(name).join("logs"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), kept.join(entry.file_name()))?;
    }
    eprintln!("    logs: {}", kept.display());
    Ok(())
}

fn create(repo: &Repo, record: &mut Record, components: &Components) -> Result<()> {
    let directory = record::directory(&record.settings.name);
    let (plan, admin) = layout::plan(&record.settings, components, &directory)?;
    std::fs::create_dir(directory.join("logs"))?;
    std::fs::write(enter::kubeconfig(&record.settings.name), admin)?;
    let path = directory.join("plan.json");
    std::fs::write(&path, serde_json::to_string(&plan)?)?;
    let mut child = supervisor::spawn(&path, File::create(directory.join("logs/supervisor.log"))?)?;
    record.supervisor = Some(Process::of(child.id().cast_signed())?);
    record.write()?;
    come_up(repo, record, components, &plan)?;
    record.ready = true;
    record.write()?;
    let mut stdin = child.stdin.take().context("the supervisor has a standard input")?;
    stdin.write_all(&[supervisor::STAY]).context("the supervisor is gone")
}

fn come_up(repo: &Repo, record: &Record, components: &Components, plan: &Plan) -> Result<()> {
    let kubectl = components.program("kubectl")?;
    let ask = |arguments: &[&str]| {
        let mut command = enter::kubectl(record, &kubectl)?;
        command.args(arguments);
        enter::output(command)
    };
    // Nodes take their images while the control plane starts.
    let ctr = components.program("ctr")?;
    let archive = components.cache.join(&components.images);
    for node in record.settings.node_names() {
        until(&format!("containerd on {node}"), LIMIT, record, plan, || ping(record, &ctr, &node))?;
    }
    std::thread::scope(|scope| {
        let import = scope.spawn(|| images::import(record, &ctr, &archive));
        until("API server", LIMIT, record, plan, || ask(&["get", "--raw", "/readyz"]))?;
        let nodes = record.settings.node_names();
        for (index, node) in nodes.iter().enumerate() {
            let cidrs = until(&format!("{node} registered"), LIMIT, record, plan, || pod_cidrs(&ask, node))?;
            route_to_pods(record, index + 1, &cidrs)?;
        }
        let step = Step::start("test images in every node");
        let imported = import.join().unwrap_or_else(|_| bail!("the import panicked"));
        step.end(if imported.is_ok() { Mark::Done } else { Mark::Failed }, "");
        imported
    })?;
    install::name_api_server(record, &kubectl)?;
    match record.settings.network {
        Network::None => Ok(()),
        Network::Peer => peer::install(record, plan, &kubectl),
        Network::Sheetbend => install::install(repo, record, &kubectl),
    }?;
    if record.settings.network != Network::None {
        let ready = ["wait", "--for=condition=Ready", "node", "--all", "--timeout=1s"];
        until("every node Ready", LIMIT, record, plan, || ask(&ready))?;
    }
    Ok(())
}

fn ping(record: &Record, ctr: &std::path::Path, node: &str) -> Result<String> {
    let socket = enter::root_of(record, node)?.join("run/containerd/containerd.sock");
    let mut command = std::process::Command::new(ctr);
    command.arg("--address").arg(socket).arg("version");
    enter::output(command)
}

/// A node's Pod networks, once it has one per family.
pub(super) fn pod_cidrs(ask: &dyn Fn(&[&str]) -> Result<String>, node: &str) -> Result<Vec<String>> {
    let text = ask(&["get", "node", node, "-o", "jsonpath={.spec.podCIDRs[*]}"])?;
    if text.trim().is_empty() {
        bail!("{node} has no podCIDRs yet");
    }
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// The API server calls webhooks and proxies to Pods, so it needs their routes although it is no node.
fn route_to_pods(record: &Record, node: usize, cidrs: &[String]) -> Result<()> {
    route(record, CONTROL_PLANE, node, cidrs)
}

/// Routes to `node`'s Pod networks on `machine`.
pub(super) fn route(record: &Record, machine: &str, node: usize, cidrs: &[String]) -> Result<()> {
    for cidr in cidrs {
        let addresses = record.settings.addresses(node);
        let via = addresses.iter().find(|address| address.is_ipv6() == cidr.contains(':'));
        let via = via.with_context(|| format!("node{node} has no address of the family of {cidr}"))?;
        let mut command = enter::with_network(record, machine, std::path::Path::new("ip"))?;
        command.args(["route", "replace", cidr, "via", &via.to_string()]);
        enter::output(command).with_context(|| format!("cannot route {cidr} on {machine}"))?;
    }
    Ok(())
}

fn announce(settings: &Settings, took: Duration) {
    let name = &settings.name;
    let which = if name == "default" { String::new() } else { format!(" --name {name}") };
    println!(
        "cluster {name} is up in {}: {} nodes, network {:?}",
        seconds(took),
        settings.nodes,
        settings.network
    );
    println!("    cargo xtask kube kubectl{which} -- get pods -A");
    println!("    cargo xtask kube exec{which} node1 bash");
    println!("    cargo xtask kube down{which}");
}
