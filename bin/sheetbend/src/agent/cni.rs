//! The agent's side of CNI: leases, attachments, veths, and the core that puts policy in place, in this order.
//!
//! ADD: lease → attachment file → veth (closed) → attachment file with its interface index → core → veth opened →
//! answer. DEL goes backwards. A crash anywhere leaves what the next start finds in the files and puts right.

mod attachments;
mod locks;
mod queue;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::IpNet;
use sheetbend_apply::netlink::{self, CheckFailure, PodPrograms};
use sheetbend_apply::store::fail_point;
use sheetbend_intake::cni::Handler;
use sheetbend_intake::cni::wire::{
    Add, Added, AttachmentRef, Check, CniError, Gc, Interface, PodAddress, Request, Response, code,
};
use sheetbend_model::state::{Attachment, AttachmentId};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use attachments::{Attachments, spec};
use locks::Locks;

/// The kernel does one change of links at a time (rtnl): more threads than this only wait there.
const KERNEL_THREADS: usize = 4;
/// How long a DEL waits for the core before it goes on.
const DETACH_WAIT: Duration = Duration::from_secs(10);
/// Between two looks for deletions that a plugin queued while nobody listened.
const QUEUE_PERIOD: Duration = Duration::from_secs(5);

/// What the core must hear of.
pub(crate) enum PodChange {
    /// An ADD begins: what can wait shall wait.
    Announced,
    /// A veth is there, closed. The answer comes when the pod's policy is in place.
    Attached {
        /// The attachment, with its interface index.
        attachment: Arc<Attachment>,
        /// The pod's programs are on it, as filters.
        filtered: bool,
        /// Why not, in words for people.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// A veth goes, after the answer.
    Detached {
        /// The attachment.
        id: AttachmentId,
        /// The core has forgotten it.
        done: oneshot::Sender<()>,
    },
}

/// What ADD needs to know of the node; known when the node is ready.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    /// Name of the device that carries the node's address.
    pub(crate) uplink: String,
    /// Maximum transmission unit of pods, bytes.
    pub(crate) pod_mtu: u32,
    /// What the node itself uses towards its pods, at most one address per family.
    pub(crate) router_addresses: Vec<IpAddr>,
    /// The pods' programs.
    pub(crate) programs: PodPrograms,
}

/// What the configuration says.
#[derive(Clone, Debug)]
pub(crate) struct CniConfig {
    /// Leases and attachments are below it.
    pub(crate) state_dir: PathBuf,
    /// Queued deletions are below it.
    pub(crate) run_dir: PathBuf,
    /// This node's pod ranges.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// How long a released address rests.
    pub(crate) reuse_delay: Duration,
}

/// Serves CNI requests. Clones share their state.
#[derive(Clone)]
pub(crate) struct CniHandler {
    shared: Arc<Shared>,
}

struct Shared {
    run_dir: PathBuf,
    attachments: Attachments,
    core: mpsc::Sender<PodChange>,
    node: watch::Receiver<Option<NodeFacts>>,
    locks: Locks,
    kernel: Semaphore,
}

/// Reads what an earlier agent left, puts it right, and returns the handler with the attachments that live.
///
/// # Errors
/// The state directory cannot be used, or the kernel cannot be asked.
pub(crate) fn open(
    config: CniConfig,
    core: mpsc::Sender<PodChange>,
    node: watch::Receiver<Option<NodeFacts>>,
) -> anyhow::Result<(CniHandler, Vec<Arc<Attachment>>)> {
    let queued = queue::read(&config.run_dir)?;
    let attachments = Attachments::open(&config, &queued.iter().map(|(_, id)| id.clone()).collect())?;
    for (path, _) in queued {
        queue::remove(&path);
    }
    let restored = attachments.all();
    let shared = Arc::new(Shared {
        run_dir: config.run_dir,
        attachments,
        core,
        node,
        locks: Locks::default(),
        kernel: Semaphore::new(KERNEL_THREADS),
    });
    tokio::spawn(work_off_queue(Arc::downgrade(&shared)));
    Ok((CniHandler { shared }, restored))
}

