//! What is said of a Service is what its tables do, and each reason holds when the objects are read literally.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sheetbend_compile::compile;
use sheetbend_compile::explain::{ExplainedChoice, ExplainedEndpoint, Explainer, Why};
use sheetbend_model::plan::{Frontend, Scope};
use sheetbend_model::state::{Endpoint, NetworkConfig, Service, Snapshot};
use sheetbend_model::types::{Family, Port, Protocol};
use sheetbend_oracle::{At, service};
use sheetbend_testkit::generators::cluster::cluster;
use sheetbend_testkit::generators::pools;

use crate::runner;

#[test]
fn an_explanation_says_what_the_tables_do_and_why() {
    let seen = RefCell::new(BTreeMap::<String, usize>::new());
    let see = |what: String| *seen.borrow_mut().entry(what).or_default() += 1;
    runner("explain", 1200)
        .run(&cluster(), |cluster| {
            let node = pools::node();
            let tables = compile(&cluster, &node, &NetworkConfig::default());
            let explainer = Explainer::new(&cluster, node.clone());
            let mut rows = 0;
            for explanation in explainer.all() {
                for explained in &explanation.frontends {
                    let frontend = explained.frontend;
                    let row = tables.services.get(&frontend);
                    let entry = match &explained.entry {
                        Ok(entry) => entry,
                        Err(owner) => {
                            see("conflict".to_owned());
                            // Where the owner has one meaning for everybody, clients elsewhere find what is inside.
                            let inside = Frontend { scope: Scope::Inside, ..frontend };
                            let row = row.or_else(|| tables.services.get(&inside));
                            prop_assert_eq!(row.map(|row| &row.service), Some(owner));
                            continue;
                        }
                    };
                    prop_assert_eq!(row, Some(entry));
                    rows += 1;
                    let at = match frontend.scope {
                        Scope::Inside => At::ClientNode(&node),
                        Scope::Outside | Scope::Names => At::Entry(&node),
                    };
                    let wanted = service(&cluster, at, frontend.addr, frontend.protocol, frontend.port.get());
                    let choice = &explanation.choices[explained.choice.unwrap()];
                    let chosen = choice.endpoints.iter().filter(|of| of.verdict.is_ok());
                    let chosen: BTreeSet<_> =
                        chosen.map(|of| (addr(of.endpoint), of.port, of.weight)).collect();
                    let wanted = wanted.unwrap().candidates.into_iter();
                    let wanted: BTreeSet<_> =
                        wanted.map(|c| (Some(c.addr), Some(c.port), c.weight)).collect();
                    prop_assert_eq!(chosen, wanted, "{}", frontend);
                    let draining = choice.endpoints.iter().filter(|of| of.verdict.is_err() && of.keeps);
                    let draining: BTreeSet<_> = draining.map(|of| (addr(of.endpoint), of.port)).collect();
                    let row: BTreeSet<_> =
                        entry.draining.iter().map(|b| (Some(b.addr), Some(b.port))).collect();
                    prop_assert_eq!(draining, row, "{}", frontend);
                }
                for choice in &explanation.choices {
                    let named = cluster.endpoint_slices.values().filter(|slice| {
                        slice.key.namespace == explanation.service.key.namespace
                            && slice.service.as_ref() == Some(&explanation.service.key.name)
                            && slice.family == choice.family
                    });
                    let named: usize = named.map(|slice| slice.endpoints.len()).sum();
                    prop_assert!(choice.endpoints.len() >= named, "an endpoint is not told of");
                    for of in &choice.endpoints {
                        see(of.verdict.err().map_or("chosen".to_owned(), |why| format!("{why:?}")));
                        let holds = holds(&cluster, explanation.service, choice, of);
                        prop_assert!(holds, "{:?} of {:?} in {:?}", of.verdict, of.endpoint, choice);
                    }
                }
            }
            let services = tables.services.values().filter(|row| cluster.services.contains_key(&row.service));
            prop_assert_eq!(rows, services.filter(|row| !is_pod(&cluster, row)).count());
            Ok(())
        })
        .unwrap();
    let seen = seen.into_inner();
    eprintln!("{seen:?}");
    let all = [
        "chosen",
        "conflict",
        "NotReady",
        "Terminating",
        "OtherNode",
        "Hint",
        "Weight",
        "PodEnded",
        "NoPort",
    ];
    for what in all.iter().chain(&["WrongFamily", "Duplicate", "SctpPort"]) {
        assert!(seen.get(*what).is_some_and(|count| *count >= 15), "{what}: {seen:?}");
    }
}

