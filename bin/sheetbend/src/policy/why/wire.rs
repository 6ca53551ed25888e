//! What agents say of a packet at their admin sockets, and what `-o json` and `-o yaml` print.

use serde::{Deserialize, Serialize};

/// The document `/policy/why`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Why {
    /// As asked.
    pub(crate) source: String,
    /// As asked, with port and protocol.
    pub(crate) destination: String,
    /// `allow`, `deny`, `mixed` (paths differ), or `refuse` (a Service without an endpoint).
    pub(crate) verdict: String,
    /// Whether the sender is a pod of the node whose agent explains. Domain names are known there as pods of that node were
    /// told of them.
    #[serde(default)]
    pub(crate) at_source: bool,
    /// What was assumed, or is worth knowing.
    pub(crate) notes: Vec<String>,
    /// One for each pair of addresses that the flow may have: families, and backends of a Service.
    pub(crate) paths: Vec<Path>,
}

impl Why {
    /// Whether a rule by domain names was looked at, and does not match as far as is known here.
    pub(crate) fn misses_a_name(&self) -> bool {
        let rules =
            self.paths.iter().flat_map(|path| &path.egress.consulted).flat_map(|policy| &policy.rules);
        rules.flat_map(|rule| &rule.misses).any(|miss| miss.reason == "domain_name")
    }
}

/// A flow from one address to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Path {
    /// Who sends.
    pub(crate) source: End,
    /// Who receives: behind a Service, its backend.
    pub(crate) destination: End,
    /// TCP, UDP, SCTP or ICMP.
    pub(crate) protocol: String,
    /// The receiver's port; none for ICMP.
    pub(crate) port: Option<u16>,
    /// The Service whose backend the receiver is.
    pub(crate) service: Option<String>,
    /// `allow` or `deny`.
    pub(crate) verdict: String,
    /// The sender's end.
    pub(crate) egress: Side,
    /// The receiver's.
    pub(crate) ingress: Side,
}

/// One end of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct End {
    /// Its address.
    pub(crate) address: String,
    /// Its pod.
    pub(crate) pod: Option<String>,
    /// The node whose address it is.
    pub(crate) node: Option<String>,
}

/// What one end's policies say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Side {
    /// `egress` or `ingress`.
    pub(crate) direction: String,
    /// `allow` or `deny`.
    pub(crate) verdict: String,
    /// `rule`, `default`, `not_judged`, `itself`, `own_node` or `not_ready`.
    pub(crate) outcome: String,
    /// It is denied, and passes: the pod is in audit.
    #[serde(default)]
    pub(crate) audited: bool,
    /// The same as a sentence.
    pub(crate) message: String,
    /// The rule that decided.
    pub(crate) decided_by: Option<Decider>,
    /// The NetworkPolicies that isolate the pod in this direction.
    pub(crate) selected_by: Vec<String>,
    /// Policies of this direction that select the pod, in the order of evaluation.
    pub(crate) consulted: Vec<Policy>,
    /// Of a default deny: the rule that would allow it and is nearest to a match.
    pub(crate) nearest: Option<Nearest>,
    /// `false` where the policies, read one by one, and the tables differ: our fault.
    pub(crate) agrees: bool,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Decider {
    /// NetworkPolicy, ClusterNetworkPolicy, ClusterTrafficPolicy, TrafficPolicy, or TrafficTier for its default.
    pub(crate) kind: String,
    /// `namespace/name`, or the name.
    pub(crate) policy: String,
    /// Index in `spec.ingress` or `spec.egress`, from 0.
    pub(crate) rule: u32,
}

/// A policy that was consulted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Policy {
    /// NetworkPolicy, ClusterNetworkPolicy, ClusterTrafficPolicy, TrafficPolicy, or TrafficTier for its default.
    pub(crate) kind: String,
    /// `namespace/name`, or the name.
    pub(crate) name: String,
    /// Of a ClusterNetworkPolicy: Admin or Baseline. Of a ClusterTrafficPolicy: its TrafficTier, or `(none)`.
    pub(crate) tier: Option<String>,
    /// Of a ClusterNetworkPolicy; of TrafficPolicies of both kinds their order.
    pub(crate) priority: Option<u16>,
    /// Its rules of the direction.
    pub(crate) rules: Vec<Rule>,
}

/// A rule of a consulted policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rule {
    /// Index, from 0.
    pub(crate) rule: u32,
    /// Its name; empty where it has none.
    pub(crate) name: String,
    /// Accept, Deny or Pass; a NetworkPolicy's rules accept.
    pub(crate) action: String,
    /// What it is about, in a line.
    pub(crate) text: String,
    /// `decides`, `matches`, `passes`, `misses` or `not_asked`.
    pub(crate) effect: String,
    /// By what it does not match.
    pub(crate) misses: Vec<Miss>,
}

/// One thing that a rule asks for and the packet does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Miss {
    /// A stable word.
    pub(crate) reason: String,
    /// A sentence.
    pub(crate) message: String,
}

/// The rule nearest to a match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Nearest {
    /// Its policy.
    pub(crate) policy: String,
    /// Its index.
    pub(crate) rule: u32,
    /// By what it does not match.
    pub(crate) misses: Vec<Miss>,
}
