//! What a probe through real sockets should see: the lab's matrix compares with this.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{Pod, Service, Snapshot, TrafficPolicy};
use sheetbend_model::types::{Direction, Family, NodeName, ObjectKey};

use crate::service::{At, Candidate, Found};
use crate::{ByTier, Decision, Flow, L4, Unserved, networkpolicy, pod_at, service, unserved};

/// Somebody who sends or answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A pod. A hostNetwork pod is its node.
    Pod(ObjectKey),
    /// A process of the node's own.
    Node(NodeName),
    /// Somebody outside the cluster, by address.
    World(IpAddr),
}

/// One attempt to reach somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who tries.
    pub source: End,
    /// Which address it tries: a pod's, a Service's, a node's or the world's. It decides the family.
    pub destination: IpAddr,
    /// With what.
    pub protocol: L4,
    /// The destination port; not read for ICMP.
    pub port: u16,
}

/// What must come of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One of these answers, sorted.
    Allow {
        /// Who may answer.
        by: Vec<End>,
    },
    /// No answer, and a drop that names this decision.
    Deny {
        /// The policies that isolate the pod in `direction`, sorted.
        selected_by: Vec<ObjectKey>,
        /// Whose policy denies: egress of the source, else ingress of the destination.
        direction: Direction,
    },
    /// No answer, and a drop that names this rule of a ClusterNetworkPolicy.
    DenyByRule {
        /// The policy.
        policy: ObjectKey,
        /// Index of the rule in its direction.
        rule: u32,
        /// Whose policy denies.
        direction: Direction,
    },
    /// No answer, and a drop that is not of a policy: a traffic policy Local leaves no endpoint, or no Service has the
    /// address.
    Drop,
    /// RST or ICMP: nobody listens, the Service has no endpoints or no such port, or no pod has the address.
    Refuse,
    /// A Service whose backends differ: each flow sees one of these, by the backend chosen.
    OneOf(Vec<Expected>),
    /// Nothing is promised yet: a Service reached from outside the pods, or a family that the source does not have.
    Unspecified,
}

/// What must come of `probe`. `listens` says whether somebody answers on a port once packets arrive; it is not asked
/// for ICMP, which everybody answers.
pub fn expect(snapshot: &Snapshot, probe: &Probe, listens: &dyn Fn(&End, L4, u16) -> bool) -> Expected {
    let family = Family::of(probe.destination.to_canonical());
    let Some(source) = Sender::of(snapshot, &probe.source, family) else { return Expected::Unspecified };
    let Some(entry) = frontend(snapshot, &source, probe) else {
        return direct(snapshot, &source, (probe.destination, None, probe.port), probe.protocol, listens);
    };
    if source.pod.is_none() && source.node.is_some() {
        return Expected::Unspecified;
    }
    if entry.found.is_dropped {
        return Expected::Drop;
    }
    let outcomes = entry
        .found
        .candidates
        .iter()
        .map(|candidate| {
            let sender = entry.masquerader(snapshot, candidate, family).unwrap_or(source);
            let to = (candidate.addr, candidate.pod.as_ref(), candidate.port.get());
            direct(snapshot, &sender, to, probe.protocol, listens)
        })
        .collect();
    merge(outcomes)
}

/// What a probe finds at the address of a Service or node.
struct Entry<'a> {
    found: Found,
    /// The node that translates, unless it is the client's own.
    elsewhere: Option<&'a NodeName>,
}

impl<'a> Entry<'a> {
    /// The node in place of the client: towards a backend on another node than the one that translates.
    fn masquerader(
        &self,
        snapshot: &'a Snapshot,
        candidate: &Candidate,
        family: Family,
    ) -> Option<Sender<'a>> {
        let node = self.elsewhere?;
        let pod = candidate.pod.as_ref().and_then(|key| snapshot.pods.get(key));
        let is_here = pod.is_some_and(|pod| pod.node.as_ref() == Some(node));
        if is_here { None } else { Sender::of_node(snapshot, node, family) }
    }
}

/// What the probe's address leads to. The client's own node translates cluster and external addresses, and every node's
/// address as long as it means the same everywhere; else the node whose address it is does.
fn frontend<'a>(snapshot: &'a Snapshot, source: &Sender<'a>, probe: &Probe) -> Option<Entry<'a>> {
    let protocol = probe.protocol.protocol()?;
    let addr = probe.destination.to_canonical();
    let any = match Family::of(addr) {
        Family::IPv4 => IpAddr::from([0; 4]),
        Family::IPv6 => IpAddr::from([0; 16]),
    };
    let of = |at, addr| service(snapshot, at, addr, protocol, probe.port);
    let client = source.node.or_else(|| snapshot.pods.get(source.pod?)?.node.as_ref());
    let owner = snapshot.nodes.values().find(|node| node.addresses.contains(&addr)).map(|node| &node.name);
    let inside = |found| Entry { found, elsewhere: None };
    let Some(node) = owner else {
        return client.and_then(|client| of(At::ClientNode(client), addr)).map(inside);
    };
    if client == Some(node) {
        let at = At::ClientNode(node);
        return of(at, addr).or_else(|| of(at, any)).map(inside);
    }
    let entry = of(At::Entry(node), addr).or_else(|| of(At::Entry(node), any));
    let Some(client) = client else { return entry.map(|found| Entry { found, elsewhere: Some(node) }) };
    // A node port with externalTrafficPolicy Cluster means the same at each node, so the client's own translates it.
    let everywhere = of(At::ClientNode(client), any)
        .filter(|found| snapshot.services.get(&found.owner).is_some_and(is_same_everywhere));
    everywhere.map(inside).or_else(|| entry.map(|found| Entry { found, elsewhere: Some(node) }))
}

