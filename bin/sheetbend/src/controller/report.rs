//! What is wrong with the users' objects, said where they look: an Event on the object, and a condition where its kind
//! has conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sheetbend_compile::Compiler;
use sheetbend_intake::file::{Kind, ObjectId, Problem};
use sheetbend_intake::kube::Client;
use sheetbend_model::state::Snapshot;
use tokio::time::sleep;
use tracing::{debug, warn};

/// Condition type on Services.
const ACCEPTED: &str = "sheetbend.dev/Accepted";
/// Reason of what the API does not allow.
pub(super) const INVALID: &str = "Invalid";
/// Reason of what the API allows and nobody acts on yet.
pub(super) const NOT_SUPPORTED: &str = "NotSupported";
/// Reason of what names an object that is not there.
pub(super) const NOT_FOUND: &str = "NotFound";
/// Reason of what says of itself in no known word whether it is enforced.
const TREATED_AS_ENFORCED: &str = "TreatedAsEnforced";
/// Between two Events, so that a thousand broken objects are no storm.
const PACE: Duration = Duration::from_millis(100);

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fault {
    pub(super) object: ObjectId,
    /// CamelCase.
    pub(super) reason: &'static str,
    /// What, why, how to fix.
    pub(super) message: Arc<str>,
}

/// Everything wrong with the cluster's objects that does not depend on the node.
pub(super) fn faults(
    compiler: &mut Compiler,
    snapshot: &Snapshot,
    problems: &BTreeMap<ObjectId, Arc<[Problem]>>,
) -> BTreeSet<Fault> {
    let refused = problems.iter().flat_map(|(object, found)| {
        found.iter().map(|problem| {
            let (reason, message) = if matches!(problem, Problem::Disregarded { .. }) {
                (TREATED_AS_ENFORCED, problem.to_string())
            } else {
                let is_not_built = matches!(problem, Problem::NotBuilt { .. });
                let reason = if is_not_built { NOT_SUPPORTED } else { INVALID };
                (reason, format!("{problem}. {}", effect(object.kind)))
            };
            Fault { object: object.clone(), reason, message: message.into() }
        })
    });
    // The plan is for nobody: only what it says of objects is wanted.
    drop(compiler.update(snapshot));
    let compiled = compiler.conditions().into_iter().filter_map(|condition| {
        let kind = Kind::named(condition.kind)?;
        Some(Fault {
            object: ObjectId::new(kind, &condition.object.namespace, &condition.object.name),
            reason: condition.reason,
            message: condition.message,
        })
    });
    refused.chain(compiled).collect()
}

fn effect(kind: Kind) -> &'static str {
    match kind {
        Kind::NetworkPolicy => {
            "Until it is put right, the pods it selects are isolated and nothing is allowed"
        }
        Kind::TrafficTier => {
            "Until it is put right, policies that name it stand before all other tiers, and only their denials count"
        }
        Kind::NetworkSet => {
            "Until it is put right, rules with it fail closed: such an Accept rule matches nothing, such a Deny or Pass \
             rule denies everything"
        }
        Kind::ClusterNetworkPolicy | Kind::ClusterTrafficPolicy | Kind::TrafficPolicy => {
            "Until it is put right, what is wrong fails closed: such an Accept rule matches nothing, such a Deny or Pass \
             rule denies everything"
        }
        Kind::Service | Kind::EndpointSlice => "Until it is put right, it is treated as absent",
        Kind::ServiceCIDR => "Until it is put right, no packet is dropped on its account",
        Kind::Tenant => {
            "Until it is put right, it has the namespaces that its labels name as far as they are understood"
        }
        Kind::LoadBalancerPool => "Until it is put right, it gives out no addresses; those given stay",
        Kind::L2Announcement => "Until it is put right, it announces nothing",
        Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::Deployment
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::ReplicaSet
        | Kind::Job => "What is wrong in it is left out",
    }
}

/// Tells users, each fault once for as long as it lasts.
pub(super) struct Reports {
    client: Client,
    /// This controller's name.
    instance: String,
    told: BTreeSet<Fault>,
}

impl Reports {
    /// `instance` is this controller's name.
    pub(super) fn new(client: Client, instance: String) -> Self {
        // At most 128 characters (events.k8s.io/v1).
        Self { client, instance: instance.chars().take(128).collect(), told: BTreeSet::new() }
    }

