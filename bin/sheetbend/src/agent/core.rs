//! The agent's heart: one thread that owns the compiler and the kernel. Whatever changes, the newest state is compiled
//! once and carried out once; callers are answered when their part is true.

mod answers;
mod comparison;
mod learning;
mod node;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use imbl::OrdMap;
use sheetbend_apply::bpf::{FlowTableState, Kernel, PodLink};
use sheetbend_apply::memory;
use sheetbend_apply::netlink::node::NodeLinks;
use sheetbend_compile::Compiler;
use sheetbend_model::plan::{Place, Plan};
use sheetbend_model::state::{Attachment, AttachmentId};
use sheetbend_model::types::NodeName;
use sheetbend_shell::config::PortSpan;
use sheetbend_shell::ready::ReadyTask;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{debug, error, info, warn};

use super::cni::{NodeFacts, PodChange};
use super::growth::Growing;
use super::leaks::{Held, Question};
use super::lessons::{Lesson, Patterns};
use super::settings::SettingsFile;
use super::sockets;
use super::view::{Sockets, View};
use crate::learnt::store::Learnt;
use crate::source::Cluster;
use answers::Waiting;

/// After so many rows written at once, what the work took is worth giving back.
const MANY: u64 = 10_000;

/// Between two sweeps of the flow tables.
const SWEEP: Duration = Duration::from_secs(10);
/// Between two tries of what failed.
const RETRY: Duration = Duration::from_secs(1);
/// Between two comparisons of the kernel's tables and the node's routes with what is wanted.
const DRIFT: Duration = Duration::from_secs(120);

/// Pods' programs become TCX links when nothing has come or gone for so long.
const QUIET: Duration = Duration::from_secs(2);
/// Between two steps of that: each holds rtnl for about 10 ms, which others want too.
const MOVE: Duration = Duration::from_millis(25);

/// What the core needs to know of its node.
#[derive(Clone, Debug)]
pub(crate) struct CoreConfig {
    /// This node.
    pub(crate) node: NodeName,
    /// `nat.ports`.
    pub(crate) nat_ports: PortSpan,
    /// Gets `applied`: the generation of the objects that the kernel holds.
    pub(crate) run_dir: PathBuf,
    /// What is learnt of domain names is written down in it.
    pub(crate) state_dir: PathBuf,
    /// `node.cgroup`.
    pub(crate) cgroup: Option<PathBuf>,
}

/// Where the core tells others what became true.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// CNI may ADD once this is known.
    pub(crate) facts: watch::Sender<Option<NodeFacts>>,
    /// For events and `status`.
    pub(crate) view: watch::Sender<Arc<View>>,
    /// How full the tables of flows are, for `status`.
    pub(crate) flows: watch::Sender<Vec<FlowTableState>>,
    /// Done at the first sync.
    pub(crate) ready: ReadyTask,
    /// Hears of every pod that is attached, at once; `None` without an API server.
    pub(crate) attached: Option<mpsc::UnboundedSender<Arc<Attachment>>>,
    /// Domain names that policies in force ask about.
    pub(crate) patterns: watch::Sender<Patterns>,
    /// Where kernel settings are written down before they are lost.
    pub(crate) settings: SettingsFile,
}

/// The compiler, the kernel, and who waits for what.
pub(crate) struct Core {
    config: CoreConfig,
    pub(super) outputs: Outputs,
    compiler: Compiler,
    pub(super) kernel: Kernel,
    cluster: Option<Cluster>,
    attachments: OrdMap<AttachmentId, Arc<Attachment>>,
    adding: Vec<Waiting>,
    removed: Vec<(u32, oneshot::Sender<()>)>,
    learnt: Learnt,
    /// Name servers whose answers wait until the kernel knows what was learnt.
    taught: Vec<oneshot::Sender<()>>,
    /// What they said before it was known what policies ask about.
    early: Vec<Lesson>,
    links: Option<NodeLinks>,
    /// Programs are on every device.
    attached: bool,
    /// Why the node's processes do not reach Services by `node.cgroup`.
    sockets: Option<String>,
    /// Something failed or may have drifted: the next round compares everything.
    stale: bool,
    /// The comparison under way goes on there, then.
    comparing: Option<(Place, Instant)>,
    applied: Option<String>,
    /// The round under way took much memory.
    was_large: bool,
    /// Since the last ADD or DEL.
    pods_changed: Instant,
    /// Of tables of flows.
    pub(super) growing: Growing,
}