fn is_same_everywhere(service: &Arc<Service>) -> bool {
    service.external_policy == TrafficPolicy::Cluster
}

/// Who sends, with what address, and whose node's stack makes the packet.
#[derive(Clone, Copy)]
struct Sender<'a> {
    pod: Option<&'a ObjectKey>,
    node: Option<&'a NodeName>,
    addr: IpAddr,
}

impl<'a> Sender<'a> {
    fn of(snapshot: &'a Snapshot, end: &'a End, family: Family) -> Option<Self> {
        match end {
            End::World(addr) => {
                (Family::of(*addr) == family).then_some(Self { pod: None, node: None, addr: *addr })
            }
            End::Node(node) => Self::of_node(snapshot, node, family),
            End::Pod(key) => {
                let pod = snapshot.pods.get(key)?;
                if pod.host_network {
                    return Self::of_node(snapshot, pod.node.as_ref()?, family);
                }
                Some(Self { pod: Some(&pod.key), node: None, addr: pod.address(family)? })
            }
        }
    }

    fn of_node(snapshot: &Snapshot, node: &'a NodeName, family: Family) -> Option<Self> {
        let addr = snapshot.nodes.get(node)?.address(family)?;
        Some(Self { pod: None, node: Some(node), addr })
    }
}

/// A probe to an address that is no Service, or to one backend of a Service.
fn direct(
    snapshot: &Snapshot,
    source: &Sender<'_>,
    (addr, named, port): (IpAddr, Option<&ObjectKey>, u16),
    protocol: L4,
    listens: &dyn Fn(&End, L4, u16) -> bool,
) -> Expected {
    let pod = named
        .and_then(|key| snapshot.pods.get(key))
        .filter(|pod| pod.is_peer())
        .or_else(|| pod_at(snapshot, addr));
    let own_node = pod.is_some_and(|pod| source.node.is_some() && source.node == pod.node.as_ref());
    if !own_node {
        let flow = Flow {
            source: source.addr,
            source_pod: source.pod,
            destination: addr,
            destination_pod: pod.map(|pod| &pod.key),
            protocol,
            port,
        };
        let judgement = networkpolicy(snapshot, &flow);
        let [egress, ingress] = judgement.audited;
        for (direction, decision, audited) in
            [(Direction::Egress, judgement.egress, egress), (Direction::Ingress, judgement.ingress, ingress)]
        {
            if audited {
                continue;
            }
            match decision {
                Decision::Denied(selected_by) => return Expected::Deny { selected_by, direction },
                Decision::Refused(ByTier { policy, rule, .. }) => {
                    let policy = ObjectKey::cluster_scoped(policy);
                    return Expected::DenyByRule { policy, rule, direction };
                }
                Decision::NotJudged
                | Decision::NotIsolated
                | Decision::Allowed(_)
                | Decision::Accepted(_) => {}
            }
        }
    }
    if pod.is_none() {
        match unserved(snapshot, &[], addr) {
            Some(Unserved::Dropped) => return Expected::Drop,
            Some(Unserved::Refused) => return Expected::Refuse,
            None => {}
        }
    }
    let by: Vec<End> = receivers(snapshot, pod.map(AsRef::as_ref), addr)
        .into_iter()
        .filter(|end| protocol == L4::Icmp || listens(end, protocol, port))
        .collect();
    if by.is_empty() { Expected::Refuse } else { Expected::Allow { by } }
}

/// Who may answer at an address: its pod; or its node and the hostNetwork pods there; or the world, outside all pod
/// ranges.
fn receivers(snapshot: &Snapshot, pod: Option<&Pod>, addr: IpAddr) -> Vec<End> {
    if let Some(pod) = pod {
        return vec![End::Pod(pod.key.clone())];
    }
    if let Some(node) = snapshot.nodes.values().find(|node| node.addresses.contains(&addr)) {
        let hosted = snapshot.pods.values().filter(|pod| {
            pod.host_network && !pod.phase.is_terminal() && pod.node.as_ref() == Some(&node.name)
        });
        return hosted.map(|pod| End::Pod(pod.key.clone())).chain([End::Node(node.name.clone())]).collect();
    }
    if snapshot.nodes.values().any(|node| node.pod_cidrs.iter().any(|cidr| cidr.contains(&addr))) {
        return Vec::new();
    }
    vec![End::World(addr)]
}

/// One outcome from those of every backend.
fn merge(outcomes: Vec<Expected>) -> Expected {
    let (mut answering, mut others) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Expected::Allow { by } => answering.extend(by),
            other @ (Expected::Deny { .. }
            | Expected::DenyByRule { .. }
            | Expected::Drop
            | Expected::Refuse
            | Expected::OneOf(_)
            | Expected::Unspecified) => {
                if !others.contains(&other) {
                    others.push(other);
                }
            }
        }
    }
    if !answering.is_empty() {
        answering.sort();
        answering.dedup();
        others.insert(0, Expected::Allow { by: answering });
    }
    match others.len() {
        0 => Expected::Refuse,
        1 => others.swap_remove(0),
        _ => Expected::OneOf(others),
    }
}
