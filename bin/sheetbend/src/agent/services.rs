//! What `sheetbend service` is told: the documents `/services` and `/services/show`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;
use sheetbend_apply::bpf::LiveConnections;
use sheetbend_compile::explain::{
    ExplainedChoice, ExplainedEndpoint, ExplainedFrontend, Explainer, Explanation, Why,
};
use sheetbend_model::plan::{Reach, Scope};
use sheetbend_model::state::{Service, ServicePort, ServiceType};
use sheetbend_model::types::{NodeName, ObjectKey};
use sheetbend_shell::admin::DocumentFn;
use tokio::sync::watch;

use super::view::View;
use crate::ask::Answer;
use crate::near::near;
use crate::service::wire::{Choice, Condition, Detail, Endpoint, Frontend, List, Row};

/// (address, protocol, port) → live flows.
type Live = BTreeMap<(IpAddr, u8, u16), u64>;

/// `/services` with `namespace=` for one namespace, and `/services/show` with `namespace=` and `name=`. What they take is
/// spent on a thread of its own: neither the core nor other requests wait for it.
pub(super) fn documents(
    node: NodeName,
    views: watch::Receiver<Arc<View>>,
    live: LiveConnections,
) -> [(&'static str, DocumentFn); 2] {
    let live = Arc::new(Mutex::new(live));
    let document = |make: fn(&Source<'_>) -> Value| -> DocumentFn {
        let (node, views, live) = (node.clone(), views.clone(), Arc::clone(&live));
        Arc::new(move |query| {
            let (node, view, live) = (node.clone(), Arc::clone(&views.borrow()), Arc::clone(&live));
            Box::pin(async move {
                let made = tokio::task::spawn_blocking(move || {
                    // Nobody panics with it in hand, and it holds nothing that could be half done.
                    let live = live.lock().unwrap_or_else(PoisonError::into_inner).read();
                    match live {
                        Ok(live) => make(&Source { node, view: &view, live, query: &query }),
                        Err(error) => value(&Answer::<()>::Error(error.to_string())),
                    }
                });
                made.await.unwrap_or_else(|error| value(&Answer::<()>::Error(error.to_string())))
            })
        })
    };
    [("/services", document(list)), ("/services/show", document(show))]
}

struct Source<'a> {
    node: NodeName,
    view: &'a View,
    live: Live,
    query: &'a str,
}

impl Source<'_> {
    /// A parameter of the query. Names of objects need no escapes.
    fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}

fn value(answer: &Answer<impl Serialize>) -> Value {
    serde_json::to_value(answer).unwrap_or(Value::Null)
}

fn list(source: &Source<'_>) -> Value {
    let explainer = Explainer::new(&source.view.snapshot, source.node.clone());
    let namespace = source.parameter("namespace");
    let all = explainer.all().filter(|of| namespace.is_none_or(|own| *of.service.key.namespace == *own));
    value(&Answer::Found(List {
        node: source.node.to_string(),
        synced: source.view.synced,
        services: all.map(|of| row(&of, &source.live)).collect(),
    }))
}

fn show(source: &Source<'_>) -> Value {
    let [namespace, name] = ["namespace", "name"].map(|name| source.parameter(name).unwrap_or_default());
    let key = ObjectKey::new(namespace, name);
    let explainer = Explainer::new(&source.view.snapshot, source.node.clone());
    let Some(of) = explainer.one(&key) else {
        return value(&Answer::<()>::Unknown(near(source.view.snapshot.services.keys(), &key)));
    };
    value(&Answer::Found(Detail {
        node: source.node.to_string(),
        synced: source.view.synced,
        service: row(&of, &source.live),
        note: note(of.service).map(ToOwned::to_owned),
        frontends: of.frontends.iter().map(frontend).collect(),
        choices: of.choices.iter().map(|of| choice(of, &source.live)).collect(),
        conditions: of
            .conditions
            .iter()
            .map(|of| Condition { reason: of.reason.to_owned(), message: of.message.to_string() })
            .collect(),
    }))
}

fn row(of: &Explanation<'_>, live: &Live) -> Row {
    let service = of.service;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for addr in service.cluster_ips.iter().chain(&service.external_ips).chain(&service.ingress_ips) {
        if !addresses.contains(addr) {
            addresses.push(*addr);
        }
    }
    let (mut ready, mut all, mut counted) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for choice in &of.choices {
        for endpoint in &choice.endpoints {
            let end = match &endpoint.endpoint.pod {
                Some(pod) => (Some(pod), None),
                None => (None, endpoint.endpoint.address),
            };
            all.insert(end);
            if endpoint.verdict.is_ok() {
                ready.insert(end);
            }
            counted.extend(live_key(choice.port, endpoint));
        }
    }
    let conditions: BTreeSet<&str> = of.conditions.iter().map(|condition| condition.reason).collect();
    Row {
        namespace: service.key.namespace.to_string(),
        name: service.key.name.to_string(),
        r#type: service_type(service).to_owned(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        ports: service.ports.iter().map(port).collect(),
        ready: ready.len(),
        endpoints: all.len(),
        connections: counted.iter().filter_map(|key| live.get(key)).sum(),
        algorithm: service.algorithm.to_string(),
        conditions: conditions.into_iter().map(ToOwned::to_owned).collect(),
    }
}

fn service_type(service: &Service) -> &'static str {
    match service.service_type {
        ServiceType::ClusterIP if service.cluster_ips.is_empty() => "Headless",
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::ExternalName => "ExternalName",
    }
}

