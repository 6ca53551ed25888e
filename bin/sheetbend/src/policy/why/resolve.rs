//! From what people write to addresses: the flows that a question is about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sheetbend_compile::explain::{Explainer, Explanation};
use sheetbend_model::plan::Scope;
use sheetbend_model::state::{Pod, Snapshot};
use sheetbend_model::types::{Family, NodeName, ObjectKey, Port, Protocol};
use sheetbend_shell::exit;

use super::target::{Destination, PortName, Target};
use super::unserved::Unserved;
use crate::ask::Failure;
use crate::near::near;

/// Who the world is when nobody says so: RFC 5737 TEST-NET-3, RFC 3849.
const WORLD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10)),
];

/// One end of a flow.
#[derive(Clone, Debug)]
pub(super) struct Party {
    pub(super) addr: IpAddr,
    pub(super) pod: Option<ObjectKey>,
    /// Whose own stack it is.
    pub(super) node: Option<NodeName>,
}

/// A flow that the question is about, behind Service translation.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) source: Party,
    pub(super) destination: Party,
    /// Not read for ICMP.
    pub(super) port: u16,
    pub(super) service: Option<ObjectKey>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) candidates: Vec<Candidate>,
    pub(super) notes: Vec<String>,
    /// The destination is an address of Services, and none serves this.
    pub(super) unserved: Option<Unserved>,
}

impl Resolved {
    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    fn note_unserved(&mut self, snapshot: &Snapshot, ranges: &[IpNet], addr: IpAddr) {
        self.unserved = Unserved::of(snapshot, ranges, addr.to_canonical());
        if let Some(unserved) = self.unserved {
            self.note(unserved.note(addr));
        }
    }
}

/// The flows from `source` to `destination`.
pub(super) fn resolve(
    snapshot: &Snapshot,
    service_ranges: &[IpNet],
    source: &Target,
    destination: &Destination,
) -> Result<Resolved, Failure> {
    let mut resolved = Resolved::default();
    if let Target::Service(key) = source {
        let text = format!("the Service {key} sends nothing itself; name a pod behind it");
        return Err((exit::USAGE, text));
    }
    let sources = parties(snapshot, source, &mut resolved)?;
    match (&destination.target, destination.protocol) {
        (Target::Service(key), None) => {
            let text = format!("no Service translates ICMP; name a pod behind {key}");
            return Err((exit::USAGE, text));
        }
        (Target::Service(key), Some(protocol)) => {
            through_service(snapshot, &sources, key, (destination, protocol), &mut resolved)?;
        }
        (Target::Address(addr), Some(protocol)) => {
            let at = Frontend { addr: *addr, protocol, port: number(destination)? };
            if !through_address(snapshot, &sources, &at, &mut resolved) {
                resolved.note_unserved(snapshot, service_ranges, *addr);
                direct(snapshot, &sources, destination, &mut resolved)?;
            }
        }
        (Target::Address(addr), None) => {
            resolved.note_unserved(snapshot, service_ranges, *addr);
            direct(snapshot, &sources, destination, &mut resolved)?;
        }
        (Target::Pod(_) | Target::Node(_) | Target::World, _) => {
            direct(snapshot, &sources, destination, &mut resolved)?;
        }
    }
    Ok(resolved)
}

fn direct(
    snapshot: &Snapshot,
    sources: &[Party],
    asked: &Destination,
    resolved: &mut Resolved,
) -> Result<(), Failure> {
    let destinations = parties(snapshot, &asked.target, resolved)?;
    let port = match (&asked.port, &asked.target, asked.protocol) {
        (Some(PortName::Name(name)), Target::Pod(key), Some(protocol)) => {
            let pod = snapshot.pods.get(key);
            let numbers = pod.map(|pod| pod.named_ports(name, protocol)).unwrap_or_default();
            let Some(port) = numbers.first() else {
                let text = format!("the pod {key} has no {protocol} port named {name}; write the number");
                return Err((exit::NO_OBJECT, text));
            };
            port.get()
        }
        (Some(_), ..) => number(asked)?.get(),
        (None, ..) => 0,
    };
    for source in sources {
        for destination in &destinations {
            if Family::of(source.addr) == Family::of(destination.addr) {
                let (source, destination) = (source.clone(), destination.clone());
                resolved.candidates.push(Candidate { source, destination, port, service: None });
            }
        }
    }
    if resolved.candidates.is_empty() {
        let text = "the two have no address of the same family".to_owned();
        return Err((exit::NO_OBJECT, text));
    }
    Ok(())
}

fn number(asked: &Destination) -> Result<Port, Failure> {
    match &asked.port {
        Some(PortName::Number(port)) => Ok(*port),
        Some(PortName::Name(name)) => {
            Err((exit::USAGE, format!("only pods and Services have named ports; write {name} as a number")))
        }
        None => Err((exit::USAGE, "there is no port".to_owned())),
    }
}

