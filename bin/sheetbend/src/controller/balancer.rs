//! Services of type LoadBalancer get addresses from LoadBalancerPools; who gets none is told why, and so are the pools.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::serde::Serialize;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use kube::core::ClusterResourceScope;
use serde_json::{Value, json};
use sheetbend_compile::ipam::load_balancer::{Allocation, Given, allocate};
use sheetbend_intake::file::{Kind, ObjectId, Problem};
use sheetbend_intake::kube::{ADDRESSES_ASSIGNED, Client};
use sheetbend_intake::resources::{L2Announcement, LoadBalancerPool};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::ObjectKey;
use tracing::{debug, info, warn};

use super::report::Fault;

/// Condition type of pools and announcements.
const ACCEPTED: &str = "Accepted";

/// What is wrong with an object, as its condition shall say; `None` where nothing is.
type Wrong = Option<(&'static str, String)>;

/// Writes what [`allocate`] decides.
pub(super) struct Balancer {
    client: Client,
    /// Whether Services without a class are ours.
    is_default: bool,
    /// What the last decision was made of.
    seen: Option<Arc<Snapshot>>,
    /// Services whose status is as it should be.
    told: BTreeMap<ObjectKey, Given>,
    /// Pools and announcements whose status is as it should be.
    accepted: BTreeMap<ObjectId, (Wrong, Value)>,
}

impl Balancer {
    pub(super) fn new(client: Client, is_default: bool) -> Self {
        Self { client, is_default, seen: None, told: BTreeMap::new(), accepted: BTreeMap::new() }
    }

    /// Looks at everything anew with the next call.
    pub(super) fn forget(&mut self) {
        self.seen = None;
        self.told.clear();
        self.accepted.clear();
    }

    /// Gives addresses and takes them back. Returns what is wrong, and whether something was refused and is to be tried
    /// again.
    pub(super) async fn give(
        &mut self,
        snapshot: &Arc<Snapshot>,
        problems: &BTreeMap<ObjectId, Arc<[Problem]>>,
    ) -> (Vec<Fault>, bool) {
        let allocation = allocate(snapshot, self.is_default);
        let same = self.seen.as_ref().is_some_and(|seen| decides_alike(seen, snapshot));
        let mut done = true;
        if !same {
            done = self.services(snapshot, &allocation).await;
        }
        done &= self.resources(snapshot, &allocation, problems).await;
        self.seen = done.then(|| Arc::clone(snapshot));
        (faults(&allocation), !done)
    }

    async fn services(&mut self, snapshot: &Snapshot, allocation: &Allocation) -> bool {
        let mut done = true;
        self.told.retain(|key, _| allocation.services.contains_key(key));
        for (key, given) in &allocation.services {
            let exposure = snapshot.services.get(key).and_then(|service| service.exposure.as_deref());
            let has = exposure.is_some_and(|exposure| {
                exposure.given == given.addresses && exposure.is_managed != given.addresses.is_empty()
            });
            if has && (given.faults.is_empty() || self.told.get(key) == Some(given)) {
                continue;
            }
            if self.write(key, &given.addresses, &condition_of(given)).await {
                self.told.insert(key.clone(), given.clone());
            } else {
                done = false;
            }
        }
        for (key, rest) in &allocation.released {
            let condition = ("False", "Released", "the Service is of another type or class".to_owned());
            done &= self.write(key, rest, &condition).await;
        }
        done
    }

    /// Writes a Service's addresses, if nobody has changed it since it was read.
    async fn write(&self, key: &ObjectKey, addresses: &[IpAddr], condition: &(&str, &str, String)) -> bool {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = async {
            let service = api.get(&key.name).await?;
            if let Some(patch) = status_patch(&service, addresses, condition) {
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
                info!(service = %key, ?addresses, "{}: {}", condition.1, condition.2);
            }
            Ok::<(), kube::Error>(())
        };
        match written.await {
            Ok(()) => true,
            Err(kube::Error::Api(status)) if status.code == 404 => true,
            // The watch brings what it is now.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                debug!(service = %key, "has changed: {status}");
                false
            }
            Err(error) => {
                warn!(service = %key, "cannot write its load balancer addresses: {error}");
                false
            }
        }
    }

    async fn resources(
        &mut self,
        snapshot: &Snapshot,
        allocation: &Allocation,
        problems: &BTreeMap<ObjectId, Arc<[Problem]>>,
    ) -> bool {
        let mut wanted: BTreeMap<ObjectId, (Wrong, Value)> = BTreeMap::new();
        for (name, state) in &allocation.pools {
            let wrong = state.fault.as_ref().map(|fault| (fault.reason(), fault.to_string()));
            let counts = json!({"addresses": state.size.to_string(), "used": state.used});
            wanted.insert(ObjectId::new(Kind::LoadBalancerPool, "", name), (wrong, counts));
        }
        for name in snapshot.l2_announcements.keys() {
            wanted.insert(ObjectId::new(Kind::L2Announcement, "", name), (None, json!({})));
        }
        for (id, found) in problems.iter().filter(|(id, _)| id.kind.is_ours()) {
            let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
            wanted.entry(id.clone()).or_insert((None, json!({}))).0 = Some(("Invalid", texts.join("; ")));
        }
        self.accepted.retain(|id, _| wanted.contains_key(id));
        let mut done = true;
        for (id, wanted) in wanted {
            if self.accepted.get(&id) == Some(&wanted) {
                continue;
            }
            let result = if id.kind == Kind::LoadBalancerPool {
                accept::<LoadBalancerPool>(&self.client, &id, &wanted).await
            } else {
                accept::<L2Announcement>(&self.client, &id, &wanted).await
            };
            match result {
                Ok(()) => drop(self.accepted.insert(id, wanted)),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    warn!(object = %id, "cannot write its status: {error}");
                    done = false;
                }
            }
        }
        done
    }
}

