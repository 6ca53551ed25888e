//! Why a packet may pass or not: what each policy of both ends says, in the order of evaluation.
//!
//! The verdict and the rule that decides are read from the rows that the kernel is given; the walk through the policies
//! explains them, and says where it does not come to the same end.

mod miss;
mod walk;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use sheetbend_model::plan::Ruling;
use sheetbend_model::state::{
    Action, Attachment, AttachmentId, ClusterNetworkPolicy, NetworkPolicy, Pod, Snapshot,
};
use sheetbend_model::types::{AddrKey, Direction, Mac, NodeName, ObjectKey, Protocol};

use super::judge::Question;
use super::{PolicyTables, resolved, tier};
use crate::changes::{Changes, in_namespace};
use crate::compiler::Counters;
pub use miss::{Miss, Whose};
pub(crate) use walk::rules_of;
use walk::{Asked, Walk};

/// The first packet of a flow, behind Service translation and before SNAT.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// Who sends.
    pub source: End<'a>,
    /// Who receives.
    pub destination: End<'a>,
    /// `None` = ICMP echo.
    pub protocol: Option<Protocol>,
    /// The destination port; not read for ICMP.
    pub port: u16,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Its address.
    pub addr: IpAddr,
    /// The pod; `None` = whoever has the address.
    pub pod: Option<&'a ObjectKey>,
    /// The node whose own stack makes the packet: a process of the node, or a hostNetwork pod.
    pub node: Option<&'a NodeName>,
}

/// The staged policies that would select one of `pods` if they were enforced, as a drop would name them.
pub fn staged_selecting<'a>(
    snapshot: &Snapshot,
    pods: impl IntoIterator<Item = &'a ObjectKey>,
) -> BTreeSet<ObjectKey> {
    let staged: BTreeSet<ObjectKey> = snapshot.staged.keys().collect();
    if staged.is_empty() {
        return staged;
    }
    let cluster = resolved(&snapshot.with_staged());
    let mut selecting = BTreeSet::new();
    for pod in pods.into_iter().filter_map(|key| cluster.pods.get(key)).filter(|pod| pod.is_peer()) {
        let own = in_namespace(&cluster.policies, &pod.key.namespace);
        let own = own.filter(|(_, policy)| policy.pod_selector.matches(&pod.labels));
        selecting.extend(own.map(|(key, _)| key.clone()));
        let names = tier::selecting(&cluster, pod).into_iter();
        selecting.extend(names.map(ObjectKey::cluster_scoped));
    }
    staged.intersection(&selecting).cloned().collect()
}

/// What both ends say of a flow.
#[derive(Clone, Debug)]
pub struct Explanation<'a> {
    /// The sender's end.
    pub egress: Judgement<'a>,
    /// The receiver's.
    pub ingress: Judgement<'a>,
}

impl Explanation<'_> {
    /// Whether both ends let it pass.
    pub fn allows(&self) -> bool {
        self.egress.allows() && self.ingress.allows()
    }
}

/// What one end says of a flow.
#[derive(Clone, Debug)]
pub struct Judgement<'a> {
    /// Egress of the sender or ingress of the receiver.
    pub direction: Direction,
    /// The pod whose policies are asked.
    pub subject: Option<&'a Pod>,
    /// The pod at the other end.
    pub peer: Option<&'a Pod>,
    /// What comes of it.
    pub outcome: Outcome,
    /// It is denied, and passes: the pod is in audit.
    pub audited: bool,
    /// The policies of this direction that select the pod, in the order of evaluation.
    pub consulted: Vec<Consulted<'a>>,
    /// Of a default deny, the rule that would allow it and is nearest to a match, if there is any such rule.
    pub nearest: Option<Nearest>,
    /// Whether the policies, read one by one, say what the tables say. Anything else is our fault.
    pub agrees: bool,
}

impl Judgement<'_> {
    /// Whether it passes this end.
    pub fn allows(&self) -> bool {
        self.audited || self.outcome.allows()
    }
}

