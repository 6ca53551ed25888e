//! The lab itself: what stands, and how it comes to stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use sheetbend_model::types::ObjectKey;
use tokio::runtime::Runtime;

use super::api::{Api, PodState};
use super::fabric::Fabric;
use super::journal::Journal;
use super::node::{AgentCommand, LabNode};
use super::plugin::Plugin;
use super::pod::{PodPlan, RunningPod};
use crate::lab::failure::{Failure, Outcome};
use crate::lab::launch::LabRequest;
use crate::lab::serve::{Identity, Serving, serve};
use crate::lab::state::LabDir;
use crate::lab::wire::{LabStatus, NodeStatus, PodStatus, Times};
use crate::lab::{layout, objects};

/// Changes of status within this time become one generation.
const BATCH: Duration = Duration::from_millis(20);
/// How long the nodes may take to apply the newest generation.
const CONVERGENCE: Duration = Duration::from_secs(20);
/// Pods set up at a time.
const SETUPS: usize = 8;

/// A lab.
#[derive(Debug)]
pub(super) struct Lab {
    /// What was asked for.
    pub(super) request: LabRequest,
    /// The lab's directory.
    pub(super) dir: LabDir,
    /// Its log.
    pub(super) journal: Journal,
    /// Serves the pods' ports.
    runtime: Runtime,
    program: PathBuf,
    stand: OnceLock<Stand>,
    pods: Mutex<BTreeMap<ObjectKey, RunningPod>>,
    times: Mutex<Times>,
    result: Mutex<Option<Result<(), (u8, String)>>>,
    ending: (Mutex<bool>, Condvar),
    /// One change at a time.
    changing: Mutex<()>,
}

/// What is made once.
#[derive(Debug)]
struct Stand {
    nodes: Vec<LabNode>,
    api: Mutex<Api>,
    dirty: mpsc::Sender<()>,
    _fabric: Fabric,
    _world: Serving,
}