    /// Says what is new among `faults`. What cannot be said is tried again with the next call.
    pub(super) async fn tell(&mut self, faults: BTreeSet<Fault>) {
        let gone: Vec<Fault> = self.told.difference(&faults).cloned().collect();
        let new: Vec<Fault> = faults.difference(&self.told).cloned().collect();
        let services: BTreeSet<&ObjectId> = gone
            .iter()
            .chain(&new)
            .map(|fault| &fault.object)
            .filter(|object| object.kind == Kind::Service)
            .collect();
        for service in services {
            let open = faults.iter().filter(|fault| fault.object == *service).collect::<Vec<_>>();
            self.condition(service, &open).await;
        }
        for fault in gone {
            self.told.remove(&fault);
        }
        for fault in new {
            if self.event(&fault).await {
                self.told.insert(fault);
            }
            sleep(PACE).await;
        }
    }

    /// Writes an Event that says `fault`, unless there is one: its name tells the object and what is wrong with it, so
    /// that the next leader repeats nothing.
    async fn event(&self, fault: &Fault) -> bool {
        let written = async {
            let regarding = self.reference(&fault.object).await?;
            let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
            let event = Event {
                metadata: ObjectMeta {
                    name: Some(event_name(fault, regarding.uid.as_deref())),
                    namespace: Some(namespace.clone()),
                    ..ObjectMeta::default()
                },
                type_: Some("Warning".to_owned()),
                reason: Some(fault.reason.to_owned()),
                // At most 1 kB (events.k8s.io/v1).
                note: Some(fault.message.chars().take(1000).collect()),
                action: Some("Compile".to_owned()),
                event_time: Some(MicroTime(Timestamp::now())),
                regarding: Some(regarding),
                reporting_controller: Some("sheetbend.dev/controller".to_owned()),
                reporting_instance: Some(self.instance.clone()),
                ..Event::default()
            };
            let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
            api.create(&PostParams::default(), &event).await.map(drop)
        };
        match written.await {
            Ok(()) => true,
            // It is said already, or the object is gone.
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => true,
            Err(error) => {
                warn!(object = %fault.object, "cannot write an Event: {error}");
                false
            }
        }
    }

    /// Names `object`. With its uid where `kubectl describe` looks for Events that we write: it shows no others.
    async fn reference(&self, object: &ObjectId) -> Result<ObjectReference, kube::Error> {
        let client = self.client.clone();
        let uid = if object.kind == Kind::NetworkPolicy {
            let api: Api<NetworkPolicy> = Api::namespaced(client, &object.namespace);
            api.get_metadata(&object.name).await?.metadata.uid
        } else if object.kind == Kind::Service {
            let api: Api<Service> = Api::namespaced(client, &object.namespace);
            api.get_metadata(&object.name).await?.metadata.uid
        } else {
            None
        };
        Ok(ObjectReference {
            api_version: Some(object.kind.api_version().to_owned()),
            kind: Some(object.kind.name().to_owned()),
            namespace: Some(object.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            name: Some(object.name.to_string()),
            uid,
            ..ObjectReference::default()
        })
    }

    async fn condition(&self, service: &ObjectId, open: &[&Fault]) {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace);
        let patch = condition(open);
        match api.patch_status(&service.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => debug!(%service, "is gone"),
            Err(error) => warn!(%service, "cannot write its condition: {error}"),
        }
    }
}

fn condition(open: &[&Fault]) -> Value {
    let messages: Vec<&str> = open.iter().map(|fault| fault.message.as_ref()).collect();
    let condition = match open.first() {
        Some(first) => json!({"type": ACCEPTED, "status": "False", "reason": first.reason,
            "message": messages.join("; "), "lastTransitionTime": Timestamp::now().to_string()}),
        None => json!({"type": ACCEPTED, "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": Timestamp::now().to_string()}),
    };
    json!({"status": {"conditions": [condition]}})
}

/// One name for each object and fault. A hasher that changes with the compiler costs one Event said twice.
fn event_name(fault: &Fault, uid: Option<&str>) -> String {
    let mut hasher = DefaultHasher::new();
    (fault.object.kind.name(), &fault.object.namespace, &fault.object.name, uid).hash(&mut hasher);
    (fault.reason, &fault.message).hash(&mut hasher);
    // A name has at most 253 characters and ends in a letter or digit (RFC 1123).
    let object: String = fault.object.name.chars().take(236).collect();
    format!("{}.{:016x}", object.trim_end_matches(['.', '-']), hasher.finish())
}