fn note(service: &Service) -> Option<&'static str> {
    if service.proxied_elsewhere {
        Some("its labels leave it to another implementation; no address of it is translated here")
    } else if service.service_type == ServiceType::ExternalName {
        Some("an ExternalName is a name only; no address leads to it")
    } else if service.cluster_ips.is_empty() {
        Some("headless: it has names only, and clients choose among all ready endpoints themselves")
    } else {
        None
    }
}

fn port(port: &ServicePort) -> String {
    let node_port = port.node_port.map(|number| format!(":{number}")).unwrap_or_default();
    format!("{}{node_port}/{}", port.port, port.protocol)
}

fn frontend(of: &ExplainedFrontend) -> Frontend {
    let entry = of.entry.as_ref().ok();
    let outcome = match entry {
        None => "conflict",
        Some(entry) if !entry.backends.is_empty() => "balanced",
        Some(entry) if entry.only_remote => "dropped",
        Some(_) => "refused",
    };
    Frontend {
        address: of.frontend.addr.to_string(),
        port: of.frontend.port.get(),
        protocol: of.frontend.protocol.to_string(),
        scope: match of.frontend.scope {
            Scope::Inside => "inside",
            Scope::Outside => "outside",
            Scope::Names => "names",
        }
        .to_owned(),
        reach: entry.map(|entry| reach(entry.reach).to_owned()),
        algorithm: entry.map(|entry| entry.algorithm.to_string()),
        affinity_seconds: entry.and_then(|entry| entry.affinity_timeout),
        source_ranges: entry
            .and_then(|entry| entry.sources.as_ref())
            .map(|ranges| ranges.iter().map(ToString::to_string).collect()),
        outcome: outcome.to_owned(),
        held_by: of.entry.as_ref().err().map(ToString::to_string),
        choice: of.choice,
    }
}

fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Inside => "cluster",
        Reach::EveryNode => "everywhere",
        Reach::ThisNode | Reach::Apart => "thisNode",
    }
}

fn choice(of: &ExplainedChoice<'_>, live: &Live) -> Choice {
    Choice {
        port_name: of.port.name.to_string(),
        port: of.port.port.get(),
        protocol: of.port.protocol.to_string(),
        family: of.family.to_string(),
        only_this_node: of.only_this_node,
        fixed_port: of.fixed_port.map(sheetbend_model::types::Port::get),
        endpoints: of.endpoints.iter().map(|endpoint| self::endpoint(of.port, endpoint, live)).collect(),
    }
}

fn live_key(port: &ServicePort, of: &ExplainedEndpoint<'_>) -> Option<(IpAddr, u8, u16)> {
    let addr = of.endpoint.address?.to_canonical();
    Some((addr, port.protocol.number(), of.port?.get()))
}

fn endpoint(port: &ServicePort, of: &ExplainedEndpoint<'_>, live: &Live) -> Endpoint {
    let why = of.verdict.err();
    let state = match why {
        None => "chosen",
        Some(why) if of.keeps && leaves(why) => "draining",
        Some(_) => "out",
    };
    Endpoint {
        address: of.endpoint.address.as_ref().map(ToString::to_string),
        port: of.port.map(sheetbend_model::types::Port::get),
        pod: of.endpoint.pod.as_ref().map(|(key, _)| key.to_string()),
        node: of.endpoint.node.as_ref().map(ToString::to_string),
        slice: of.slice.key.name.to_string(),
        state: state.to_owned(),
        reason: why.map(|why| word(why).to_owned()),
        message: why.map(|why| sentence(why).to_owned()),
        weight: of.weight,
        connections: live_key(port, of).and_then(|key| live.get(&key).copied()).unwrap_or(0),
    }
}

/// Whether the endpoint is on its way out for everybody, and not merely somebody else's.
fn leaves(why: Why) -> bool {
    match why {
        Why::NotReady | Why::Terminating | Why::Weight => true,
        Why::OtherNode
        | Why::Hint
        | Why::PodEnded
        | Why::NoPort
        | Why::SctpPort
        | Why::WrongFamily
        | Why::NoAddress
        | Why::Duplicate => false,
    }
}

/// Stable: scripts compare it (`docs/user/services.md`).
fn word(why: Why) -> &'static str {
    match why {
        Why::NotReady => "not_ready",
        Why::Terminating => "terminating",
        Why::OtherNode => "other_node",
        Why::Hint => "hint",
        Why::Weight => "weight",
        Why::PodEnded => "pod_ended",
        Why::NoPort => "no_port",
        Why::SctpPort => "sctp_port",
        Why::WrongFamily => "wrong_family",
        Why::NoAddress => "no_address",
        Why::Duplicate => "duplicate",
    }
}

fn sentence(why: Why) -> &'static str {
    match why {
        Why::NotReady => "it is not ready",
        Why::Terminating => "it is terminating, and others are ready or it serves no more",
        Why::OtherNode => "it is on another node, and the traffic policy is Local",
        Why::Hint => "its hints are for clients of another zone or node",
        Why::Weight => "its weight is 0",
        Why::PodEnded => "its Pod has ended",
        Why::NoPort => "its EndpointSlice gives this Service port no number",
        Why::SctpPort => {
            "its port is not the one that clients use, and an SCTP packet's port cannot be translated"
        }
        Why::WrongFamily => {
            "its address is not of the family of its EndpointSlice, or the Service has none of that family"
        }
        Why::NoAddress => "it has no address",
        Why::Duplicate => "it was named before; both count as one",
    }
}
