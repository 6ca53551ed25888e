//! What is wrong with policies that have an order, on no matter which node, and the condition that says on each of them
//! whether it is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sheetbend_compile::{SharedPlaces, TrafficFaults};
use sheetbend_intake::file::{Kind, ObjectId};
use sheetbend_intake::kube::{ACCEPTED, Client, Standing};
use sheetbend_intake::resources;
use sheetbend_model::plan;
use sheetbend_model::state::traffic::written_as;
use sheetbend_model::state::{ClusterNetworkPolicy, ENFORCEMENT, Snapshot};
use sheetbend_model::types::ObjectKey;
use tracing::{debug, warn};

use super::report::{Fault, INVALID, NOT_FOUND, NOT_SUPPORTED};

/// Whose fields the conditions are, for server-side apply.
const OWNER: &str = "sheetbend-controller";
/// Reason of a policy that is not enforced; it is followed as it is written.
const STAGED_REASON: &str = "Staged";
/// Conditions written between two looks at the rest of the cluster: a thousand new policies hold nothing else up.
const BATCH: usize = 50;
/// Longest message of a condition, characters (meta/v1: 32,768 bytes).
const MESSAGE: usize = 8_000;

/// The policies of the last Snapshot, and what was written on them.
pub(super) struct ClusterPolicies {
    client: Client,
    seen: OrdMap<Arc<str>, Arc<ClusterNetworkPolicy>>,
    places: SharedPlaces,
    /// Of policies with networks that no address matches.
    networks: BTreeMap<Arc<str>, Vec<Fault>>,
    traffic: TrafficFaults,
    told: BTreeMap<ObjectId, Wanted>,
}

/// What a condition shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    generation: Option<i64>,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl ClusterPolicies {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            seen: OrdMap::new(),
            places: SharedPlaces::default(),
            networks: BTreeMap::new(),
            traffic: TrafficFaults::default(),
            told: BTreeMap::new(),
        }
    }

    /// Looks at every condition anew with the next call.
    pub(super) fn forget(&mut self) {
        self.told.clear();
    }

    /// What is wrong with the policies that the API took and that are understood. Networks of ClusterNetworkPolicies are
    /// looked at once per version.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) -> Vec<Fault> {
        for item in self.seen.diff(&snapshot.cluster_policies) {
            let (name, found) = match item {
                DiffItem::Add(name, policy) | DiffItem::Update { new: (name, policy), .. } => {
                    (name, sheetbend_compile::unusable_networks(policy).into_iter().map(fault).collect())
                }
                DiffItem::Remove(name, _) => (name, Vec::new()),
            };
            if found.is_empty() {
                self.networks.remove(name);
            } else {
                self.networks.insert(Arc::clone(name), found);
            }
        }
        self.seen = snapshot.cluster_policies.clone();
        let shared = self.places.follow(snapshot);
        let found = shared.into_iter().chain(self.traffic.follow(snapshot)).map(fault);
        found
            .chain(self.networks.values().flatten().cloned())
            .chain(snapshot.staged.keys().map(staged))
            .collect()
    }

    /// Makes the condition on each policy say what `faults` say of it: where it says so, or was made to, nothing is
    /// written. False: there is more to write.
    pub(super) async fn tell(
        &mut self,
        standings: &OrdMap<ObjectId, Standing>,
        faults: &BTreeSet<Fault>,
    ) -> bool {
        let mut open: BTreeMap<&ObjectId, Vec<&Fault>> = BTreeMap::new();
        for fault in faults {
            open.entry(&fault.object).or_default().push(fault);
        }
        self.told.retain(|id, _| standings.contains_key(id));
        let (mut written, mut done) = (0, true);
        for (id, standing) in standings {
            let found = open.get(id).map(Vec::as_slice).unwrap_or_default();
            let wanted = Wanted::of(standing.generation, found);
            if self.told.get(id) == Some(&wanted) {
                continue;
            }
            if !wanted.stands(standing) {
                if written == BATCH {
                    return false;
                }
                written += 1;
                match self.write(id, standing, &wanted).await {
                    Ok(()) => {}
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        debug!(policy = %id, "is gone");
                        continue;
                    }
                    Err(error) => {
                        warn!(policy = %id, "cannot write the condition {ACCEPTED}: {error}");
                        done = false;
                        continue;
                    }
                }
            }
            self.told.insert(id.clone(), wanted);
        }
        done
    }

    async fn write(&self, id: &ObjectId, standing: &Standing, wanted: &Wanted) -> Result<(), kube::Error> {
        let before = standing.accepted.as_ref().filter(|condition| condition.status == wanted.status);
        let condition = Condition {
            type_: ACCEPTED.to_owned(),
            status: wanted.status.to_owned(),
            reason: wanted.reason.to_owned(),
            message: wanted.message.clone(),
            observed_generation: wanted.generation,
            last_transition_time: before
                .map_or_else(|| Time(Timestamp::now()), |condition| condition.last_transition_time.clone()),
        };
        let patch = json!({
            "apiVersion": id.kind.api_version(),
            "kind": id.kind.name(),
            "metadata": {"name": id.name},
            "status": {"conditions": [condition]},
        });
        let client = self.client.clone();
        if id.kind == Kind::TrafficPolicy {
            let api: Api<resources::TrafficPolicy> = Api::namespaced(client, &id.namespace);
            return patch_status(&api, id, &patch).await;
        }
        if id.kind == Kind::ClusterTrafficPolicy {
            return patch_status(&Api::<resources::ClusterTrafficPolicy>::all(client), id, &patch).await;
        }
        patch_status(&Api::<resources::ClusterNetworkPolicy>::all(client), id, &patch).await
    }
}