/// Whether the parts that addresses are decided by are the same.
fn decides_alike(a: &Snapshot, b: &Snapshot) -> bool {
    a.services.ptr_eq(&b.services)
        && a.load_balancer_pools.ptr_eq(&b.load_balancer_pools)
        && a.namespaces.ptr_eq(&b.namespaces)
        && a.nodes.ptr_eq(&b.nodes)
}

/// What users' Events shall say.
fn faults(allocation: &Allocation) -> Vec<Fault> {
    let services = allocation.services.iter().flat_map(|(key, given)| {
        given.faults.iter().map(|fault| Fault {
            object: ObjectId::new(Kind::Service, &key.namespace, &key.name),
            reason: fault.reason(),
            message: fault.to_string().into(),
        })
    });
    let pools = allocation.pools.iter().filter_map(|(name, state)| {
        // What the administrator has written is no news.
        let fault = state.fault.as_ref().filter(|fault| fault.is_conflict())?;
        Some(Fault {
            object: ObjectId::new(Kind::LoadBalancerPool, "", name),
            reason: fault.reason(),
            message: fault.to_string().into(),
        })
    });
    services.chain(pools).collect()
}

/// Status, reason and message of a Service's condition. Only `True` marks addresses as ours to take back.
fn condition_of(given: &Given) -> (&'static str, &'static str, String) {
    let texts: Vec<String> = given.faults.iter().map(ToString::to_string).collect();
    let status = if given.addresses.is_empty() { "False" } else { "True" };
    (status, given.faults.first().map_or("Assigned", |fault| fault.reason()), texts.join("; "))
}

/// What makes the Service's status so; `None` where it is so. Of no version but the one that was read.
fn status_patch(service: &Service, addresses: &[IpAddr], wanted: &(&str, &str, String)) -> Option<Value> {
    let (word, reason, message) = wanted;
    let status = service.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let before = conditions.iter().find(|condition| condition.type_ == ADDRESSES_ASSIGNED);
    let ingress =
        status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_deref()).unwrap_or_default();
    let has: Vec<Option<IpAddr>> =
        ingress.iter().map(|one| one.ip.as_deref().and_then(|text| text.parse().ok())).collect();
    let is_so = before.is_some_and(|before| {
        before.status == *word && before.reason == *reason && before.message == *message
    }) && has.iter().copied().eq(addresses.iter().copied().map(Some));
    if is_so {
        return None;
    }
    let since = before.filter(|before| before.status == *word).map(|before| before.last_transition_time.0);
    let ingress: Vec<Value> =
        addresses.iter().map(|addr| json!({"ip": addr.to_string(), "ipMode": "VIP"})).collect();
    Some(json!({
        "metadata": {"resourceVersion": service.metadata.resource_version},
        "status": {
            "loadBalancer": {"ingress": ingress},
            "conditions": [{
                "type": ADDRESSES_ASSIGNED, "status": word, "reason": reason, "message": message,
                "observedGeneration": service.metadata.generation,
                "lastTransitionTime": since.unwrap_or_else(Timestamp::now).to_string(),
            }],
        },
    }))
}

/// Writes the status of a resource of our own.
async fn accept<K>(
    client: &Client,
    id: &ObjectId,
    (wrong, counts): &(Wrong, Value),
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::all(client.clone());
    let object = serde_json::to_value(api.get(&id.name).await?).unwrap_or_default();
    let (word, reason, message) = match wrong {
        None => ("True", "Accepted", ""),
        Some((reason, message)) => ("False", *reason, message.as_str()),
    };
    let before = &object["status"]["conditions"][0];
    let since = before["lastTransitionTime"].as_str().filter(|_| before["status"] == word);
    let mut status = counts.clone();
    status["conditions"] = json!([{
        "type": ACCEPTED, "status": word, "reason": reason, "message": message,
        "observedGeneration": object["metadata"]["generation"],
        "lastTransitionTime": since.map_or_else(|| Timestamp::now().to_string(), ToOwned::to_owned),
    }]);
    if object["status"] == status {
        return Ok(());
    }
    let patch =
        json!({"metadata": {"resourceVersion": object["metadata"]["resourceVersion"]}, "status": status});
    api.patch_status(&id.name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}
