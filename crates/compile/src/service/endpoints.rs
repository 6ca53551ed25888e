//! Which endpoints a Service port chooses from.

use std::collections::BTreeMap;
use std::sync::Arc;

use sheetbend_model::plan::Backend;
use sheetbend_model::state::{Endpoint, EndpointSlice, Service, ServicePort, Snapshot};
use sheetbend_model::types::{Family, NetworkId, NodeName, Port, Protocol, Uid};

/// Whose clients choose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Viewpoint<'a> {
    /// Their node.
    pub(super) node: &'a NodeName,
    /// Its zone.
    pub(super) zone: Option<&'a str>,
    /// What that node's own endpoints are to them.
    pub(super) own: Own,
}

/// What endpoints of the clients' own node are to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// Like any other, but for hints.
    Alike,
    /// The only ones that count (KEP-2086): a traffic policy Local.
    Only,
    /// Chosen while one of them takes new flows: a node-local address.
    First,
}

/// Backends of one frontend, sorted.
#[derive(Debug, Default)]
pub(super) struct Backends {
    /// New flows choose among these.
    pub(super) chosen: Vec<Backend>,
    /// Their weights; empty when all have the same.
    pub(super) weights: Vec<u8>,
    /// They keep the flows they have.
    pub(super) draining: Vec<Backend>,
    /// None is chosen, but without the restriction to one node there would be.
    pub(super) only_remote: bool,
}

/// The better of what several slices say of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    own: bool,
    ready: bool,
    serving: bool,
    terminating: bool,
    weight: u8,
    nodes: Hinted,
    zones: Hinted,
}

/// What hints of one kind say of an endpoint, or of all that are ready.
#[derive(Clone, Copy, Debug, Default)]
struct Hinted {
    /// It has one.
    any: bool,
    /// One is for these clients.
    here: bool,
}

impl Hinted {
    fn see(&mut self, any: bool, here: bool) {
        self.any |= any;
        self.here |= here;
    }
}

impl State {
    fn see(&mut self, endpoint: &Endpoint, from: Viewpoint<'_>) {
        self.own |= endpoint.node.as_ref() == Some(from.node);
        self.ready |= endpoint.ready;
        self.serving |= endpoint.serving;
        self.terminating |= endpoint.terminating;
        if let Some(hints) = &endpoint.hints {
            self.nodes.see(!hints.nodes.is_empty(), hints.nodes.contains(from.node));
            let is_here = |zone: &Arc<str>| Some(&**zone) == from.zone;
            self.zones.see(!hints.zones.is_empty(), hints.zones.iter().any(is_here));
        }
    }
}

/// Which hints count.
#[derive(Clone, Copy, Debug)]
enum Hints {
    Nodes,
    Zones,
    None,
}

impl Hints {
    /// Hints count only where every ready endpoint has them and one is for these clients, the nodes' before the zones'
    /// (KEP-3015): whoever follows half of them overloads a few.
    fn of(states: &BTreeMap<Backend, State>) -> Self {
        let all = |kind: fn(&State) -> Hinted| {
            let mut ready = states.values().filter(|state| state.ready).map(kind).peekable();
            let (mut every, mut here) = (ready.peek().is_some(), false);
            for hinted in ready {
                every &= hinted.any;
                here |= hinted.here;
            }
            every && here
        };
        if all(|state| state.nodes) {
            Hints::Nodes
        } else if all(|state| state.zones) {
            Hints::Zones
        } else {
            Hints::None
        }
    }

    fn are_for(self, state: &State) -> bool {
        match self {
            Hints::Nodes => state.nodes.here,
            Hints::Zones => state.zones.here,
            Hints::None => true,
        }
    }
}

/// Why an endpoint gets no new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It is not ready.
    NotReady,
    /// It is terminating, and does not serve any more or others are ready.
    Terminating,
    /// It is on another node, and the traffic policy is Local, or the address is node-local and this node has its own.
    OtherNode,
    /// Its hints are for clients of another zone or node.
    Hint,
    /// Its weight is 0.
    Weight,
    /// Its Pod has ended.
    PodEnded,
    /// Its slice gives the Service port no number.
    NoPort,
    /// Its port is not the one that clients use, and an SCTP packet's port cannot be translated.
    SctpPort,
    /// Its address is not of the slice's family, or the Service has no address of that family.
    WrongFamily,
    /// It has no address.
    NoAddress,
    /// It was named before; both count as one.
    Duplicate,
}

/// What becomes of one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    /// Whether new flows go there.
    pub(super) verdict: Result<(), Why>,
    pub(super) weight: u8,
    /// Flows that it has stay, if new ones do not go there.
    pub(super) keeps: bool,
}

/// The endpoints of a Service port in one family, with all that a choice among them depends on.
#[derive(Debug)]
pub(super) struct Choice {
    own: Own,
    states: BTreeMap<Backend, State>,
    any_ready: bool,
    /// One on this node is ready and takes new flows.
    any_own: bool,
    hints: Hints,
}

/// A Service port whose endpoints are looked at, for clients of whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) service: &'a Service,
    pub(super) port: &'a ServicePort,
    pub(super) family: Family,
    /// What [`sctp::fixed_port`](super::sctp::fixed_port) says of the frontend.
    pub(super) fixed_port: Option<Port>,
    pub(super) from: Viewpoint<'a>,
}

