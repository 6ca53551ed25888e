//! What is said of a packet is what the objects say and what the tables do, and each reason holds when read literally.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sheetbend_compile::why::{Effect, End, Explainer, Flow, Judgement, Miss, Outcome, Policy, Whose};
use sheetbend_compile::{compile, resolved};
use sheetbend_model::plan::{Dataplane, Origin};
use sheetbend_model::state::{Action, LabelSelector, NetworkConfig, Peer, Snapshot};
use sheetbend_model::types::{Direction, Protocol};
use sheetbend_oracle::{Allowed, Decision, networkpolicy};
use sheetbend_testkit::generators::cluster::{cluster, tiered_cluster, traffic_cluster};
use sheetbend_testkit::generators::packet::packet;
use sheetbend_testkit::generators::pools;

use crate::kernel::{Question, Verdict, verdict};
use crate::runner;
use crate::verdicts::{Found, carried, family_of, find, oracle_flow, origin_of};

const PACKETS: usize = 60;
/// So many of them are asked of an explainer of their own too.
const FEW: usize = 6;

#[test]
fn what_is_explained_is_what_objects_and_tables_say() {
    let seen = Seen::default();
    runner("why", 600)
        .run(
            &(
                prop_oneof![2 => cluster(), 2 => tiered_cluster(), 1 => traffic_cluster()],
                prop::collection::vec(packet(), PACKETS),
            ),
            |(cluster, packets)| {
                let tables = compile(&cluster, &pools::node(), &NetworkConfig::default());
                let cluster = resolved(&cluster);
                // Pods of all nodes, as no single node's tables have them.
                let explainer = Explainer::new(&cluster, cluster.pods.keys());
                for (number, packet) in packets.iter().enumerate() {
                    let Some(family) = family_of(packet) else { continue };
                    let ends =
                        (find(&cluster, packet.source, family), find(&cluster, packet.destination, family));
                    let (Some(source), Some(destination)) = ends else { continue };
                    if source.addr == destination.addr && source.pod.is_none() {
                        continue;
                    }
                    let (protocol, port) = carried(&cluster, packet, destination.pod);
                    if number < FEW {
                        check_alone(&cluster, &explainer, (&source, &destination), (protocol, port))?;
                    }
                    check(&cluster, &tables, &explainer, (&source, &destination), (protocol, port), &seen)?;
                }
                Ok(())
            },
        )
        .unwrap();
    seen.assert_wide();
}

#[derive(Default)]
struct Seen(RefCell<BTreeMap<String, usize>>);

impl Seen {
    fn see(&self, what: impl Into<String>) {
        *self.0.borrow_mut().entry(what.into()).or_default() += 1;
    }

    fn assert_wide(self) {
        let seen = self.0.into_inner();
        eprintln!("{seen:?}");
        let outcomes = [
            "not judged",
            "itself",
            "open",
            "audited",
            "default deny",
            "NetworkPolicy",
            "Accept",
            "Deny",
            "passed on",
        ];
        let misses = [
            "pod_label",
            "namespace_label",
            "node_label",
            "namespace",
            "no_pod",
            "no_node",
            "block",
            "except",
            "protocol",
            "port",
            "named_port",
            "service_account",
            "set",
        ];
        let mended = ["mended port", "mended label"];
        for what in outcomes.iter().chain(&misses).chain(&mended) {
            assert!(seen.get(*what).is_some_and(|count| *count >= 10), "{what}: {seen:?}");
        }
    }
}

fn flow<'a>(ends: (&Found<'a>, &Found<'a>), carries: (Option<Protocol>, u16)) -> Flow<'a> {
    let end = |found: &Found<'a>| End { addr: found.addr, pod: found.pod, node: None };
    Flow { source: end(ends.0), destination: end(ends.1), protocol: carries.0, port: carries.1 }
}

/// An explainer of the two ends alone says what one of all pods says.
fn check_alone(
    cluster: &Snapshot,
    all: &Explainer,
    ends: (&Found<'_>, &Found<'_>),
    carries: (Option<Protocol>, u16),
) -> Result<(), TestCaseError> {
    let alone = Explainer::new(cluster, [ends.0.pod, ends.1.pod].into_iter().flatten());
    let flow = flow(ends, carries);
    let (alone, all) = (alone.explain(&flow), all.explain(&flow));
    for (one, other) in [(&alone.egress, &all.egress), (&alone.ingress, &all.ingress)] {
        prop_assert_eq!(&one.outcome, &other.outcome, "{:?}", flow);
        prop_assert!(one.agrees);
    }
    Ok(())
}