async fn patch_status<K>(api: &Api<K>, id: &ObjectId, patch: &Value) -> Result<(), kube::Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let owned = PatchParams::apply(OWNER).force();
    api.patch_status(&id.name, &owned, &Patch::Apply(patch)).await.map(drop)
}

impl Wanted {
    /// `open`: what is wrong with the policy. Only what makes it mean something else than its author wrote makes it not
    /// accepted.
    fn of(generation: Option<i64>, open: &[&Fault]) -> Self {
        let (wrong, noted): (Vec<&Fault>, Vec<&Fault>) =
            open.iter().partition(|fault| [INVALID, NOT_SUPPORTED, NOT_FOUND].contains(&fault.reason));
        let messages: Vec<&str> = wrong.iter().chain(&noted).map(|fault| fault.message.as_ref()).collect();
        Self {
            generation,
            status: if wrong.is_empty() { "True" } else { "False" },
            reason: wrong.first().or(noted.first()).map_or(ACCEPTED, |fault| fault.reason),
            message: messages.join("; ").chars().take(MESSAGE).collect(),
        }
    }

    /// Whether the object says it already.
    fn stands(&self, standing: &Standing) -> bool {
        standing.accepted.as_ref().is_some_and(|condition| {
            (condition.status.as_str(), condition.reason.as_str()) == (self.status, self.reason)
                && condition.message == self.message
                && condition.observed_generation == self.generation
        })
    }
}

/// Nothing is wrong with it; but who looks for what it does shall find why it does nothing.
fn staged(policy: ObjectKey) -> Fault {
    let (kind, key) = written_as(&policy);
    Fault {
        object: ObjectId::new(
            Kind::named(kind).unwrap_or(Kind::ClusterNetworkPolicy),
            &key.namespace,
            &key.name,
        ),
        reason: STAGED_REASON,
        message: format!("it is not enforced, as its annotation {ENFORCEMENT} says").into(),
    }
}

fn fault(condition: plan::Condition) -> Fault {
    Fault {
        object: ObjectId::new(
            Kind::named(condition.kind).unwrap_or(Kind::ClusterNetworkPolicy),
            &condition.object.namespace,
            &condition.object.name,
        ),
        reason: condition.reason,
        message: condition.message,
    }
}
