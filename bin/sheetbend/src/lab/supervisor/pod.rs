//! A pod as a kubelet sees it: what to run, and what runs.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sheetbend_intake::file::Object;
use sheetbend_model::types::{ObjectKey, Protocol};
use tokio::runtime::Handle;

use super::fabric::NAMESPACE_SYSCTLS;
use super::node::LabNode;
use super::plugin::Target;
use crate::lab::bandwidth;
use crate::lab::children::{self, Process};
use crate::lab::layout;
use crate::lab::names::{resolv_conf, use_resolv_conf};
use crate::lab::netns::{self, NETNS_DIR, Netns};
use crate::lab::probe::{DropWatch, Job, Limits, Probe, Seen, Speech, run};
use crate::lab::serve::{Identity, Serving, serve};
use crate::lab::state::LabDir;
use serde_json::{Map, Value};

/// Runs a command instead of the server (JSON array).
pub(super) const COMMAND_ANNOTATION: &str = "sheetbend.dev/lab-command";
/// `"false"` keeps the pod from being ready.
pub(super) const READY_ANNOTATION: &str = "sheetbend.dev/lab-ready";
/// Kubernetes' default grace period, seconds.
const DEFAULT_GRACE: u64 = 30;
/// How long a pod may take until it answers on its own address.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What to run. Two equal ones need no restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodPlan {
    /// `namespace/name`.
    pub(super) key: ObjectKey,
    /// `metadata.uid`.
    pub(super) uid: String,
    /// `spec.nodeName`.
    pub(super) node: String,
    /// `spec.hostNetwork`.
    pub(super) host_network: bool,
    /// `runtimeConfig.bandwidth`, as its annotations say.
    pub(super) bandwidth: Map<String, Value>,
    /// Every port to serve.
    pub(super) ports: BTreeSet<(Protocol, u16)>,
    /// The command to run instead.
    pub(super) command: Option<Vec<String>>,
    /// Addresses to ask for.
    pub(super) wanted: Vec<IpAddr>,
}

impl PodPlan {
    /// Whether a pod of plan `running` is what this one wants. A uid that nobody wrote is the lab's to choose.
    pub(super) fn runs_as(&self, running: &Self) -> bool {
        let uid = if self.uid.is_empty() { running.uid.clone() } else { self.uid.clone() };
        Self { uid, wanted: running.wanted.clone(), ..self.clone() } == *running
    }

    /// Reads a Pod; `None` for another kind or a pod without node.
    pub(super) fn of(object: &Object, keep_addresses: bool) -> anyhow::Result<Option<Self>> {
        let Object::Pod(pod) = object else { return Ok(None) };
        let Some(spec) = &pod.spec else { return Ok(None) };
        let Some(node) = spec.node_name.clone() else { return Ok(None) };
        let key = object.id().key();
        let containers =
            spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|container| {
                // Sidecars run as long as the pod (KEP-753).
                container.restart_policy.as_deref() == Some("Always")
            }));
        let mut ports = BTreeSet::new();
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            ports.insert((protocol, u16::try_from(port.container_port)?));
        }
        let annotation = |name: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(name));
        let command = annotation(COMMAND_ANNOTATION).map(|text| {
            serde_json::from_str::<Vec<String>>(text).ok().filter(|words| !words.is_empty()).with_context(|| {
                format!("Pod {key}: annotation {COMMAND_ANNOTATION} is {text:?}; write a JSON array, as [\"sleep\",\"60\"]")
            })
        });
        let status_ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        let wanted = status_ips.filter_map(|ip| ip.ip.parse().ok()).filter(|_| keep_addresses).collect();
        Ok(Some(Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            host_network: spec.host_network.unwrap_or_default(),
            command: command.transpose()?,
            bandwidth: bandwidth::of_pod(pod.metadata.annotations.as_ref())
                .with_context(|| format!("Pod {key}"))?,
            key,
            node,
            ports,
            wanted,
        }))
    }
}