fn check(
    cluster: &Snapshot,
    tables: &Dataplane,
    explainer: &Explainer,
    ends: (&Found<'_>, &Found<'_>),
    carries: (Option<Protocol>, u16),
    seen: &Seen,
) -> Result<(), TestCaseError> {
    let flow = flow(ends, carries);
    let wanted = networkpolicy(cluster, &oracle_flow(ends, carries));
    let found = explainer.explain(&flow);
    let ready = found.egress.outcome != Outcome::NotReady && found.ingress.outcome != Outcome::NotReady;
    if ready {
        prop_assert_eq!(found.allows(), wanted.allowed, "{:?}", flow);
    }
    let [egress, ingress] = wanted.audited;
    for (judgement, decision, audited, (subject, peer)) in [
        (&found.egress, &wanted.egress, egress, ends),
        (&found.ingress, &wanted.ingress, ingress, (ends.1, ends.0)),
    ] {
        if judgement.outcome != Outcome::NotReady {
            prop_assert_eq!(judgement.audited, audited, "{:?}", flow);
        }
        if audited {
            seen.see("audited");
        }
        prop_assert!(judgement.agrees, "the walk and the tables: {:?} of {:?}", judgement, flow);
        check_verdict(judgement, decision, seen)?;
        if let Some(attachment) = subject.attachment
            && judgement.outcome != Outcome::Itself
        {
            let question = Question {
                direction: judgement.direction,
                peer: peer.addr,
                protocol: carries.0,
                port: carries.1,
            };
            let row = verdict(tables, attachment, &question);
            prop_assert_eq!(&row, &as_verdict(judgement), "{:?}", flow);
        }
        check_rules(cluster, judgement, decision, &flow, seen)?;
        check_mending(cluster, judgement, ends, carries, seen)?;
    }
    Ok(())
}

/// What the naive reader of tables would call it.
fn as_verdict(judgement: &Judgement<'_>) -> Verdict {
    match &judgement.outcome {
        Outcome::Ruled(ruling) => match (ruling.allows, ruling.origin.clone()) {
            (true, None) => Verdict::Open,
            (true, Some(origin)) => Verdict::Allowed(origin),
            (false, None) => Verdict::Denied,
            (false, Some(origin)) => Verdict::Refused(origin),
        },
        Outcome::NotReady => Verdict::Closed,
        Outcome::NotJudged | Outcome::Itself | Outcome::OwnNode => Verdict::NoPod,
    }
}

fn origin(judgement: &Judgement<'_>) -> Option<Origin> {
    match &judgement.outcome {
        Outcome::Ruled(ruling) => ruling.origin.clone(),
        Outcome::NotJudged | Outcome::Itself | Outcome::OwnNode | Outcome::NotReady => None,
    }
}

fn check_verdict(judgement: &Judgement<'_>, decision: &Decision, seen: &Seen) -> Result<(), TestCaseError> {
    let direction = judgement.direction;
    let origin = origin(judgement);
    let (agrees, what) = match (&judgement.outcome, decision) {
        (Outcome::NotJudged, Decision::NotJudged) => (true, "not judged"),
        (Outcome::Itself, Decision::NotJudged) => (true, "itself"),
        // The oracle knows no attachments.
        (Outcome::NotReady, _) => (true, "not ready"),
        (Outcome::Ruled(ruling), Decision::NotIsolated) => (ruling.allows && origin.is_none(), "open"),
        (Outcome::Ruled(ruling), Decision::Denied(isolating)) => {
            let named = judgement.consulted.iter().filter_map(|of| match of.policy {
                Policy::Network(policy) => Some(&policy.key),
                Policy::Cluster(_) => None,
            });
            (!ruling.allows && origin.is_none() && named.eq(isolating), "default deny")
        }
        (Outcome::Ruled(ruling), Decision::Allowed(rules)) => {
            let named = origin.as_ref().is_some_and(|of| {
                of.direction == direction
                    && rules.contains(&Allowed { policy: of.policy.clone(), rule: of.rule })
            });
            (ruling.allows && named, "NetworkPolicy")
        }
        (Outcome::Ruled(ruling), Decision::Accepted(by)) => {
            (ruling.allows && origin == Some(origin_of(by, direction)), "Accept")
        }
        (Outcome::Ruled(ruling), Decision::Refused(by)) => {
            (!ruling.allows && origin == Some(origin_of(by, direction)), "Deny")
        }
        _ => (false, "nothing"),
    };
    prop_assert!(agrees, "explained {:?}, objects {:?}", judgement, decision);
    seen.see(what);
    Ok(())
}

