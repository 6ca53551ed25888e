//! The document: each flow of a question, explained.

use std::collections::BTreeSet;

use ipnet::IpNet;
use sheetbend_compile::why::{self, Consulted, Effect, Explainer, Flow, Judgement, Outcome};
use sheetbend_model::state::traffic::written_as;
use sheetbend_model::state::{Action, Snapshot};
use sheetbend_model::types::{Direction, ObjectKey};

use super::resolve::{Candidate, Party, resolve};
use super::target::{Destination, Target};
use super::unserved::Unserved;
use super::wire::{Decider, End, Miss, Nearest, Path, Policy, Rule, Side, Why};
use crate::ask::Failure;
use crate::policy::text::{cluster_rule, network_rule};

/// Explains what `source` meets at `destination`. `service_ranges` are those of cluster addresses.
pub(crate) fn explain(
    snapshot: &Snapshot,
    service_ranges: &[IpNet],
    source: &Target,
    destination: &Destination,
) -> Result<Why, Failure> {
    let resolved = resolve(snapshot, service_ranges, source, destination)?;
    let subjects = subjects(snapshot, &resolved.candidates);
    let explainer = Explainer::new(snapshot, &subjects);
    let mut notes = resolved.notes;
    notes.extend(names(snapshot, &resolved.candidates));
    notes.extend(why::staged_selecting(snapshot, &subjects).iter().map(|policy| {
        let (kind, name) = written_as(policy);
        format!("{kind} {name} is staged: it selects an end of this, and is not asked")
    }));
    let paths: Vec<Path> =
        resolved.candidates.iter().map(|candidate| path(&explainer, candidate, destination)).collect();
    let allowed = paths.iter().filter(|path| path.verdict == "allow").count();
    let verdict = match (paths.len(), allowed) {
        (0, _) => "refuse",
        (all, allowed) if all == allowed => resolved.unserved.map_or("allow", Unserved::verdict),
        (_, 0) => "deny",
        _ => "mixed",
    };
    Ok(Why {
        source: source.to_string(),
        destination: destination.to_string(),
        verdict: verdict.to_owned(),
        at_source: is_here(snapshot, &resolved.candidates),
        notes,
        paths,
    })
}

/// Whether a sender is a pod that is attached on the node that has `snapshot`.
fn is_here(snapshot: &Snapshot, candidates: &[Candidate]) -> bool {
    let attached: BTreeSet<_> = snapshot.attachments.values().filter_map(|of| of.pod.as_ref()).collect();
    candidates.iter().filter_map(|of| of.source.pod.as_ref()).any(|pod| attached.contains(pod))
}

/// The domain names that the receivers' addresses were learnt by.
fn names(snapshot: &Snapshot, candidates: &[Candidate]) -> Vec<String> {
    let addresses: BTreeSet<_> = candidates.iter().map(|of| of.destination.addr.to_canonical()).collect();
    let has = |addr| {
        let names = snapshot.learnt_names.iter().filter(move |(_, own)| own.contains(addr));
        let names: Vec<&str> = names.map(|(name, _)| &**name).collect();
        (!names.is_empty()).then(|| format!("{addr} was learnt as an address of {}", names.join(", ")))
    };
    addresses.iter().filter_map(has).collect()
}

/// The pods at either end, and whoever else claims their addresses.
fn subjects(snapshot: &Snapshot, candidates: &[Candidate]) -> BTreeSet<ObjectKey> {
    let ends = || candidates.iter().flat_map(|of| [&of.source, &of.destination]);
    let addresses: BTreeSet<_> = ends().map(|end| end.addr).collect();
    let by_address = snapshot.pods.values().filter(|pod| {
        pod.is_peer() && pod.addresses.iter().any(|addr| addresses.contains(&addr.to_canonical()))
    });
    let named = ends().filter_map(|end| end.pod.clone());
    named.chain(by_address.map(|pod| pod.key.clone())).collect()
}

fn path(explainer: &Explainer, candidate: &Candidate, asked: &Destination) -> Path {
    let flow = Flow {
        source: end_of(&candidate.source),
        destination: end_of(&candidate.destination),
        protocol: asked.protocol,
        port: candidate.port,
    };
    let explanation = explainer.explain(&flow);
    let (sender, receiver) = (explanation.egress.subject, explanation.ingress.subject);
    let end = |party: &Party, pod: Option<&sheetbend_model::state::Pod>| End {
        address: party.addr.to_string(),
        pod: pod.map(|pod| pod.key.to_string()),
        node: party.node.as_ref().map(ToString::to_string),
    };
    Path {
        source: end(&candidate.source, sender),
        destination: end(&candidate.destination, receiver),
        protocol: asked.protocol.map_or("ICMP".to_owned(), |protocol| protocol.to_string()),
        port: asked.protocol.map(|_| candidate.port),
        service: candidate.service.as_ref().map(ToString::to_string),
        verdict: verdict(explanation.allows()).to_owned(),
        egress: side(&explanation.egress),
        ingress: side(&explanation.ingress),
    }
}

fn end_of(party: &Party) -> why::End<'_> {
    why::End { addr: party.addr, pod: party.pod.as_ref(), node: party.node.as_ref() }
}