/// Deletions can be queued at any time: a plugin may have looked in the moment between two agents.
async fn work_off_queue(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(QUEUE_PERIOD).await;
        let Some(shared) = shared.upgrade() else { return };
        match queue::read(&shared.run_dir) {
            Ok(queued) => {
                for (_, id) in queued {
                    let _lock = shared.locks.lock(&id).await;
                    shared.work_off(&id).await;
                }
            }
            Err(error) => warn!("cannot read queued deletions: {error:#}"),
        }
    }
}

impl CniHandler {
    /// Opens the veths of restored attachments that a crash left closed. To be called when the core has put the
    /// policy of what [`open`] returned in place.
    pub(crate) fn activate_restored(&self) {
        let sources =
            self.shared.node.borrow().clone().map(|facts| facts.router_addresses).unwrap_or_default();
        if let Err(error) = tokio::task::block_in_place(|| self.shared.attachments.activate_all(&sources)) {
            warn!("cannot bring a restored pod's link up: {error:#}");
        }
    }
}

impl Handler for CniHandler {
    async fn handle(&self, request: Request) -> Response {
        let shared = Arc::clone(&self.shared);
        let result = match request {
            Request::Add(add) => shared.add(add).await.map(Response::Added),
            Request::Del(attachment) => shared.del(&id_of(&attachment)).await.map(|()| Response::Done),
            Request::Check(check) => shared.check(check).await.map(|()| Response::Done),
            Request::Gc(gc) => shared.gc(gc).await.map(|()| Response::Done),
            Request::Status => shared.facts(code::NOT_AVAILABLE).map(|_| Response::Done),
        };
        result.unwrap_or_else(Response::Error)
    }
}

fn id_of(attachment: &AttachmentRef) -> AttachmentId {
    AttachmentId {
        container_id: attachment.container_id.as_str().into(),
        ifname: attachment.ifname.as_str().into(),
    }
}

fn kernel_error(what: &str, error: &anyhow::Error) -> CniError {
    CniError::new(code::KERNEL, format!("{what}: {error:#}"), "")
}

impl Shared {
    fn facts(&self, code: u32) -> Result<NodeFacts, CniError> {
        self.node.borrow().clone().ok_or_else(|| {
            CniError::new(
                code,
                "the agent is starting",
                "it has not read the cluster's objects yet; see its log",
            )
        })
    }