/// The rule that decides is the origin; of the NetworkPolicies those match that the oracle says; and every miss is one.
fn check_rules(
    cluster: &Snapshot,
    judgement: &Judgement<'_>,
    decision: &Decision,
    flow: &Flow<'_>,
    seen: &Seen,
) -> Result<(), TestCaseError> {
    let (mut deciding, mut matching, mut accepting) = (Vec::new(), BTreeSet::new(), false);
    for of in &judgement.consulted {
        let policy = of.policy.key();
        for step in &of.rules {
            match &step.effect {
                Effect::Decides | Effect::Matches => {
                    if matches!(of.policy, Policy::Network(_)) {
                        matching.insert(Allowed { policy: policy.clone(), rule: step.rule });
                    }
                    if step.effect == Effect::Decides {
                        let direction = judgement.direction;
                        deciding.push(Origin { policy: policy.clone(), direction, rule: step.rule });
                    }
                }
                Effect::Passes => {
                    prop_assert_eq!(step.action, Action::Pass);
                    seen.see("passed on");
                }
                Effect::Missed(misses) => {
                    accepting |= step.action == Action::Accept;
                    prop_assert!(!misses.is_empty());
                    for miss in misses {
                        seen.see(miss.word());
                        prop_assert!(holds(cluster, judgement, miss, flow), "{} of {:?}", miss, flow);
                    }
                }
                Effect::NotAsked => {}
            }
        }
    }
    prop_assert_eq!(deciding, origin(judgement).into_iter().collect::<Vec<_>>());
    if let Decision::Allowed(rules) = decision
        && judgement.outcome != Outcome::NotReady
    {
        prop_assert_eq!(matching, rules.iter().cloned().collect());
    } else {
        prop_assert!(matching.is_empty());
    }
    if matches!(decision, Decision::Denied(_)) && judgement.outcome != Outcome::NotReady {
        prop_assert_eq!(judgement.nearest.is_some(), accepting);
    } else {
        prop_assert_eq!(judgement.nearest, None);
    }
    Ok(())
}