fn verdict(allows: bool) -> &'static str {
    if allows { "allow" } else { "deny" }
}

fn side(of: &Judgement<'_>) -> Side {
    let ruling = match &of.outcome {
        Outcome::Ruled(ruling) => Some(ruling),
        Outcome::NotJudged | Outcome::Itself | Outcome::OwnNode | Outcome::NotReady => None,
    };
    let origin = ruling.and_then(|ruling| ruling.origin.as_ref());
    let outcome = match &of.outcome {
        Outcome::NotJudged => "not_judged",
        Outcome::Itself => "itself",
        Outcome::OwnNode => "own_node",
        Outcome::NotReady => "not_ready",
        Outcome::Ruled(_) if origin.is_some() => "rule",
        Outcome::Ruled(_) => "default",
    };
    let isolating = of.consulted.iter().filter(|of| matches!(of.policy, why::Policy::Network(_)));
    let nearest = of.nearest.and_then(|nearest| {
        let consulted = of.consulted.get(nearest.policy)?;
        let step = consulted.rules.get(nearest.rule)?;
        let misses = misses(&step.effect);
        Some(Nearest { policy: written_as(&consulted.policy.key()).1.to_string(), rule: step.rule, misses })
    });
    Side {
        direction: of.direction.to_string(),
        verdict: verdict(of.allows()).to_owned(),
        outcome: outcome.to_owned(),
        audited: of.audited,
        message: if of.audited { format!("allowed: audit (would be {})", message(of)) } else { message(of) },
        decided_by: origin.map(|origin| Decider {
            kind: written_as(&origin.policy).0.to_owned(),
            policy: written_as(&origin.policy).1.to_string(),
            rule: origin.rule,
        }),
        selected_by: isolating.map(|of| of.policy.key().to_string()).collect(),
        consulted: of.consulted.iter().map(|consulted| policy(of.direction, consulted)).collect(),
        nearest,
        agrees: of.agrees,
    }
}

fn message(of: &Judgement<'_>) -> String {
    let direction = of.direction;
    let ruling = match &of.outcome {
        Outcome::NotJudged => return "no pod with policies of its own".to_owned(),
        Outcome::Itself => return "a pod always reaches itself".to_owned(),
        Outcome::OwnNode => return "a node always reaches its own pods, for its probes".to_owned(),
        Outcome::NotReady => {
            return "the pod drops everything until its policy is in place, and it is not yet".to_owned();
        }
        Outcome::Ruled(ruling) => ruling,
    };
    let networks = of.consulted.iter().filter(|of| matches!(of.policy, why::Policy::Network(_))).count();
    match (&ruling.origin, ruling.allows, networks) {
        (Some(by), allows, _) => {
            let word = if allows { "allowed" } else { "denied" };
            let (kind, policy) = written_as(&by.policy);
            if kind == "TrafficTier" {
                return format!("{word} by default of {kind} {policy}: no rule of it allows this");
            }
            format!("{word} by {kind} {policy}, {direction}[{}]", by.rule)
        }
        (None, false, 1) => {
            format!(
                "denied by default: a NetworkPolicy selects the pod for {direction}, and no rule allows this"
            )
        }
        (None, false, count) => format!(
            "denied by default: {count} NetworkPolicies select the pod for {direction}, and no rule of theirs allows this"
        ),
        (None, true, _) if of.consulted.is_empty() => {
            format!("allowed by default: no policy selects the pod for {direction}")
        }
        (None, true, _) => {
            format!(
                "allowed by default: no rule decides, and no NetworkPolicy selects the pod for {direction}"
            )
        }
    }
}

fn policy(direction: Direction, of: &Consulted<'_>) -> Policy {
    let (tier, priority, texts) = match of.policy {
        why::Policy::Cluster(policy) => (
            Some(policy.tier.to_string()),
            Some(policy.priority.get()),
            policy.rules(direction).iter().map(|rule| cluster_rule(direction, rule)).collect::<Vec<_>>(),
        ),
        why::Policy::Network(policy) => {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            (None, None, rules.iter().flatten().map(|rule| network_rule(direction, rule)).collect())
        }
    };
    let rules = of.rules.iter().zip(texts).map(|(step, text)| Rule {
        rule: step.rule,
        name: step.name.to_owned(),
        action: match step.action {
            Action::Accept => "Accept",
            Action::Deny => "Deny",
            Action::Pass => "Pass",
        }
        .to_owned(),
        text,
        effect: match &step.effect {
            Effect::Decides => "decides",
            Effect::Matches => "matches",
            Effect::Passes => "passes",
            Effect::Missed(_) => "misses",
            Effect::NotAsked => "not_asked",
        }
        .to_owned(),
        misses: misses(&step.effect),
    });
    let (kind, name) = written_as(&of.policy.key());
    Policy { kind: kind.to_owned(), name: name.to_string(), tier, priority, rules: rules.collect() }
}

fn misses(effect: &Effect) -> Vec<Miss> {
    match effect {
        Effect::Missed(misses) => misses
            .iter()
            .map(|miss| Miss { reason: miss.word().to_owned(), message: miss.to_string() })
            .collect(),
        Effect::Decides | Effect::Matches | Effect::Passes | Effect::NotAsked => Vec::new(),
    }
}
