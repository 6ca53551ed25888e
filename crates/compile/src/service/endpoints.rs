//! Which endpoints a Service port chooses from.

use std::collections::BTreeMap;
use std::sync::Arc;

use sheetbend_model::plan::Backend;
use sheetbend_model::state::{Endpoint, EndpointSlice, Service, ServicePort, Snapshot};
use sheetbend_model::types::{Family, NetworkId, NodeName, Port, Protocol};

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

    /// Hints count only where every ready endpoint has them and one is for these clients, the nodes' before the zones'
    /// (KEP-3015): whoever follows half of them overloads a few.
    fn nearest(states: &BTreeMap<Backend, State>) -> impl Fn(&State) -> bool + use<> {
        let all = |kind: fn(&State) -> Hinted| {
            let mut ready = states.values().filter(|state| state.ready).map(kind).peekable();
            let (mut every, mut here) = (ready.peek().is_some(), false);
            for hinted in ready {
                every &= hinted.any;
                here |= hinted.here;
            }
            every && here
        };
        let kind: Option<fn(&State) -> Hinted> = if all(|state| state.nodes) {
            Some(|state| state.nodes)
        } else if all(|state| state.zones) {
            Some(|state| state.zones)
        } else {
            None
        };
        move |state| kind.is_none_or(|kind| kind(state).here)
    }
}

/// Chooses the ready endpoints, the nearest where hints say which, else those that are terminating and still serve
/// (KEP-1669). Of those, one whose weight is 0 gets no new flows. With [`Own::First`] the node's own go before hints.
pub(super) fn backends<'a>(
    snapshot: &Snapshot,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    (service, port): (&Service, &ServicePort),
    family: Family,
    from: Viewpoint<'_>,
) -> Backends {
    let mut states: BTreeMap<Backend, State> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == family) {
        for number in numbers(slice, port) {
            for endpoint in &slice.endpoints {
                if has_ended(snapshot, slice, endpoint) {
                    continue;
                }
                let Some(backend) = backend(endpoint, port.protocol, number, family) else { continue };
                let state = states.entry(backend).or_default();
                state.see(endpoint, from);
                state.weight = state.weight.max(weight(service, slice, endpoint));
            }
        }
    }
    let is_here = |state: &State| state.own || from.own != Own::Only;
    let any_ready = states.values().any(|state| is_here(state) && state.ready);
    let any_own = states.values().any(|state| state.own && state.ready && state.weight > 0);
    let nearest = State::nearest(&states);
    let mut backends = Backends::default();
    let (mut any_here, mut any_elsewhere) = (false, false);
    for (backend, state) in states {
        let is_near = match from.own {
            Own::Only => true,
            Own::First if any_own => state.own,
            Own::First | Own::Alike => nearest(&state),
        };
        let usable = if any_ready { state.ready && is_near } else { state.serving && state.terminating };
        let is_here = is_here(&state);
        let chosen = usable && is_here;
        any_here |= chosen;
        any_elsewhere |= !is_here && (state.ready || state.serving && state.terminating);
        // An endpoint that is merely not ready keeps its connections; a datagram goes elsewhere at once.
        let keeps = state.serving || port.protocol != Protocol::Udp;
        if chosen && state.weight > 0 {
            backends.chosen.push(backend);
            backends.weights.push(state.weight);
        } else if keeps {
            backends.draining.push(backend);
        }
    }
    backends.only_remote = !any_here && any_elsewhere;
    if backends.weights.iter().all(|weight| Some(weight) == backends.weights.first()) {
        backends.weights.clear();
    }
    backends
}

/// What the slice says of the endpoint, or else the Service, or else 1.
fn weight(service: &Service, slice: &EndpointSlice, endpoint: &Endpoint) -> u8 {
    slice.weights.of(endpoint).or_else(|| service.weights.of(endpoint)).unwrap_or(1)
}

/// Whether some slice has another number for an SCTP port than the Service.
pub(super) fn has_other_port<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
    port: &ServicePort,
) -> bool {
    slices.flat_map(|slice| &slice.ports).any(|other| {
        other.name == port.name
            && other.protocol == port.protocol
            && other.port.is_some_and(|number| number != port.port)
    })
}

/// The numbers that `slice` gives `port`.
fn numbers<'a>(slice: &'a EndpointSlice, port: &'a ServicePort) -> impl Iterator<Item = Port> {
    slice
        .ports
        .iter()
        .filter(|other| other.name == port.name && other.protocol == port.protocol)
        .filter_map(|other| other.port)
        // Our data path cannot rewrite an SCTP port: its checksum covers the payload.
        .filter(|number| port.protocol != Protocol::Sctp || *number == port.port)
}

/// Whether the endpoint is a pod that has ended. A targetRef into another namespace says nothing (discovery/v1: it is
/// a reference within the slice's).
fn has_ended(snapshot: &Snapshot, slice: &EndpointSlice, endpoint: &Endpoint) -> bool {
    let Some((key, uid)) = &endpoint.pod else { return false };
    key.namespace == slice.key.namespace
        && snapshot.pods.get(key).is_some_and(|pod| pod.phase.is_terminal() && pod.uid == *uid)
}

fn backend(endpoint: &Endpoint, protocol: Protocol, port: Port, family: Family) -> Option<Backend> {
    // Consumers use the first address only (discovery/v1, Endpoint.addresses).
    let addr = endpoint.addresses.first()?.to_canonical();
    if Family::of(addr) != family {
        return None;
    }
    let pod_uid = endpoint.pod.as_ref().map_or_else(Arc::default, |(_, uid)| uid.clone());
    Some(Backend { network: NetworkId::default(), addr, protocol, port, pod_uid })
}