/// Whether its annotation lets a pod become ready.
pub(super) fn may_be_ready(object: &Object) -> bool {
    object
        .metadata()
        .annotations
        .as_ref()
        .and_then(|all| all.get(READY_ANNOTATION))
        .is_none_or(|text| text != "false")
}

/// `spec.terminationGracePeriodSeconds`.
pub(super) fn grace_period(object: &Object) -> Duration {
    let seconds = match object {
        Object::Pod(pod) => pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds),
        Object::Namespace(_)
        | Object::Node(_)
        | Object::Deployment(_)
        | Object::StatefulSet(_)
        | Object::DaemonSet(_)
        | Object::ReplicaSet(_)
        | Object::Job(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::NetworkPolicy(_)
        | Object::ServiceCIDR(_)
        | Object::ClusterNetworkPolicy(_)
        | Object::Tenant(_)
        | Object::TrafficTier(_)
        | Object::NetworkSet(_)
        | Object::ClusterTrafficPolicy(_)
        | Object::TrafficPolicy(_)
        | Object::LoadBalancerPool(_)
        | Object::L2Announcement(_) => None,
    };
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(DEFAULT_GRACE))
}

/// A pod that runs.
#[derive(Debug)]
pub(super) struct RunningPod {
    /// What runs.
    pub(super) plan: PodPlan,
    /// Name of its namespace; its node's for a hostNetwork pod.
    pub(super) netns: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    target: Option<Target>,
    _serving: Option<Serving>,
    _process: Option<Process>,
}

impl RunningPod {
    /// Sets the pod up on `node` and waits until it answers on its own addresses.
    pub(super) fn start(lab: &str, plan: &PodPlan, node: &LabNode, runtime: &Handle) -> anyhow::Result<Self> {
        let mut made = None;
        let started = Self::set_up(lab, plan, node, runtime, &mut made);
        if let (Err(_), Some(target)) = (&started, &made) {
            // Best effort: the first error is the one to tell.
            let _ = tear_down(node, target);
        }
        started.with_context(|| format!("Pod {} on {}", plan.key, plan.node))
    }

    fn set_up(
        lab: &str,
        plan: &PodPlan,
        node: &LabNode,
        runtime: &Handle,
        made: &mut Option<Target>,
    ) -> anyhow::Result<Self> {
        let (netns, name, addresses) = if plan.host_network {
            (node.netns.try_clone()?, layout::node_netns(lab, &node.name), node.addresses())
        } else {
            let (netns, name) = create_netns(lab, plan)?;
            netns.sysctl(&NAMESPACE_SYSCTLS)?;
            let target = made.insert(target(plan, &name));
            let addresses = node.plugin.add(&node.netns, target)?;
            (netns, name, addresses)
        };
        let (serving, process) = match &plan.command {
            None => {
                let identity = Identity { pod: plan.key.to_string().into(), node: plan.node.as_str().into() };
                let ports: Vec<(Protocol, u16)> = plan.ports.iter().copied().collect();
                (Some(serve(runtime, &netns, &identity, &ports)?), None)
            }
            Some(words) => (None, Some(run_command(lab, plan, words, &netns, node)?)),
        };
        if !plan.host_network {
            wait_answers(plan, node, &addresses)?;
        }
        Ok(Self {
            plan: plan.clone(),
            netns: name,
            addresses,
            target: made.clone(),
            _serving: serving,
            _process: process,
        })
    }

    /// Ends the pod: its process, its attachment, its namespace.
    pub(super) fn stop(self, node: &LabNode) -> anyhow::Result<()> {
        let Self { target, _serving, _process, .. } = self;
        drop((_serving, _process));
        target.map_or(Ok(()), |target| tear_down(node, &target))
    }
}

fn tear_down(node: &LabNode, target: &Target) -> anyhow::Result<()> {
    let deleted = node.plugin.del(&node.netns, target);
    if let Some(name) = target.netns.file_name().and_then(|name| name.to_str()) {
        netns::delete(name)?;
    }
    deleted
}

