//! What name server and agent say to each other.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sheetbend_model::types::DomainPattern;

/// From the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FromAgent {
    /// What to tell of from now on: the names that policies in force on the node are for.
    Patterns(BTreeSet<DomainPattern>),
    /// The kernel knows what [`Answer`] number so and so said.
    Done(u64),
}

/// From the name server: addresses that it is about to say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    /// Given back in [`FromAgent::Done`].
    pub(crate) number: u64,
    /// The name that was asked for and its aliases, in lower case, without a dot at the end.
    pub(crate) names: Vec<String>,
    /// The addresses that all of them have.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// How long they may be remembered, seconds.
    pub(crate) ttl: u32,
}
