//! Where cyclonus reads the API otherwise. Each reading is turned into a cluster in which the oracle, asked as always,
//! says what follows from it: a difference is explained only if such a cluster gives exactly the other verdict.
//!
//! The table of docs/conformance/networkpolicy.md has the sentences that decide.

use std::sync::Arc;

use sheetbend_model::state::{LabelSelector, NetworkPolicy, Operator, Peer, Requirement, Snapshot};
use sheetbend_model::types::ObjectKey;

use crate::cyclonus::Verdict;
use crate::packets::Packet;

/// A sentence that cyclonus reads otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reading {
    /// `NotIn` does not match where the label is absent.
    NotIn,
    /// hostNetwork pods are pods as others are.
    HostNetwork,
    /// A pod may be kept from reaching itself.
    Itself,
}

use Reading::{HostNetwork, Itself, NotIn};

/// All sets of readings, the smaller ones first.
const SETS: [&[Reading]; 7] = [
    &[NotIn],
    &[HostNetwork],
    &[Itself],
    &[NotIn, HostNetwork],
    &[NotIn, Itself],
    &[HostNetwork, Itself],
    &[NotIn, HostNetwork, Itself],
];

/// The fewest readings that give `verdict`; `None` if none do.
pub(crate) fn explain(cluster: &Snapshot, packet: &Packet, verdict: Verdict) -> Option<&'static [Reading]> {
    SETS.into_iter().find(|readings| {
        let (mut cluster, mut packet) = (cluster.clone(), packet.clone());
        readings.iter().for_each(|reading| reading.apply(&mut cluster, &mut packet));
        packet.judge(&cluster) == verdict
    })
}

impl Reading {
    fn apply(self, cluster: &mut Snapshot, packet: &mut Packet) {
        match self {
            NotIn => {
                let policies: Vec<_> = cluster.policies.values().cloned().collect();
                for mut policy in policies {
                    let key = policy.key.clone();
                    selectors(Arc::make_mut(&mut policy)).for_each(require_label);
                    cluster.policies.insert(key, policy);
                }
            }
            HostNetwork => {
                let pods: Vec<_> = cluster.pods.values().filter(|pod| pod.host_network).cloned().collect();
                for mut pod in pods {
                    let key = pod.key.clone();
                    let own = Arc::make_mut(&mut pod);
                    own.host_network = false;
                    // The node's address itself still belongs to no pod.
                    own.addresses = Default::default();
                    cluster.pods.insert(key, pod);
                }
            }
            Itself => {
                let ends = &mut packet.ends;
                if ends.source.pod.is_none() || ends.source.pod != ends.destination.pod {
                    return;
                }
                let pod = ends.source.pod.as_ref().and_then(|key| cluster.pods.get(key)).cloned();
                let Some(mut twin) = pod else { return };
                let own = Arc::make_mut(&mut twin);
                own.key = ObjectKey::new(&*own.key.namespace, format!("{}-twin", own.key.name));
                own.addresses = Default::default();
                ends.destination.pod = Some(own.key.clone());
                cluster.pods.insert(twin.key.clone(), twin);
            }
        }
    }
}

fn selectors(policy: &mut NetworkPolicy) -> impl Iterator<Item = &mut LabelSelector> {
    let rules = policy.ingress.iter_mut().chain(&mut policy.egress).flatten();
    let peers = rules.flat_map(|rule| &mut rule.peers).flat_map(|peer| match peer {
        Peer::Pods { namespaces, pods } => [namespaces.as_mut(), pods.as_mut()],
        Peer::Block(_) => [None, None],
    });
    peers.flatten().chain([&mut policy.pod_selector])
}

fn require_label(selector: &mut LabelSelector) {
    let absent = selector.match_expressions.iter().filter(|each| each.operator == Operator::NotIn);
    let present: Vec<Requirement> = absent
        .map(|each| Requirement { key: each.key.clone(), operator: Operator::Exists, values: Vec::new() })
        .collect();
    selector.match_expressions.extend(present);
}