    /// Runs blocking work on the kernel and the files.
    async fn kernel<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Attachments) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let _permit = self.kernel.acquire().await.context("the agent is ending")?;
        let shared = Arc::clone(self);
        spawn_blocking(move || work(&shared.attachments)).await.context("the thread that did it died")?
    }

    async fn add(self: &Arc<Self>, add: Add) -> Result<Added, CniError> {
        let facts = self.facts(code::TRY_AGAIN)?;
        let id = id_of(&add.attachment);
        let _lock = self.locks.lock(&id).await;
        self.work_off(&id).await;
        if let Some(found) = self.attachments.get(&id) {
            let whose = found.pod.as_ref().map_or_else(|| found.netns.to_string(), ToString::to_string);
            return Err(CniError::new(
                code::EXISTS,
                format!("container {} has interface {} already ({whose})", id.container_id, id.ifname),
                "a runtime must DEL before it ADDs again (CNI 1.1.0, ADD)",
            ));
        }
        let start = Instant::now();
        // A core that is too busy to hear it is not idle.
        let _ = self.core.try_send(PodChange::Announced);
        let reserved = self.attachments.reserve(&add, &facts)?;
        let (made, known) = (Arc::clone(&reserved), facts.clone());
        let built = self.kernel(move |attachments| attachments.build(&made, known)).await;
        let (attachment, filtered) = match built {
            Ok(built) => built,
            Err(error) => {
                let refused = netns_error(&error, &reserved)
                    .unwrap_or_else(|| kernel_error("cannot make the pod's interface", &error));
                self.dismantle(&id).await.unwrap_or_else(|error| warn!("rolling back {id:?}: {error}"));
                return Err(refused);
            }
        };
        let built = start.elapsed();
        match self.open_to_traffic(&attachment, filtered, facts.router_addresses).await {
            Ok(policy) => {
                info!(
                    pod = %name_of(&attachment), addresses = ?attachment.addresses, link = %attachment.host_ifname,
                    took = ?start.elapsed(), link_took = ?built, policy_took = ?policy, "attached"
                );
                Ok(added(&attachment))
            }
            Err(refused) => {
                self.dismantle(&id).await.unwrap_or_else(|error| warn!("rolling back {id:?}: {error}"));
                Err(refused)
            }
        }
    }

    /// Waits for the policy, then brings the veth up. Returns how long the policy took.
    async fn open_to_traffic(
        self: &Arc<Self>,
        attachment: &Arc<Attachment>,
        filtered: bool,
        sources: Vec<IpAddr>,
    ) -> Result<Duration, CniError> {
        let start = Instant::now();
        let (done, answer) = oneshot::channel();
        let ending =
            |_| CniError::new(code::TRY_AGAIN, "the agent is ending", "the next one serves this request");
        let change = PodChange::Attached { attachment: Arc::clone(attachment), filtered, done };
        self.core.send(change).await.map_err(|_| ending(()))?;
        let told = answer.await.map_err(|_| ending(()))?;
        told.map_err(|why| {
            CniError::new(
                code::TRY_AGAIN,
                format!("the policy of {} is not in place: {why}", name_of(attachment)),
                "",
            )
        })?;
        let policy = start.elapsed();
        fail_point("add-core");
        let spec = spec(attachment, sources);
        let index = attachment.host_ifindex;
        self.kernel(move |_| Ok(netlink::activate(&spec, index)?))
            .await
            .map_err(|error| kernel_error("cannot bring the pod's link up", &error))?;
        fail_point("add-activated");
        Ok(policy)
    }

    async fn del(self: &Arc<Self>, id: &AttachmentId) -> Result<(), CniError> {
        let _lock = self.locks.lock(id).await;
        self.dismantle(id).await?;
        queue::forget(&self.run_dir, id);
        Ok(())
    }

    /// Carries out a queued deletion of `id`, if there is one. The caller holds the lock.
    async fn work_off(self: &Arc<Self>, id: &AttachmentId) {
        if !queue::contains(&self.run_dir, id) {
            return;
        }
        match self.dismantle(id).await {
            Ok(()) => queue::forget(&self.run_dir, id),
            Err(error) => warn!("queued deletion of {id:?}: {error}"),
        }
    }

    /// Takes an attachment down, whatever of it is there. The caller holds the lock.
    async fn dismantle(self: &Arc<Self>, id: &AttachmentId) -> Result<(), CniError> {
        let Some(attachment) = self.attachments.get(id) else { return Ok(()) };
        let (done, answer) = oneshot::channel();
        if self.core.send(PodChange::Detached { id: id.clone(), done }).await.is_err() {
            return Err(CniError::new(
                code::TRY_AGAIN,
                "the agent is ending",
                "the next one serves this request",
            ));
        }
        if tokio::time::timeout(DETACH_WAIT, answer).await.is_err() {
            warn!(pod = %name_of(&attachment), "the core has not answered within {DETACH_WAIT:?}; removing the link anyway");
        }
        fail_point("del-core");
        self.kernel({
            let attachment = Arc::clone(&attachment);
            move |attachments| attachments.remove(&attachment)
        })
        .await
        .map_err(|error| kernel_error("cannot remove the pod's interface", &error))?;
        info!(pod = %name_of(&attachment), addresses = ?attachment.addresses, "detached");
        Ok(())
    }

    async fn check(self: &Arc<Self>, check: Check) -> Result<(), CniError> {
        let id = id_of(&check.attachment);
        let _lock = self.locks.lock(&id).await;
        let differs = |what: String| CniError::new(code::CHECK_FAILED, what, "DEL and ADD make it new");
        let Some(attachment) = self.attachments.get(&id) else {
            let what = format!("container {} has no interface {} here", id.container_id, id.ifname);
            return Err(CniError::new(code::UNKNOWN_CONTAINER, what, ""));
        };
        let ours: BTreeSet<IpAddr> = attachment.addresses.iter().copied().collect();
        if check.addresses != ours {
            return Err(differs(format!(
                "prevResult has the addresses {:?}, the pod {ours:?}",
                check.addresses
            )));
        }
        if let Some(mac) = check.mac.filter(|mac| *mac != attachment.pod_mac.to_string()) {
            return Err(differs(format!(
                "prevResult has the Ethernet address {mac}, the pod {}",
                attachment.pod_mac
            )));
        }
        let mut spec = spec(&attachment, Vec::new());
        spec.netns = check.netns.into();
        self.kernel(move |_| match netlink::check(&spec) {
            Err(CheckFailure::Differs(what)) => Ok(Some(what)),
            Err(CheckFailure::Netlink(error)) => Err(error.into()),
            Ok(()) => Ok(None),
        })
        .await
        .map_err(|error| kernel_error("cannot look at the pod's interface", &error))?
        .map_or(Ok(()), |what| Err(differs(what)))
    }

    async fn gc(self: &Arc<Self>, gc: Gc) -> Result<(), CniError> {
        let valid: BTreeSet<AttachmentId> = gc.valid.iter().map(id_of).collect();
        let mut failure = Ok(());
        for attachment in self.attachments.all() {
            if !valid.contains(&attachment.id) {
                info!(pod = %name_of(&attachment), "no longer valid, as the runtime says");
                let removed = self.del(&attachment.id).await;
                failure = failure.and(removed);
            }
        }
        failure
    }
}

