//! What agents say of Services at their admin sockets, and what `-o json` and `-o yaml` print.

use serde::{Deserialize, Serialize};

/// The document `/services`, of one agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct List {
    /// The agent's node.
    pub(crate) node: String,
    /// Whether its kernel holds all of this.
    pub(crate) synced: bool,
    /// In the order of namespace and name.
    pub(crate) services: Vec<Row>,
}

/// A Service in short.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    /// `metadata.namespace`.
    pub(crate) namespace: String,
    /// `metadata.name`.
    pub(crate) name: String,
    /// `spec.type`.
    pub(crate) r#type: String,
    /// Cluster, external and load balancer addresses.
    pub(crate) addresses: Vec<String>,
    /// As kubectl writes them: `80/TCP`, with a node port `80:30080/TCP`.
    pub(crate) ports: Vec<String>,
    /// Endpoints that get new flows of clients on this node. A pod with an address of each family counts once.
    pub(crate) ready: usize,
    /// Endpoints that its EndpointSlices name.
    pub(crate) endpoints: usize,
    /// Live flows of this node to its endpoints, by whatever Service.
    pub(crate) connections: u64,
    /// How a backend is chosen.
    pub(crate) algorithm: String,
    /// Reasons of its conditions.
    pub(crate) conditions: Vec<String>,
}

/// The document `/services/show`, of one agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Detail {
    /// The agent's node.
    pub(crate) node: String,
    /// Whether its kernel holds all of this.
    pub(crate) synced: bool,
    /// In short.
    pub(crate) service: Row,
    /// Why it has no frontends, where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// What clients connect to.
    pub(crate) frontends: Vec<Frontend>,
    /// Its endpoints, once for each way to choose among them.
    pub(crate) choices: Vec<Choice>,
    /// What is wrong with it.
    pub(crate) conditions: Vec<Condition>,
}

/// What clients connect to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Frontend {
    /// `0.0.0.0` and `::` stand for every address of the node.
    pub(crate) address: String,
    /// The Service port or node port.
    pub(crate) port: u16,
    /// TCP, UDP or SCTP.
    pub(crate) protocol: String,
    /// `inside`: pods and processes of this node; `outside`: clients elsewhere, where they have other backends.
    pub(crate) scope: String,
    /// From where it is reached: `cluster`, `everywhere`, or `thisNode`.
    pub(crate) reach: Option<String>,
    /// How a backend is chosen.
    pub(crate) algorithm: Option<String>,
    /// Session affinity by client address, seconds.
    pub(crate) affinity_seconds: Option<u32>,
    /// The clients it admits; none given = all.
    pub(crate) source_ranges: Option<Vec<String>>,
    /// `balanced`, `refused` (no backend), `dropped` (none on this node, and the traffic policy is Local), or `conflict`.
    pub(crate) outcome: String,
    /// The Service that has the frontend, where another has it.
    pub(crate) held_by: Option<String>,
    /// Index in `choices`.
    pub(crate) choice: Option<usize>,
}

/// The endpoints of a Service port in one family, as clients on this node choose among them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Choice {
    /// Name of the Service port, empty for the only one.
    pub(crate) port_name: String,
    /// The Service port.
    pub(crate) port: u16,
    /// TCP, UDP or SCTP.
    pub(crate) protocol: String,
    /// IPv4 or IPv6.
    pub(crate) family: String,
    /// A traffic policy Local: only endpoints of this node count.
    pub(crate) only_this_node: bool,
    /// The port that clients use, where it cannot be translated (SCTP): only endpoints with it count.
    pub(crate) fixed_port: Option<u16>,
    /// In the order of the slices.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    /// Its first address.
    pub(crate) address: Option<String>,
    /// Its port.
    pub(crate) port: Option<u16>,
    /// Its Pod.
    pub(crate) pod: Option<String>,
    /// Its node.
    pub(crate) node: Option<String>,
    /// The EndpointSlice.
    pub(crate) slice: String,
    /// `chosen`, `draining` (no new flows; it keeps those that it has) or `out`.
    pub(crate) state: String,
    /// Why it is not chosen: a stable word.
    pub(crate) reason: Option<String>,
    /// The same as a sentence.
    pub(crate) message: Option<String>,
    /// Its weight, 0..=100.
    pub(crate) weight: u8,
    /// Live flows of this node to it, by whatever Service.
    pub(crate) connections: u64,
}

/// Something wrong with the Service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Condition {
    /// CamelCase.
    pub(crate) reason: String,
    /// What, why, how to fix.
    pub(crate) message: String,
}