impl Core {
    /// A core whose kernel still holds what an earlier process left, with the attachments found on disk.
    pub(crate) fn new(
        config: CoreConfig,
        outputs: Outputs,
        compiler: Compiler,
        kernel: Kernel,
        restored: Vec<Arc<Attachment>>,
    ) -> Self {
        let learnt = Learnt::read(&config.state_dir.join(learning::LEARNT));
        Self {
            config,
            outputs,
            compiler,
            kernel,
            cluster: None,
            attachments: restored.into_iter().map(|attachment| (attachment.id.clone(), attachment)).collect(),
            adding: Vec::new(),
            removed: Vec::new(),
            learnt,
            taught: Vec::new(),
            early: Vec::new(),
            links: None,
            attached: false,
            sockets: None,
            stale: true,
            comparing: None,
            applied: None,
            was_large: false,
            pods_changed: Instant::now(),
            growing: Growing::default(),
        }
    }

    /// Runs until every sender of `pods` is gone. Leaves the kernel as it is: traffic goes on.
    pub(crate) async fn run(
        mut self,
        mut clusters: watch::Receiver<Option<Cluster>>,
        mut pods: mpsc::Receiver<PodChange>,
        mut questions: mpsc::Receiver<Question>,
        mut lessons: mpsc::Receiver<Lesson>,
    ) {
        let mut timers = [SWEEP, RETRY, DRIFT].map(|period| {
            let mut timer = interval_at(Instant::now() + period, period);
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            timer
        });
        clusters.mark_changed();
        loop {
            let [sweep, retry, drift] = &mut timers;
            let next_move = self.next_move();
            let next_part = at(self.comparing.as_ref().map(|(_, at)| *at));
            let next_growth = self.growing.next();
            tokio::select! {
                changed = clusters.changed() => match changed {
                    Ok(()) => self.know(clusters.borrow_and_update().clone()),
                    Err(_) => return,
                },
                change = pods.recv() => match change {
                    Some(change) => if !self.take(change) {
                        continue;
                    },
                    None => return,
                },
                Some(lesson) = lessons.recv() => if !self.hear(lesson) {
                    continue;
                },
                Some(question) = questions.recv() => {
                    // Whoever asked may have gone.
                    let _ = question.send(self.held());
                    continue;
                }
                () = next_move => {
                    self.move_one();
                    continue;
                }
                () = next_part => {
                    self.compare();
                    continue;
                }
                () = next_growth => {
                    self.grow();
                    continue;
                }
                _ = sweep.tick() => {
                    self.sweep();
                    if !self.expire() {
                        continue;
                    }
                }
                _ = drift.tick() => {
                    self.begin_comparison();
                    if !self.stale {
                        continue;
                    }
                }
                _ = retry.tick() => {
                    self.tick();
                    self.write_learnt();
                    if !self.stale && self.adding.is_empty() {
                        continue;
                    }
                }
            }
            while let Ok(change) = pods.try_recv() {
                self.take(change);
            }
            while let Ok(lesson) = lessons.try_recv() {
                self.hear(lesson);
            }
            self.round();
        }
    }

    fn know(&mut self, cluster: Option<Cluster>) {
        let was_fresh = self.is_fresh();
        self.cluster = cluster;
        // Only now may what nobody knows of be removed.
        self.stale |= !was_fresh && self.is_fresh();
    }