fn addr(endpoint: &Endpoint) -> Option<std::net::IpAddr> {
    endpoint.address.map(|addr| addr.to_canonical())
}

/// A pod and a Service may have one key.
fn is_pod(cluster: &Snapshot, row: &sheetbend_model::plan::ServiceEntry) -> bool {
    row.reach == sheetbend_model::plan::Reach::ThisNode && cluster.pods.contains_key(&row.service)
}

/// Whether the verdict is what the objects say.
fn holds(
    cluster: &Snapshot,
    service: &Service,
    choice: &ExplainedChoice<'_>,
    of: &ExplainedEndpoint<'_>,
) -> bool {
    // What several slices say of one endpoint counts together.
    let uid = |endpoint: &Endpoint| endpoint.pod.as_ref().map(|(_, uid)| uid.clone());
    let is_same = |other: &&ExplainedEndpoint<'_>| {
        let one = (addr(of.endpoint), of.port, uid(of.endpoint));
        (addr(other.endpoint), other.port, uid(other.endpoint)) == one && !has_ended(cluster, other)
    };
    let all: Vec<&ExplainedEndpoint<'_>> = choice.endpoints.iter().filter(is_same).collect();
    let any = |says: fn(&Endpoint) -> bool| all.iter().any(|other| says(other.endpoint));
    let (ready, serving, leaving) = (any(|e| e.ready), any(|e| e.serving), any(|e| e.terminating));
    let here = all.iter().any(|other| other.endpoint.node.as_ref() == Some(&pools::node()));
    let able = ready || serving && leaving;
    let ports =
        || of.slice.ports.iter().filter(|p| p.name == choice.port.name && p.protocol == choice.port.protocol);
    match of.verdict {
        Ok(()) => able && of.weight > 0 && (here || !choice.only_this_node),
        Err(Why::NotReady) => !able && !leaving,
        Err(Why::Terminating) => leaving && !ready,
        Err(Why::OtherNode) => choice.only_this_node && !here && able,
        Err(Why::Hint) => {
            ready && all.iter().any(|other| other.endpoint.hints.is_some()) && !choice.only_this_node
        }
        Err(Why::Weight) => of.weight == 0 && able,
        Err(Why::PodEnded) => has_ended(cluster, of),
        Err(Why::NoPort) => of.port.is_none() && ports().all(|port| port.port.is_none()),
        Err(Why::SctpPort) => {
            let other = |number: Option<Port>| number.is_some_and(|number| Some(number) != choice.fixed_port);
            choice.fixed_port.is_some()
                && choice.port.protocol == Protocol::Sctp
                && of.port.is_none()
                && ports().any(|port| other(port.port))
        }
        Err(Why::WrongFamily) => {
            let mut own = service.cluster_ips.iter().map(|addr| Family::of(addr.to_canonical()));
            addr(of.endpoint).map(Family::of) != Some(choice.family)
                || own.all(|family| family != choice.family)
        }
        Err(Why::NoAddress) => of.endpoint.address.is_none(),
        Err(Why::Duplicate) => all.len() > 1,
    }
}

fn has_ended(cluster: &Snapshot, of: &ExplainedEndpoint<'_>) -> bool {
    of.endpoint.pod.as_ref().is_some_and(|(key, uid)| {
        let ended = cluster.pods.get(key).is_some_and(|pod| pod.phase.is_terminal() && pod.uid == *uid);
        key.namespace == of.slice.key.namespace && ended
    })
}
