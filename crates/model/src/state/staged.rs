//! Policies that are evaluated beside the enforced ones.

use std::sync::Arc;

use imbl::OrdMap;

use super::{ClusterNetworkPolicy, NetworkPolicy, traffic};
use crate::types::ObjectKey;

/// Annotation of a policy of any kind: [`STAGED`] or [`ENFORCED`]; of a Namespace: [`AUDIT`] or [`ENFORCED`]. Another value
/// counts as enforced.
pub const ENFORCEMENT: &str = "sheetbend.dev/enforcement";
/// The policy is not enforced.
pub const STAGED: &str = "staged";
/// Of a Namespace: what policies deny its pods passes, and is told.
pub const AUDIT: &str = "audit";
/// It is enforced, as without the annotation.
pub const ENFORCED: &str = "enforced";

/// Policies with [`ENFORCEMENT`] [`STAGED`]. They are apart from the enforced ones, so that no verdict can depend on them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Staged {
    /// NetworkPolicy key → NetworkPolicy.
    pub policies: OrdMap<ObjectKey, Arc<NetworkPolicy>>,
    /// ClusterNetworkPolicy name → ClusterNetworkPolicy.
    pub cluster_policies: OrdMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    /// ClusterTrafficPolicies, without a namespace, and TrafficPolicies, by key.
    pub traffic_policies: OrdMap<ObjectKey, Arc<traffic::Policy>>,
}

impl Staged {
    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.policies.len() + self.cluster_policies.len() + self.traffic_policies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind and name of each, as a drop would name it ([`traffic::written_as`]).
    pub fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        let policies = self.policies.keys().cloned();
        let cluster = self.cluster_policies.values().map(|policy| policy.key());
        let of_traffic = |policy: &Arc<traffic::Policy>| ObjectKey::cluster_scoped(policy.called());
        policies.chain(cluster).chain(self.traffic_policies.values().map(of_traffic))
    }
}