impl Choice {
    pub(super) fn new<'a>(question: Question<'_>, slices: impl Iterator<Item = &'a EndpointSlice>) -> Self {
        let Question { service, port, family, from, .. } = question;
        let mut states: BTreeMap<Backend, State> = BTreeMap::new();
        for slice in slices.filter(|slice| slice.family == family) {
            for number in numbers(slice, port, question.fixed_port) {
                for endpoint in &slice.endpoints {
                    let Ok(backend) = question.backend(slice, endpoint, number) else { continue };
                    let state = states.entry(backend).or_default();
                    state.see(endpoint, from);
                    state.weight = state.weight.max(weight(service, slice, endpoint));
                }
            }
        }
        let is_here = |state: &State| state.own || from.own != Own::Only;
        let any_ready = states.values().any(|state| is_here(state) && state.ready);
        let any_own = states.values().any(|state| state.own && state.ready && state.weight > 0);
        let hints = Hints::of(&states);
        Self { own: from.own, states, any_ready, any_own, hints }
    }

    /// Whether new flows go to an endpoint of this state: the ready ones, the nearest where hints say which, else those
    /// that are terminating and still serve (KEP-1669). Of those, one whose weight is 0 gets none. With [`Own::First`] the
    /// node's own go before hints.
    fn judge(&self, state: &State) -> Result<(), Why> {
        let can_serve = state.ready || state.serving && state.terminating;
        if !can_serve {
            return Err(if state.terminating { Why::Terminating } else { Why::NotReady });
        }
        if self.own == Own::Only && !state.own {
            return Err(Why::OtherNode);
        }
        if self.any_ready && !state.ready {
            return Err(Why::Terminating);
        }
        match self.own {
            Own::Only => {}
            Own::First if self.any_own && !state.own => return Err(Why::OtherNode),
            Own::First if self.any_own => {}
            Own::First | Own::Alike if self.any_ready && !self.hints.are_for(state) => return Err(Why::Hint),
            Own::First | Own::Alike => {}
        }
        if state.weight == 0 { Err(Why::Weight) } else { Ok(()) }
    }

    /// The same of a backend that [`Question::backend`] gave; `None` of another.
    pub(super) fn of(&self, backend: &Backend) -> Option<Judged> {
        let state = self.states.get(backend)?;
        let keeps = keeps(state, backend.protocol);
        Some(Judged { verdict: self.judge(state), weight: state.weight, keeps })
    }

    /// What the kernel needs of it.
    pub(super) fn backends(mut self) -> Backends {
        let mut backends = Backends::default();
        let (mut any_here, mut any_elsewhere) = (false, false);
        for (backend, state) in std::mem::take(&mut self.states) {
            let verdict = self.judge(&state);
            any_here |= matches!(verdict, Ok(()) | Err(Why::Weight));
            any_elsewhere |= verdict == Err(Why::OtherNode);
            if verdict.is_ok() {
                backends.chosen.push(backend);
                backends.weights.push(state.weight);
            } else if keeps(&state, backend.protocol) {
                backends.draining.push(backend);
            }
        }
        backends.only_remote = !any_here && any_elsewhere;
        if backends.weights.iter().all(|weight| Some(weight) == backends.weights.first()) {
            backends.weights.clear();
        }
        backends
    }
}

/// An endpoint that is merely not ready keeps its connections; a datagram goes elsewhere at once.
fn keeps(state: &State, protocol: Protocol) -> bool {
    state.serving || protocol != Protocol::Udp
}

impl Question<'_> {
    /// What the kernel calls an endpoint of a slice that gives the port `number`.
    pub(super) fn backend(
        &self,
        slice: &EndpointSlice,
        endpoint: &Endpoint,
        number: Port,
    ) -> Result<Backend, Why> {
        if has_ended(self.snapshot, slice, endpoint) {
            return Err(Why::PodEnded);
        }
        // Consumers use the first address only (discovery/v1, Endpoint.addresses).
        let addr = endpoint.address.ok_or(Why::NoAddress)?.to_canonical();
        if Family::of(addr) != self.family {
            return Err(Why::WrongFamily);
        }
        let pod_uid = endpoint.pod.as_ref().map_or_else(Uid::default, |(_, uid)| uid.clone());
        let protocol = self.port.protocol;
        Ok(Backend { network: NetworkId::default(), addr, protocol, port: number, pod_uid })
    }
}

/// What the slice says of the endpoint, or else the Service, or else 1.
pub(super) fn weight(service: &Service, slice: &EndpointSlice, endpoint: &Endpoint) -> u8 {
    slice.weights.of(endpoint).or_else(|| service.weights.of(endpoint)).unwrap_or(1)
}

/// The numbers that `slice` gives `port`; `fixed`: only this one.
pub(super) fn numbers<'a>(
    slice: &'a EndpointSlice,
    port: &'a ServicePort,
    fixed: Option<Port>,
) -> impl Iterator<Item = Port> {
    slice
        .ports
        .iter()
        .filter(|other| other.name == port.name && other.protocol == port.protocol)
        .filter_map(|other| other.port)
        .filter(move |number| fixed.is_none_or(|fixed| fixed == *number))
}

/// Whether the endpoint is a pod that has ended. A targetRef into another namespace says nothing (discovery/v1: it is
/// a reference within the slice's).
fn has_ended(snapshot: &Snapshot, slice: &EndpointSlice, endpoint: &Endpoint) -> bool {
    let Some((key, uid)) = &endpoint.pod else { return false };
    key.namespace == slice.key.namespace
        && snapshot.pods.get(key).is_some_and(|pod| pod.phase.is_terminal() && pod.uid == *uid)
}
