//! What stands in an object's status of a condition that the controller writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::Value;

use crate::file::Object;

/// Condition type of policies with an order.
pub const ACCEPTED: &str = "Accepted";

/// Which version of the object there is, and the condition that somebody wrote on it. A status of its own does not make
/// the object another one, so that agents have nothing to do when it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// `metadata.generation`: counts changes of the spec.
    pub generation: Option<i64>,
    /// The condition of type [`ACCEPTED`], if there is one.
    pub accepted: Option<Condition>,
}

impl Standing {
    /// `None` for kinds without such a condition.
    pub(super) fn of(object: &Object) -> Option<Self> {
        let status = if let Object::ClusterNetworkPolicy(policy) = object {
            &policy.status
        } else if let Object::ClusterTrafficPolicy(policy) = object {
            &policy.status
        } else if let Object::TrafficPolicy(policy) = object {
            &policy.status
        } else {
            return None;
        };
        let conditions = status.as_ref().and_then(|status| status["conditions"].as_array());
        let is_ours = |condition: &&Value| condition["type"] == ACCEPTED;
        // One that cannot be read is written over.
        let read = |condition: &Value| serde_json::from_value(condition.clone()).ok();
        Some(Self {
            generation: object.metadata().generation,
            accepted: conditions.into_iter().flatten().find(is_ours).and_then(read),
        })
    }
}