    fn is_fresh(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.fresh)
    }

    /// Returns whether there is something to do.
    fn take(&mut self, change: PodChange) -> bool {
        self.pods_changed = Instant::now();
        match change {
            PodChange::Announced => return false,
            PodChange::Attached { attachment, filtered, done } => {
                let ifindex = attachment.host_ifindex;
                let on_device = if filtered {
                    self.kernel.note_filtered(ifindex)
                } else {
                    self.kernel.attach_pod(ifindex)
                };
                if let Err(error) = on_device {
                    // The caller rolls back; a caller that has gone needs no answer.
                    let _ = done.send(Err(error.to_string()));
                    return false;
                }
                if let Some(attached) = &self.outputs.attached {
                    // Whoever listened has ended, and so will we.
                    let _ = attached.send(Arc::clone(&attachment));
                }
                let id = attachment.id.clone();
                self.attachments.insert(id.clone(), attachment);
                self.adding.push(Waiting::new(id, done));
            }
            PodChange::Detached { id, done } => {
                let ifindex = self.attachments.remove(&id).map_or(0, |attachment| attachment.host_ifindex);
                self.removed.push((ifindex, done));
            }
        }
        true
    }

    /// Compiles the newest state, carries it out, and answers.
    fn round(&mut self) {
        let Some(cluster) = self.cluster.clone() else { return self.answer() };
        let snapshot = self.with_own(&cluster.snapshot);
        let mut plan = if self.stale {
            // All is compared, whatever changed.
            self.compiler.load(&snapshot);
            None
        } else {
            Some(self.compiler.update(&snapshot))
        };
        if self.show_patterns() {
            self.compiler.load(&self.with_own(&cluster.snapshot));
            plan = None;
        }
        if self.compiler.overlay().node_addresses.is_empty() {
            warn!(node = %self.config.node, "no Node object with an InternalIP for this node yet; waiting");
            return self.answer();
        }
        match self.carry_out(plan) {
            Ok(()) => {
                sockets::end_left(&mut self.kernel, &self.attachments);
                self.applied(cluster.generation.as_deref());
            }
            Err(error) => {
                error!("the kernel does not hold what it should, trying again: {error:#}");
                self.stale = true;
            }
        }
        self.show();
        self.answer();
        if std::mem::take(&mut self.was_large) {
            memory::give_back();
        }
    }

    fn show(&self) {
        let sockets = Sockets { cgroup: self.config.cgroup.clone(), error: self.sockets.clone() };
        let view = View::new(&self.compiler, &self.kernel, !self.stale, sockets);
        self.outputs.view.send_replace(Arc::new(view));
    }

    /// Without a Plan, everything is compared.
    fn carry_out(&mut self, plan: Option<Plan>) -> anyhow::Result<()> {
        let moves = plan.iter().flat_map(Plan::steps).any(super::view::is_place);
        if self.links.is_none() || moves || plan.is_none() {
            self.ensure_node().context("setting the node's links and routes up")?;
        }
        let attachments = self.attachments.clone();
        let link = |id: &AttachmentId| attachments.get(id).map(|attachment| pod_link(attachment));
        let report = match &plan {
            None => {
                info!("comparing the kernel's tables with what is wanted");
                self.comparing = None;
                if self.is_fresh() {
                    self.kernel.sync(&self.compiler, &link)?
                } else {
                    self.kernel.sync_without_removing(&self.compiler, &link)?
                }
            }
            Some(plan) => {
                debug!(steps = plan.len(), %plan, "applying");
                self.kernel.run(plan, &link)?
            }
        };
        if report.writes() > 0 {
            info!(%report, "applied");
        }
        for failure in &report.failed {
            error!(step = failure.step, "{}", failure.error);
        }
        self.was_large = plan.is_none() || report.writes() >= MANY;
        if !self.attached {
            self.attach_all()?;
            self.attached = true;
            // Until flows have been looked through once, every new address costs a look through all of them.
            self.sweep();
        }
        self.stale = !report.is_done();
        Ok(())
    }

    /// What the kernel holds that nothing wants, and the other way round.
    fn held(&self) -> anyhow::Result<Held> {
        let Some(links) = self.links.as_ref().filter(|_| self.attached && !self.stale) else {
            bail!("the kernel does not hold yet what it should; see `sheetbend status`");
        };
        let link = |id: &AttachmentId| self.attachments.get(id).map(|attachment| pod_link(attachment));
        let pods = self.attachments.values().map(|attachment| attachment.host_ifindex);
        let devices = pods.chain([links.uplink.ifindex]).chain(links.tunnel_ifindex).collect();
        Ok(Held {
            rows: self.kernel.verify(&self.compiler.dataplane(), &link)?,
            pins: self.kernel.stray_links(&devices)?,
        })
    }

    /// Ends when the next step from filters to links may be taken; never while there is none to take.
    fn next_move(&self) -> impl Future<Output = ()> + use<> {
        let at = (self.kernel.moving() > 0).then(|| (self.pods_changed + QUIET).max(Instant::now() + MOVE));
        self::at(at)
    }

    fn move_one(&mut self) {
        match self.kernel.move_one() {
            Ok(()) if self.kernel.moving() == 0 => debug!("every pod's programs are TCX links"),
            Ok(()) => {}
            Err(error) => warn!("a pod's programs stay filters until the next start: {error}"),
        }
    }

    fn sweep(&mut self) {
        match self.kernel.sweep() {
            Ok(sweep) => debug!(?sweep, "swept flows"),
            Err(error) => warn!("sweeping flows: {error}"),
        }
    }

    fn tick(&mut self) {
        if let Err(error) = self.kernel.tick() {
            warn!("removing what is out of use: {error}");
        }
    }
}

/// When it is time; never without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn pod_link(attachment: &Attachment) -> PodLink {
    let shaped = attachment.bandwidth.ingress.is_some();
    PodLink { mac: attachment.pod_mac, mtu: attachment.mtu, shaped }
}