/// Who has the addresses of `target`.
fn parties(snapshot: &Snapshot, target: &Target, resolved: &mut Resolved) -> Result<Vec<Party>, Failure> {
    let world = |addr| Party { addr, pod: None, node: None };
    match target {
        Target::Pod(key) => {
            let pod = snapshot.pods.get(key).ok_or_else(|| unknown("pod", key, snapshot.pods.keys()))?;
            pod_parties(snapshot, pod, resolved)
        }
        Target::Node(name) => node_parties(snapshot, name),
        Target::World => {
            resolved.note(
                "world stands for 203.0.113.10 and 2001:db8::10; name an address for another".to_owned(),
            );
            Ok(WORLD.map(world).into())
        }
        Target::Address(addr) => {
            let mut owners = snapshot.nodes.values().filter(|node| node.addresses.contains(addr));
            match owners.next() {
                Some(node) => Ok(vec![Party { addr: *addr, pod: None, node: Some(node.name.clone()) }]),
                None => Ok(vec![world(*addr)]),
            }
        }
        Target::Service(_) => Ok(Vec::new()),
    }
}

fn pod_parties(snapshot: &Snapshot, pod: &Pod, resolved: &mut Resolved) -> Result<Vec<Party>, Failure> {
    let key = &pod.key;
    if pod.phase.is_terminal() {
        return Err((exit::NO_OBJECT, format!("the pod {key} has ended; no policy looks at it any more")));
    }
    if pod.host_network {
        let Some(node) = &pod.node else {
            return Err((exit::NO_OBJECT, format!("the hostNetwork pod {key} has no node yet")));
        };
        resolved.note(format!("{key} is in the host's network: for policies it is its node, {node}"));
        return node_parties(snapshot, node);
    }
    let attached = snapshot.attachments.values().filter(|own| own.pod.as_ref() == Some(key));
    let attached = attached.flat_map(|own| own.addresses.iter());
    let mut addresses: Vec<IpAddr> = Vec::new();
    for addr in pod.addresses.iter().chain(attached.copied()).map(|addr| addr.to_canonical()) {
        if !addresses.contains(&addr) {
            addresses.push(addr);
        }
    }
    if addresses.is_empty() {
        return Err((exit::NO_OBJECT, format!("the pod {key} has no address yet")));
    }
    let party = |addr| Party { addr, pod: Some(key.clone()), node: None };
    Ok(addresses.into_iter().map(party).collect())
}

fn node_parties(snapshot: &Snapshot, name: &NodeName) -> Result<Vec<Party>, Failure> {
    let Some(node) = snapshot.nodes.get(name) else {
        let known: Vec<String> = snapshot.nodes.keys().take(5).map(ToString::to_string).collect();
        return Err((exit::NO_OBJECT, format!("there is no node {name}; there are {}", known.join(", "))));
    };
    let party = |addr: &IpAddr| Party { addr: addr.to_canonical(), pod: None, node: Some(name.clone()) };
    let mut parties: Vec<Party> = Vec::new();
    for family in Family::ALL {
        parties.extend(node.address(family).as_ref().map(party));
    }
    if parties.is_empty() {
        return Err((exit::NO_OBJECT, format!("the node {name} has no address")));
    }
    Ok(parties)
}

/// What a client connects to.
struct Frontend {
    addr: IpAddr,
    protocol: Protocol,
    port: Port,
}

/// The node whose choice of endpoints counts: the client's.
fn viewpoint(snapshot: &Snapshot, source: &Party) -> NodeName {
    let of_pod = source.pod.as_ref().and_then(|key| snapshot.pods.get(key)?.node.clone());
    let any = || snapshot.nodes.keys().next().cloned();
    source.node.clone().or(of_pod).or_else(any).unwrap_or_else(|| NodeName::new(""))
}

