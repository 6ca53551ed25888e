//! What `-o json` and `-o yaml` print.

use serde::Serialize;

/// What a change opens and closes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Differences {
    /// By effect (what closes first), by the end that decides.
    pub(crate) changes: Vec<Difference>,
    /// Pairs of a sender and a receiver of which some packets will pass that did not.
    pub(crate) opens: u64,
    /// Pairs of which some packets passed that will not.
    pub(crate) closes: u64,
    /// What agents recorded; none from files.
    pub(crate) flows: Option<Replay>,
    /// What was assumed, or is worth knowing.
    pub(crate) notes: Vec<String>,
}

/// Recorded flows, and what would become of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replay {
    /// How many there are.
    pub(crate) recorded: u64,
    /// Those of which an end is no more.
    pub(crate) unknown: u64,
    /// Flows that passed and would be denied, most first.
    pub(crate) closes: Vec<Replayed>,
    /// Flows that were denied and would pass, most first.
    pub(crate) opens: Vec<Replayed>,
}

/// Flows of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replayed {
    /// Workload, `nodes` or `world`.
    pub(crate) source: String,
    /// The same.
    pub(crate) destination: String,
    /// `8080/TCP`, or `ICMP`.
    pub(crate) port: String,
    /// How many.
    pub(crate) flows: u64,
}

/// What changes at one end in one way, on the same ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Difference {
    /// `opens` or `closes`.
    pub(crate) effect: &'static str,
    /// Who sends: one of these.
    pub(crate) source: Vec<Group>,
    /// Who receives: one of these.
    pub(crate) destination: Vec<Group>,
    /// `8080/TCP`, `1-65535/UDP`; `ICMP` is each other IP protocol too.
    pub(crate) ports: Vec<String>,
    /// `IPv4`, `IPv6`.
    pub(crate) families: Vec<String>,
    /// Whose policies make the difference: `egress` of the source, `ingress` of the destination.
    pub(crate) direction: String,
    /// What that end said.
    pub(crate) before: Said,
    /// What it says.
    pub(crate) after: Said,
}

/// [`Group::kind`]s.
pub(crate) const WORKLOAD: &str = "workload";
pub(crate) const NODES: &str = "nodes";
pub(crate) const WORLD: &str = "world";

/// Who sends or receives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    /// `workload`, `nodes` or `world`.
    pub(crate) kind: &'static str,
    /// Of a workload its name.
    pub(crate) name: Option<String>,
    /// Pods, nodes or blocks. An address belongs to the smallest block, of all groups, that has it.
    pub(crate) members: Vec<String>,
    /// How many there are of its kind, of a workload its pods; some of them may not be in the group.
    #[serde(skip)]
    pub(crate) whole: usize,
}

/// What one end says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Said {
    /// `allow` or `deny`.
    pub(crate) verdict: &'static str,
    /// NetworkPolicy, ClusterNetworkPolicy, ClusterTrafficPolicy, TrafficPolicy or TrafficTier; none for a default.
    pub(crate) kind: Option<&'static str>,
    /// `namespace/name`, or the name.
    pub(crate) policy: Option<String>,
    /// Index of the rule, from 0.
    pub(crate) rule: Option<u32>,
    /// Of a default denial, the NetworkPolicies that isolate the pod.
    pub(crate) selected_by: Vec<String>,
    /// The same as a sentence.
    pub(crate) message: String,
}