/// What comes of a flow at one end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The end is no pod with policies of its own: the world, a node, a hostNetwork pod.
    NotJudged,
    /// A pod always reaches itself.
    Itself,
    /// A node always reaches its own pods.
    OwnNode,
    /// The pod drops everything until its policy is in place.
    NotReady,
    /// What the tables say.
    Ruled(Ruling),
}

impl Outcome {
    /// Whether it may pass; in audit it does anyway.
    pub fn allows(&self) -> bool {
        match self {
            Outcome::NotJudged | Outcome::Itself | Outcome::OwnNode => true,
            Outcome::NotReady => false,
            Outcome::Ruled(ruling) => ruling.allows,
        }
    }
}

/// A policy that selects the pod, and its rules of the direction.
#[derive(Clone, Debug)]
pub struct Consulted<'a> {
    /// The policy.
    pub policy: Policy<'a>,
    /// Its rules, in order.
    pub rules: Vec<Step<'a>>,
}

/// A policy of either kind.
#[derive(Clone, Copy, Debug)]
pub enum Policy<'a> {
    /// With an order: a ClusterNetworkPolicy, or one of another kind in its form.
    Cluster(&'a ClusterNetworkPolicy),
    /// Of a namespace.
    Network(&'a NetworkPolicy),
}

impl Policy<'_> {
    /// As a drop names it.
    pub fn key(&self) -> ObjectKey {
        match self {
            Policy::Cluster(policy) => policy.key(),
            Policy::Network(policy) => policy.key.clone(),
        }
    }
}

/// A rule, and what it makes of the packet.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// Index in `spec.ingress` or `spec.egress`, from 0.
    pub rule: u32,
    /// Its name, which only ClusterNetworkPolicies have; may be empty.
    pub name: &'a str,
    /// What it does with what it matches. NetworkPolicies accept.
    pub action: Action,
    /// What it makes of the packet.
    pub effect: Effect,
}

/// What a rule makes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It matches and decides.
    Decides,
    /// It matches, and another rule that allows the same is named.
    Matches,
    /// It matches and leaves the decision to what comes behind its tier.
    Passes,
    /// It does not match, by this; of several peers or ports by the nearest.
    Missed(Vec<Miss>),
    /// It was not asked: a rule before it ended the tier, or another stage decided.
    NotAsked,
}

/// Where a rule is in [`Judgement::consulted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Index of the policy.
    pub policy: usize,
    /// Index of the rule.
    pub rule: usize,
}

/// Explains flows of a Snapshot. Building it costs a compile of the policies of the pods that are asked for.
#[derive(Debug)]
pub struct Explainer {
    pub(super) snapshot: Snapshot,
    pub(super) tables: PolicyTables,
}

