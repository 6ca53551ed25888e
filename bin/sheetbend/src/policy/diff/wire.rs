//! What `-o json` and `-o yaml` print.

use serde::Serialize;

/// What a change opens and closes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Differences {
    /// By effect (what closes first), by the end that decides, by who is at the other.
    pub(crate) changes: Vec<Difference>,
    /// Pairs of a sender and a receiver of which some packets will pass that did not.
    pub(crate) opens: u64,
    /// Pairs of which some packets passed that will not.
    pub(crate) closes: u64,
    /// What was assumed, or is worth knowing.
    pub(crate) notes: Vec<String>,
}

/// What changes between two groups, for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Difference {
    /// `opens` or `closes`.
    pub(crate) effect: &'static str,
    /// Who sends.
    pub(crate) source: Group,
    /// Who receives.
    pub(crate) destination: Group,
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
    /// How many pods the workload has; some of them may not be in the group.
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
