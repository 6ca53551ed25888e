//! `policy.*`.

use serde::Serialize;

use super::{Sources, yes_or_no};

/// How policies are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyConfig {
    /// `policy.audit`: what policies deny passes, and is told, for every pod of this node.
    pub audit: bool,
}

impl PolicyConfig {
    pub(super) fn load(sources: &mut Sources) -> Self {
        Self { audit: sources.text("policy.audit", yes_or_no).unwrap_or_default() }
    }
}
