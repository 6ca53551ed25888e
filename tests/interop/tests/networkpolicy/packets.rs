//! Random packets, looked up in a cluster that an API server could hold.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{Namespace, NetworkPolicy, Peer, Snapshot};
use sheetbend_model::types::{Direction, Family, ObjectKey, Protocol};
use sheetbend_oracle::{Decision, Flow, L4, networkpolicy, pod_at};
use sheetbend_testkit::generators::packet::{Packet as Drawn, PacketEnd};
use sheetbend_testkit::generators::pools;

use crate::cyclonus::Verdict;

/// One end of a packet.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) addr: IpAddr,
    /// The pod there, a hostNetwork pod too; `None` = nobody in the cluster, or a node.
    pub(crate) pod: Option<ObjectKey>,
}

/// Both ends.
#[derive(Clone, Debug)]
pub(crate) struct Ends {
    pub(crate) source: End,
    pub(crate) destination: End,
}

/// The first packet of a flow.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) ends: Ends,
    /// `None` = ICMP echo.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) port: u16,
}

impl Packet {
    /// `drawn`, if `cluster` has both of its ends in one family.
    pub(crate) fn of(cluster: &Snapshot, drawn: &Drawn) -> Option<Self> {
        let family = match (drawn.source, drawn.destination) {
            (PacketEnd::Address(a), PacketEnd::Address(b)) if Family::of(a) != Family::of(b) => return None,
            (PacketEnd::Address(addr), _) | (_, PacketEnd::Address(addr)) => Family::of(addr),
            _ => drawn.family,
        };
        let source = end(cluster, drawn.source, family)?;
        let destination = end(cluster, drawn.destination, family)?;
        let ports = destination.pod.as_ref().and_then(|key| cluster.pods.get(key));
        let ports = ports.map_or(&[][..], |pod| &pod.ports);
        let (protocol, port) = match drawn.declared {
            Some(number) if !ports.is_empty() => {
                let port = &ports[number % ports.len()];
                (Some(port.protocol), port.port.get())
            }
            _ => (drawn.protocol, drawn.port),
        };
        Some(Self { ends: Ends { source, destination }, protocol, port })
    }

    /// What the oracle says.
    pub(crate) fn judge(&self, cluster: &Snapshot) -> Verdict {
        let Ends { source, destination } = &self.ends;
        let judgement = networkpolicy(
            cluster,
            &Flow {
                source: source.addr,
                source_pod: source.pod.as_ref(),
                destination: destination.addr,
                destination_pod: destination.pod.as_ref(),
                protocol: self.protocol.map_or(L4::Icmp, L4::from),
                port: self.port,
            },
        );
        let allows = |decision: &Decision| decision.allows();
        Verdict { egress: allows(&judgement.egress), ingress: allows(&judgement.ingress) }
    }
}

/// A pod that has ended sends nothing: its address is whoever has it now.
fn end(cluster: &Snapshot, end: PacketEnd, family: Family) -> Option<End> {
    let known = match end {
        PacketEnd::Pod(index) => Some(cluster.pods.get(&pools::pod_key(index))?),
        PacketEnd::Address(_) => None,
    };
    let addr = match (end, known) {
        (PacketEnd::Address(addr), _) => addr,
        (PacketEnd::Pod(_), pod) => pod?.address(family)?,
    };
    let lives = known.filter(|pod| !pod.phase.is_terminal());
    let pod = lives.or_else(|| pod_at(cluster, addr)).map(|pod| pod.key.clone());
    Some(End { addr, pod })
}

/// The Namespaces, Pods and NetworkPolicies of `cluster` as an API server could hold them.
pub(crate) fn as_held(cluster: &Snapshot) -> Snapshot {
    let mut held = Snapshot { pods: cluster.pods.clone(), ..Snapshot::default() };
    held.namespaces = cluster.namespaces.clone();
    for name in pools::NAMESPACES {
        let name: Arc<str> = name.into();
        let label = (Arc::from("kubernetes.io/metadata.name"), Arc::clone(&name));
        let new = || Arc::new(Namespace { name: Arc::clone(&name), labels: [label].into(), audit: false });
        if !held.namespaces.contains_key(&name) {
            held.namespaces.insert(Arc::clone(&name), new());
        }
    }
    for (key, policy) in &cluster.policies {
        // Never without policyTypes.
        if policy.ingress.is_some() || policy.egress.is_some() {
            let mut policy = NetworkPolicy::clone(policy);
            for direction in [Direction::Ingress, Direction::Egress] {
                strict_excepts(&mut policy, direction);
            }
            held.policies.insert(key.clone(), policy.into());
        }
    }
    held
}

/// ValidateIPBlock: `except` must be a strict subset of `cidr`.
fn strict_excepts(policy: &mut NetworkPolicy, direction: Direction) {
    let rules = match direction {
        Direction::Ingress => &mut policy.ingress,
        Direction::Egress => &mut policy.egress,
    };
    for peer in rules.iter_mut().flatten().flat_map(|rule| &mut rule.peers) {
        if let Peer::Block(block) = peer {
            block.except.retain(|except| *except != block.cidr);
        }
    }
}