/// Whether the packet really lacks what the miss names.
fn holds(cluster: &Snapshot, judgement: &Judgement<'_>, miss: &Miss, flow: &Flow<'_>) -> bool {
    let addr = match judgement.direction {
        Direction::Egress => flow.destination.addr,
        Direction::Ingress => flow.source.addr,
    };
    let receiver = match judgement.direction {
        Direction::Egress => judgement.peer,
        Direction::Ingress => judgement.subject,
    };
    match miss {
        Miss::Label { of: Whose::Pod, key, found, .. } => {
            judgement.peer.is_some_and(|pod| pod.labels.get(key) == found.as_ref())
        }
        Miss::Label { of: Whose::Namespace, key, found, .. } => {
            judgement.peer.is_some_and(|pod| match cluster.namespaces.get(&pod.key.namespace) {
                Some(namespace) => namespace.labels.get(key) == found.as_ref(),
                None => found.as_ref().is_none_or(|found| *found == pod.key.namespace),
            })
        }
        Miss::Label { of: Whose::Node, key, found, .. } => cluster.nodes.values().any(|node| {
            let mut own = node.addresses.iter().chain(&node.other_addresses);
            own.any(|own| *own == addr) && node.labels.get(key) == found.as_ref()
        }),
        Miss::OtherNamespace { wanted, found } => {
            wanted != found
                && judgement.peer.is_some_and(|pod| pod.key.namespace == *found)
                && judgement.subject.is_some_and(|pod| pod.key.namespace == *wanted)
        }
        Miss::NoPod => judgement.peer.is_none(),
        Miss::NoNode => cluster.nodes.values().all(|node| !node.addresses.contains(&addr)),
        Miss::OutsideBlock { block, .. } => !block.contains(&addr),
        Miss::Except { block, except, .. } => block.contains(&addr) && except.contains(&addr),
        Miss::ServiceAccount { wanted, found } => judgement.peer.is_some_and(|pod| {
            pod.service_account == *found && wanted.split(" or ").all(|name| *name != **found)
        }),
        Miss::OutsideSet { of, .. } => match of.strip_prefix("NetworkSet ") {
            Some(name) => cluster.network_sets[name].networks.iter().all(|block| !block.contains(&addr)),
            None => of.starts_with("NetworkSets ") || of.starts_with("Service "),
        },
        Miss::OtherName { pattern, .. } => {
            let mut names = cluster.learnt_names.iter().filter(|(name, _)| pattern.matches(name));
            names.all(|(_, addresses)| !addresses.contains(&addr))
        }
        Miss::NoPeers => true,
        Miss::Protocol { wanted, found } => *found == flow.protocol && Some(*wanted) != flow.protocol,
        Miss::Port { wanted, .. } => flow.port < wanted.first().get() || wanted.last().get() < flow.port,
        Miss::NamedPort { name, protocol, pod, numbers, .. } => {
            receiver.map(|pod| &pod.key) == pod.as_ref()
                && receiver.is_none_or(|pod| pod.named_ports(name, *protocol) == *numbers)
                && numbers.iter().all(|number| number.get() != flow.port)
        }
    }
}

/// A packet or a peer without the only thing that the nearest rule of a NetworkPolicy misses is allowed by this rule.
fn check_mending(
    cluster: &Snapshot,
    judgement: &Judgement<'_>,
    ends: (&Found<'_>, &Found<'_>),
    carries: (Option<Protocol>, u16),
    seen: &Seen,
) -> Result<(), TestCaseError> {
    let Some(nearest) = judgement.nearest else { return Ok(()) };
    let of = &judgement.consulted[nearest.policy];
    let step = &of.rules[nearest.rule];
    let (Policy::Network(policy), Effect::Missed(misses)) = (of.policy, &step.effect) else { return Ok(()) };
    let allowed = Allowed { policy: policy.key.clone(), rule: step.rule };
    let (mended, carries, kind) = match misses.as_slice() {
        [Miss::Port { wanted, .. }] => (cluster.clone(), (carries.0, wanted.first().get()), "mended port"),
        [Miss::Label { of: Whose::Pod, wanted, key, .. }] => {
            let (Some((_, value)), Some(peer)) = (wanted.split_once('='), judgement.peer) else {
                return Ok(());
            };
            // A selector may ask for two things of one label that exclude each other.
            let contradicts = |of: &LabelSelector| of.match_expressions.iter().any(|other| other.key == *key);
            let rules = [&policy.ingress, &policy.egress].into_iter().flatten().flatten();
            let mut selectors = rules.flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
                Peer::Pods { pods, .. } => pods.as_ref(),
                Peer::Block(_) => None,
            });
            if selectors.any(contradicts) {
                return Ok(());
            }
            let (mut peer, mut mended) = (peer.clone(), cluster.clone());
            let mut labels = (*peer.labels).clone();
            labels.insert(key.clone(), value.into());
            peer.labels = labels.into();
            mended.pods.insert(peer.key.clone(), peer.into());
            (mended, carries, "mended label")
        }
        _ => return Ok(()),
    };
    let judged = networkpolicy(&mended, &oracle_flow(ends, carries));
    let decision = match judgement.direction {
        Direction::Ingress => judged.ingress,
        Direction::Egress => judged.egress,
    };
    // In a cluster with tiers, another port may be one that they decide.
    if let Decision::Accepted(_) | Decision::Refused(_) = decision {
        return Ok(());
    }
    let allows = matches!(&decision, Decision::Allowed(rules) if rules.contains(&allowed));
    prop_assert!(allows, "{:?} mended, and still {:?}", misses, decision);
    seen.see(kind);
    Ok(())
}