fn create_netns(lab: &str, plan: &PodPlan) -> anyhow::Result<(Netns, String)> {
    let ObjectKey { namespace, name } = &plan.key;
    let mut name = layout::pod_netns(lab, namespace, name, &plan.uid);
    if Path::new(NETNS_DIR).join(&name).exists() {
        name = layout::unique_netns(&name, &plan.uid);
    }
    Ok((Netns::create(&name)?, name))
}

fn target(plan: &PodPlan, netns: &str) -> Target {
    Target {
        namespace: plan.key.namespace.to_string(),
        name: plan.key.name.to_string(),
        uid: plan.uid.clone(),
        container_id: format!("{:032x}", rand::random::<u128>()),
        netns: PathBuf::from(NETNS_DIR).join(netns),
        wanted: plan.wanted.clone(),
        bandwidth: plan.bandwidth.clone(),
    }
}

fn run_command(
    lab: &str,
    plan: &PodPlan,
    words: &[String],
    netns: &Netns,
    node: &LabNode,
) -> anyhow::Result<Process> {
    let Some((program, arguments)) = words.split_first() else { bail!("{COMMAND_ANNOTATION} is empty") };
    let path = node.dir().join(format!("pod.{}.{}.log", plan.key.namespace, plan.key.name));
    let log = File::options().create(true).append(true).open(path)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command
        .env("POD_NAMESPACE", &*plan.key.namespace)
        .env("POD_NAME", &*plan.key.name)
        .env("NODE_NAME", &plan.node);
    let names = resolv_conf(&LabDir::of(lab), &plan.key.namespace)?.filter(|_| !plan.host_network);
    let process = netns.run(|| -> anyhow::Result<_> {
        if let Some(names) = &names {
            use_resolv_conf(names)?;
        }
        Ok(children::spawn(&mut command))
    })??;
    process.with_context(|| {
        format!("{COMMAND_ANNOTATION}: cannot run {program:?}; is it installed on this machine?")
    })
}

/// The kubelet's readiness probe: from the node's own stack to each of the pod's addresses.
fn wait_answers(plan: &PodPlan, node: &LabNode, addresses: &[IpAddr]) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut waiting: Vec<IpAddr> = addresses.to_vec();
    let mut last = String::new();
    while start.elapsed() < ANSWER_PATIENCE {
        let probes = waiting.iter().enumerate().map(|(place, to)| (place, readiness_probe(plan, node, *to)));
        let job = Job { netns: Some(node.netns.try_clone()?), probes: probes.collect() };
        let limits = Limits { patience: Duration::from_millis(500), ..Limits::default() };
        let seen = run(vec![job], &DropWatch::default(), limits, &|| ())?;
        let mut silent = Vec::new();
        for (address, observation) in waiting.iter().zip(seen) {
            match observation.map(|observation| observation.seen) {
                Some(Seen::Answer(None)) => {}
                Some(Seen::Answer(Some(answer))) if answer.pod == plan.key.to_string() => {}
                other => {
                    last = format!("{other:?}");
                    silent.push(*address);
                }
            }
        }
        waiting = silent;
        if waiting.is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("{waiting:?} did not answer its own node for 10 s (last: {last})")
}

fn readiness_probe(plan: &PodPlan, node: &LabNode, to: IpAddr) -> Probe {
    let served = |wanted: Protocol| {
        let port = plan.ports.iter().find(|(protocol, _)| *protocol == wanted).map(|(_, port)| *port);
        port.filter(|_| plan.command.is_none())
    };
    let (speech, port) = match (served(Protocol::Tcp), served(Protocol::Udp)) {
        (Some(port), _) => (Speech::Tcp, port),
        (None, Some(port)) => (Speech::Udp, port),
        (None, None) => (Speech::Echo, 0),
    };
    let from = node.address_like(to);
    Probe { from, to: SocketAddr::new(to, port), behind: Vec::new(), speech }
}