impl Lab {
    /// A lab of which nothing stands yet.
    pub(super) fn new(request: LabRequest, dir: LabDir) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self {
            journal: Journal::new(request.began),
            request,
            dir,
            runtime,
            program: std::env::current_exe()?,
            stand: OnceLock::new(),
            pods: Mutex::default(),
            times: Mutex::default(),
            result: Mutex::default(),
            ending: (Mutex::new(false), Condvar::new()),
            changing: Mutex::new(()),
        })
    }

    /// Makes everything; the result is [`Lab::result`].
    pub(super) fn bring_up(&self) {
        let result = self.build().map_err(|Failure { code, error }| (code, format!("{error:#}")));
        if let Err((_, message)) = &result {
            self.journal.detail(&format!("failed: {message}"));
        }
        *lock(&self.result) = Some(result);
    }

    fn build(&self) -> Outcome {
        let _changing = lock(&self.changing);
        let cluster = objects::load(&self.dir, &self.request)?;
        let named = cluster.served_ports();
        self.journal.progress("making the wires");
        let (fabric, nodes) = self.make_nodes()?;
        let world = Identity { pod: "world".into(), node: "world".into() };
        let world = serve(self.runtime.handle(), &fabric.world, &world, &named)?;
        let mut api = Api::new(cluster, self.request.nodes, self.dir.cluster(), self.dir.join("cluster.d"))?;
        api.publish()?;
        let (dirty, changes) = mpsc::channel();
        let stand = Stand { nodes, api: Mutex::new(api), dirty, _fabric: fabric, _world: world };
        let stand = self.stand.get_or_init(|| stand);
        self.journal.progress(&format!("starting {} agents ({})", stand.nodes.len(), self.request.mode));
        stand.nodes.iter().try_for_each(LabNode::start)?;
        stand.nodes.iter().try_for_each(LabNode::start_names)?;
        stand.nodes.iter().try_for_each(LabNode::wait_ready)?;
        stand.nodes.iter().try_for_each(LabNode::wait_names)?;
        self.times(|times, now| times.agents = Some(now));
        let plans = lock(&stand.api).plans(self.request.keep_addresses)?;
        std::thread::scope(|scope| {
            // Hung up when the pods are set up, or have failed to be.
            let (stop, stopped) = mpsc::channel::<()>();
            scope.spawn(move || publish_changes(stand, &changes, &stopped, &self.journal));
            let done = self.start_pods(&plans);
            drop(stop);
            done
        })?;
        self.converge()?;
        self.dir.update(|file| file.ready = true)?;
        Ok(())
    }

    fn make_nodes(&self) -> anyhow::Result<(Fabric, Vec<LabNode>)> {
        let LabRequest { name, nodes, mode, .. } = &self.request;
        let (fabric, mut devices) = Fabric::create(&self.request)?;
        let mut made = Vec::new();
        for index in 1..=*nodes {
            let node = layout::node_name(index);
            let (netns, more) = fabric.add_node(name, &node, index)?;
            devices.extend(more);
            let command = AgentCommand {
                program: self.program.clone(),
                instance: format!("{name}-{node}"),
                objects: self.dir.cluster(),
                mode: mode.clone(),
                dir: self.dir.node(&node),
            };
            let plugin = Plugin {
                path: self.program.with_file_name("sheetbend-cni"),
                run_dir: self.dir.node(&node).join("run"),
                journal: self.journal.clone(),
            };
            made.push(LabNode::new((node, index), netns, command, plugin)?);
        }
        let names = made.iter().map(|node| node.name.as_str()).chain(["fabric", "world"]);
        let namespaces: Vec<String> = names.map(|node| layout::node_netns(name, node)).collect();
        let pins = made.iter().map(|node| format!("/sys/fs/bpf/sheetbend/{name}-{}", node.name)).collect();
        self.dir.update(|file| (file.namespaces, file.devices, file.pins) = (namespaces, devices, pins))?;
        Ok((fabric, made))
    }

    /// Sets the pods up, a few at a time.
    fn start_pods(&self, plans: &[PodPlan]) -> anyhow::Result<()> {
        self.journal.progress(&format!("setting {} pods up", plans.len()));
        let next = AtomicUsize::new(0);
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..SETUPS.min(plans.len()))
                .map(|_| {
                    scope.spawn(|| -> anyhow::Result<()> {
                        while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                            self.start_pod(plan)?;
                            let count = done.fetch_add(1, Ordering::Relaxed) + 1;
                            self.journal.progress(&format!(
                                "pod {count}/{}: {} answers",
                                plans.len(),
                                plan.key
                            ));
                        }
                        Ok(())
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        self.record_namespaces()
    }

    fn start_pod(&self, plan: &PodPlan) -> anyhow::Result<()> {
        let stand = self.stand()?;
        let node = stand.nodes.iter().find(|node| node.name == plan.node);
        let node =
            node.with_context(|| format!("Pod {} is on {}, which the lab has not", plan.key, plan.node))?;
        let running = RunningPod::start(&self.request.name, plan, node, self.runtime.handle())?;
        let state = PodState {
            addresses: running.addresses.clone(),
            host_addresses: node.addresses(),
            running: true,
            deleted_at: None,
        };
        lock(&self.pods).insert(plan.key.clone(), running);
        lock(&stand.api).set_state(&plan.key, state);
        self.times(|times, now| {
            times.first_pod.get_or_insert(now);
            times.last_pod = Some(now);
        });
        // The publisher is gone only when the lab is.
        let _ = stand.dirty.send(());
        Ok(())
    }

    /// Publishes what is known now and waits until every running agent has applied it.
    fn converge(&self) -> anyhow::Result<()> {
        let stand = self.stand()?;
        let newest = lock(&stand.api).publish()?;
        let start = Instant::now();
        for node in stand.nodes.iter().filter(|node| node.agent_state() == "ready") {
            while node.applied().as_ref() < Some(&newest) {
                anyhow::ensure!(
                    start.elapsed() < CONVERGENCE,
                    "{} has not applied generation {newest} in 20 s (it has {:?}); see {}",
                    node.name,
                    node.applied(),
                    node.dir().join("agent.log").display()
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        self.times(|times, now| times.converged = Some(now));
        Ok(())
    }

    /// Makes the cluster what `objects/` says now: pods that are gone or changed get their grace period, new ones are
    /// set up. `grace` overrides the pods' own.
    pub(super) fn reload(&self, grace: Option<Duration>) -> Outcome {
        let _changing = lock(&self.changing);
        let stand = self.stand()?;
        let cluster = objects::load(&self.dir, &self.request)?;
        let wanted: BTreeMap<ObjectKey, PodPlan> = super::api::plans(&cluster, self.request.keep_addresses)?
            .into_iter()
            .map(|plan| (plan.key.clone(), plan))
            .collect();
        let gone: Vec<ObjectKey> = lock(&self.pods)
            .iter()
            .filter(|(key, pod)| wanted.get(key).is_none_or(|plan| !plan.runs_as(&pod.plan)))
            .map(|(key, _)| key.clone())
            .collect();
        lock(&stand.api).replace(cluster, &gone, &super::now_rfc3339()?);
        lock(&stand.api).publish()?;
        self.end_pods(&gone, grace)?;
        let mut new = lock(&stand.api).plans(self.request.keep_addresses)?;
        let running = lock(&self.pods).keys().cloned().collect::<BTreeSet<ObjectKey>>();
        new.retain(|plan| !running.contains(&plan.key));
        self.start_pods(&new)?;
        Ok(self.converge()?)
    }

    /// Ends pods, each after its grace period.
    fn end_pods(&self, keys: &[ObjectKey], grace: Option<Duration>) -> anyhow::Result<()> {
        let stand = self.stand()?;
        std::thread::scope(|scope| {
            let workers: Vec<_> = keys
                .iter()
                .map(|key| {
                    scope.spawn(move || -> anyhow::Result<()> {
                        let own = lock(&stand.api).pod(key).map(super::pod::grace_period);
                        std::thread::sleep(grace.or(own).unwrap_or_default());
                        let pod = lock(&self.pods).remove(key);
                        let node = pod
                            .as_ref()
                            .and_then(|pod| stand.nodes.iter().find(|node| node.name == pod.plan.node));
                        if let (Some(node), Some(pod)) = (node, pod) {
                            pod.stop(node)?;
                        }
                        lock(&stand.api).forget(key);
                        Ok(())
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        lock(&stand.api).publish()?;
        self.record_namespaces()
    }

    /// How things stand.
    pub(super) fn status(&self) -> LabStatus {
        let Some(stand) = self.stand.get() else { return LabStatus::default() };
        let lab = &self.request.name;
        let nodes = stand.nodes.iter().map(|node| NodeStatus {
            name: node.name.clone(),
            netns: layout::node_netns(lab, &node.name),
            addresses: node.addresses(),
            pod_cidrs: self.request.cidrs_of(node.index).to_vec(),
            agent: node.agent_state(),
            applied: node.applied(),
        });
        let api = lock(&stand.api);
        let pods = lock(&self.pods);
        LabStatus {
            name: lab.clone(),
            mode: self.request.mode.clone(),
            ready: matches!(self.result(), Some(Ok(()))),
            nodes: nodes.collect(),
            pods: pods.values().map(|pod| pod_status(pod, &api)).collect(),
            times: *lock(&self.times),
        }
    }

    /// How bringing it up ended, if it has.
    pub(super) fn result(&self) -> Option<Result<(), (u8, String)>> {
        lock(&self.result).clone()
    }

    /// The nodes, once they are made.
    pub(super) fn nodes(&self) -> &[LabNode] {
        self.stand.get().map_or(&[], |stand| &stand.nodes)
    }

    /// Lets [`Lab::wait_end`] return.
    pub(super) fn end(&self) {
        *lock(&self.ending.0) = true;
        self.ending.1.notify_all();
    }

    /// Waits for [`Lab::end`].
    pub(super) fn wait_end(&self) {
        let mut ending = lock(&self.ending.0);
        while !*ending {
            ending = self.ending.1.wait(ending).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn record_namespaces(&self) -> anyhow::Result<()> {
        let names = fs::read_dir(crate::lab::netns::NETNS_DIR)?.flatten();
        let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        self.dir.update(|file| file.namespaces = names)
    }

    fn stand(&self) -> anyhow::Result<&Stand> {
        self.stand.get().context("the lab is not built yet; wait for `lab up`")
    }

    fn times(&self, set: impl FnOnce(&mut Times, f64)) {
        set(&mut lock(&self.times), self.journal.elapsed());
    }
}

/// Turns changes of status into generations, a batch at a time, until `stopped` is hung up.
fn publish_changes(
    stand: &Stand,
    changes: &mpsc::Receiver<()>,
    stopped: &mpsc::Receiver<()>,
    journal: &Journal,
) {
    while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
        if changes.recv_timeout(BATCH).is_err() {
            continue;
        }
        std::thread::sleep(BATCH);
        while changes.try_recv().is_ok() {}
        if let Err(error) = lock(&stand.api).publish() {
            journal.progress(&format!("cannot publish: {error:#}"));
        }
    }
}

fn pod_status(pod: &RunningPod, api: &Api) -> PodStatus {
    let key = &pod.plan.key;
    let leaving = api.state(key).deleted_at.is_some();
    let serves = pod.plan.ports.iter().filter(|_| pod.plan.command.is_none());
    PodStatus {
        pod: key.to_string(),
        node: pod.plan.node.clone(),
        netns: pod.netns.clone(),
        addresses: pod.addresses.clone(),
        phase: if leaving { "Terminating" } else { "Running" }.to_owned(),
        ready: api.is_ready(key),
        own_command: pod.plan.command.is_some(),
        serves: serves.map(|(protocol, port)| format!("{port}/{protocol}")).collect(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