impl Explainer {
    /// For flows from and to `subjects`, on whichever node they are. Where pods share an address, all of them belong here.
    pub fn new<'a>(snapshot: &Snapshot, subjects: impl IntoIterator<Item = &'a ObjectKey>) -> Self {
        let subjects: BTreeSet<&ObjectKey> = subjects.into_iter().collect();
        let mut snapshot = snapshot.clone();
        let mut attached = BTreeSet::new();
        let mut attachments = OrdMap::new();
        for (id, attachment) in &snapshot.attachments {
            let Some(key) = &attachment.pod else { continue };
            // Of other pods only the addresses count, and those mostly stand in their status too.
            let known = snapshot
                .pods
                .get(key)
                .is_some_and(|pod| attachment.addresses.iter().all(|addr| pod.addresses.contains(*addr)));
            if subjects.contains(key) {
                attached.insert(key.clone());
            } else if known {
                continue;
            }
            attachments.insert(id.clone(), attachment.clone());
        }
        for key in subjects.into_iter().filter(|key| !attached.contains(*key)) {
            if snapshot.pods.contains_key(key) {
                let attachment = stand_in(key);
                attachments.insert(attachment.id.clone(), attachment.into());
            }
        }
        snapshot.attachments = attachments;
        let mut tables = PolicyTables::default();
        let before = Snapshot::default();
        let changes = Changes::between(&before, &snapshot);
        tables.update(&before, &snapshot, &changes, &mut Counters::default());
        tables.sweep();
        Self { snapshot, tables }
    }

    /// What both ends say of `flow`.
    pub fn explain(&self, flow: &Flow<'_>) -> Explanation<'_> {
        let (source, destination) = (self.pod(&flow.source), self.pod(&flow.destination));
        let ends = [(Direction::Egress, source, destination), (Direction::Ingress, destination, source)];
        let [egress, ingress] = ends.map(|(direction, subject, peer)| {
            let peer_addr = match direction {
                Direction::Egress => flow.destination.addr,
                Direction::Ingress => flow.source.addr,
            };
            let asked = Asked {
                snapshot: &self.snapshot,
                direction,
                peer,
                peer_addr,
                destination,
                protocol: flow.protocol,
                port: flow.port,
            };
            let own_node = direction == Direction::Ingress
                && flow.source.node.is_some()
                && flow.source.node == subject.and_then(|pod| pod.node.as_ref());
            self.judge(subject, &asked, own_node)
        });
        Explanation { egress, ingress }
    }

    /// The pod that counts as having `addr`.
    pub fn owner(&self, addr: IpAddr) -> Option<&Arc<Pod>> {
        self.tables.addresses.owner(&self.snapshot, &self.tables.locals, AddrKey::new(addr))
    }

    fn pod(&self, end: &End<'_>) -> Option<&Pod> {
        match end.pod {
            Some(key) => self.snapshot.pods.get(key).filter(|pod| pod.is_peer()).map(AsRef::as_ref),
            None if end.node.is_some() => None,
            None => self.owner(end.addr).map(AsRef::as_ref),
        }
    }

    fn judge<'a>(&'a self, subject: Option<&'a Pod>, asked: &Asked<'a>, own_node: bool) -> Judgement<'a> {
        let mut judgement = Judgement {
            direction: asked.direction,
            subject,
            peer: asked.peer,
            outcome: Outcome::NotJudged,
            audited: false,
            consulted: Vec::new(),
            nearest: None,
            agrees: true,
        };
        let Some(pod) = subject else { return judgement };
        if asked.peer.is_some_and(|peer| peer.key == pod.key) {
            judgement.outcome = Outcome::Itself;
            return judgement;
        }
        if own_node {
            judgement.outcome = Outcome::OwnNode;
            return judgement;
        }
        let question = Question {
            direction: asked.direction,
            peer: asked.peer_addr,
            protocol: asked.protocol,
            port: asked.port,
        };
        // What is left of an earlier pod of the name is closed.
        let attachments = self.tables.locals.of_pod(&pod.key);
        let Some(ruling) = attachments.iter().find_map(|id| self.tables.ruling(id, &question)) else {
            judgement.outcome = Outcome::NotReady;
            return judgement;
        };
        let mut walk = Walk::new(pod, asked);
        judgement.agrees = walk.agrees(&ruling);
        match &ruling.origin {
            Some(origin) => walk.name(origin),
            None if !ruling.allows => judgement.nearest = walk.nearest(),
            None => {}
        }
        judgement.audited = !ruling.allows && self.snapshot.audits(&pod.key.namespace);
        judgement.outcome = Outcome::Ruled(ruling);
        judgement.consulted = walk.consulted;
        judgement
    }
}

/// An attachment for a pod of another node. It has no addresses, so that it claims none.
fn stand_in(pod: &ObjectKey) -> Attachment {
    Attachment {
        // No container runtime gives such an id (CNI 1.1.0, CNI_CONTAINERID: alphanumeric first).
        id: AttachmentId { container_id: format!(".{pod}").into(), ifname: "eth0".into() },
        pod: Some(pod.clone()),
        pod_uid: None,
        netns: "".into(),
        network: Default::default(),
        addresses: Vec::new(),
        host_ifname: "".into(),
        host_ifindex: 0,
        host_mac: Mac::default(),
        pod_mac: Mac::default(),
        mtu: 0,
        bandwidth: Default::default(),
    }
}