/// The errors that the runtime made: CNI has codes of their own for them.
fn netns_error(error: &anyhow::Error, attachment: &Attachment) -> Option<CniError> {
    let cause = error.downcast_ref::<netlink::NetlinkError>()?;
    if let netlink::NetlinkError::Namespace { .. } = cause
        && !std::path::Path::new(&*attachment.netns).exists()
    {
        return Some(CniError::new(code::UNKNOWN_CONTAINER, cause.to_string(), ""));
    }
    if let netlink::NetlinkError::NodeNamespace { .. } = cause {
        return Some(CniError::new(code::INVALID_ENVIRONMENT, format!("CNI_NETNS: {cause}"), ""));
    }
    None
}

fn name_of(attachment: &Attachment) -> String {
    match &attachment.pod {
        Some(pod) => pod.to_string(),
        None => format!("container {}", attachment.id.container_id),
    }
}

fn added(attachment: &Attachment) -> Added {
    let end = |name: &str, mac: sheetbend_model::types::Mac| Interface {
        name: name.to_owned(),
        mac: mac.to_string(),
        mtu: attachment.mtu,
    };
    let gateway = |addr: &IpAddr| match addr {
        IpAddr::V4(_) => IpAddr::from(netlink::GATEWAY_IPV4),
        IpAddr::V6(_) => IpAddr::from(netlink::GATEWAY_IPV6),
    };
    Added {
        host: end(&attachment.host_ifname, attachment.host_mac),
        pod: end(&attachment.id.ifname, attachment.pod_mac),
        addresses: attachment
            .addresses
            .iter()
            .map(|addr| PodAddress { address: *addr, gateway: gateway(addr) })
            .collect(),
    }
}