fn through_service(
    snapshot: &Snapshot,
    sources: &[Party],
    key: &ObjectKey,
    (asked, protocol): (&Destination, Protocol),
    resolved: &mut Resolved,
) -> Result<(), Failure> {
    let Some(service) = snapshot.services.get(key) else {
        return Err(unknown("Service", key, snapshot.services.keys()));
    };
    let port = service.ports.iter().find(|own| {
        own.protocol == protocol
            && match &asked.port {
                Some(PortName::Number(number)) => own.port == *number,
                Some(PortName::Name(name)) => *own.name == **name,
                None => false,
            }
    });
    let Some(port) = port else {
        let known: Vec<String> =
            service.ports.iter().map(|own| format!("{}/{} {}", own.port, own.protocol, own.name)).collect();
        let text = format!("the Service {key} has no such port; it has {}", known.join(", "));
        return Err((exit::NO_OBJECT, text));
    };
    for source in sources {
        let explainer = Explainer::new(snapshot, viewpoint(snapshot, source));
        let Some(explanation) = explainer.one(key) else { continue };
        let family = Family::of(source.addr);
        let own = |of: &&sheetbend_compile::explain::ExplainedFrontend| {
            let frontend = &of.frontend;
            service.cluster_ips.iter().any(|addr| addr.to_canonical() == frontend.addr)
                && frontend.scope == Scope::Inside
                && (frontend.port, frontend.protocol) == (port.port, port.protocol)
                && Family::of(frontend.addr) == family
        };
        let choice = if service.cluster_ips.is_empty() {
            let is = |of: &sheetbend_compile::explain::ExplainedChoice<'_>| {
                std::ptr::eq(of.port, port) && of.family == family
            };
            explanation.choices.iter().position(is)
        } else {
            explanation.frontends.iter().find(own).and_then(|of| of.choice)
        };
        if let Some(choice) = choice {
            backends(source, &explanation, choice, resolved);
        }
    }
    of_service(snapshot, key, resolved);
    Ok(())
}

/// Whether a Service has the address, and then its backends.
fn through_address(snapshot: &Snapshot, sources: &[Party], at: &Frontend, resolved: &mut Resolved) -> bool {
    let mut found = None;
    for source in sources.iter().filter(|source| Family::of(source.addr) == Family::of(at.addr)) {
        let explainer = Explainer::new(snapshot, viewpoint(snapshot, source));
        let is_outside = is_outside(snapshot, source);
        for explanation in explainer.all() {
            // Cluster addresses are for the cluster.
            if is_outside && explanation.service.cluster_ips.contains(&at.addr) {
                continue;
            }
            let matches = |of: &&sheetbend_compile::explain::ExplainedFrontend| {
                let frontend = &of.frontend;
                of.entry.is_ok()
                    && frontend.scope == Scope::Inside
                    && (frontend.addr, frontend.port, frontend.protocol) == (at.addr, at.port, at.protocol)
            };
            let Some(frontend) = explanation.frontends.iter().find(matches) else { continue };
            found = Some(explanation.service.key.clone());
            if let Some(choice) = frontend.choice {
                backends(source, &explanation, choice, resolved);
            }
        }
    }
    if let Some(key) = &found {
        resolved.note(format!("{} is an address of the Service {key}", at.addr));
        of_service(snapshot, key, resolved);
    }
    found.is_some()
}

fn of_service(snapshot: &Snapshot, key: &ObjectKey, resolved: &mut Resolved) {
    if resolved.candidates.is_empty() {
        resolved.note(format!(
            "the Service {key} has no endpoint that gets new connections; `sheetbend service show {key}` says why"
        ));
        return;
    }
    resolved.note(
        "policies judge the endpoint behind a Service, not the Service's address; each endpoint may be chosen"
            .to_owned(),
    );
    if resolved.candidates.iter().any(|of| is_outside(snapshot, &of.source)) {
        resolved.note(
            "from outside, the peer is the client only with externalTrafficPolicy Local or an endpoint on the node \
             that it asks; else it is that node"
                .to_owned(),
        );
    }
}

/// Whether it is neither a node nor a pod.
fn is_outside(snapshot: &Snapshot, party: &Party) -> bool {
    party.node.is_none()
        && party.pod.is_none()
        && !snapshot.pods.values().any(|pod| pod.addresses.contains(party.addr))
}

fn backends(source: &Party, explanation: &Explanation<'_>, choice: usize, resolved: &mut Resolved) {
    let endpoints = explanation.choices.get(choice).into_iter().flat_map(|choice| &choice.endpoints);
    for of in endpoints.filter(|of| of.verdict.is_ok()) {
        let (Some(addr), Some(port)) = (of.endpoint.address, of.port) else { continue };
        let pod = of.endpoint.pod.as_ref().map(|(key, _)| key.clone());
        resolved.candidates.push(Candidate {
            source: source.clone(),
            destination: Party { addr: addr.to_canonical(), pod, node: None },
            port: port.get(),
            service: Some(explanation.service.key.clone()),
        });
    }
}

fn unknown<'a>(kind: &str, key: &ObjectKey, known: impl Iterator<Item = &'a ObjectKey>) -> Failure {
    let known: Vec<&ObjectKey> = known.collect();
    let near = near(known.iter().copied(), key);
    let beside = known.iter().filter(|own| own.namespace == key.namespace).take(5);
    let beside: Vec<String> = beside.map(ToString::to_string).collect();
    let hint = match (near.as_slice(), beside.as_slice()) {
        ([], []) => String::new(),
        ([], beside) => format!("; there is {}", beside.join(", ")),
        (near, _) => format!("; did you mean {}?", near.join(", ")),
    };
    (exit::NO_OBJECT, format!("there is no {kind} {key}{hint}"))
}
