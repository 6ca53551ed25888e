//! The shell of the election: reads and writes the Lease.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use sheetbend_intake::kube::Client;
use tokio::sync::watch;
use tracing::{info, warn};

use super::election::{Action, DURATION, Election, Observed, RENEW};

/// Name of the Lease, in the controller's own namespace.
pub(super) const NAME: &str = "sheetbend-controller";

/// Takes part in the election for as long as somebody asks whether we lead.
pub(super) async fn run(client: Client, namespace: String, identity: String, leads: watch::Sender<bool>) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let mut election = Election::new(&*identity);
    while !leads.is_closed() {
        if let Err(error) = turn(&api, &mut election, &identity).await {
            warn!("the Lease {namespace}/{NAME}: {error}");
        }
        let now = election.leads(Instant::now());
        leads.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                info!(identity, leads = now, "election");
            }
            std::mem::replace(before, now) != now
        });
        tokio::time::sleep(RENEW).await;
    }
}

/// Gives the Lease away, so that the next one need not wait.
pub(super) async fn release(client: Client, namespace: &str, identity: &str) {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let released = async {
        let lease = api.get(NAME).await?;
        if observed(&lease).holder == identity {
            api.replace(NAME, &PostParams::default(), &written(Some(&lease), "")).await?;
        }
        Ok::<(), kube::Error>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(3), released).await {
        warn!("the Lease runs out by itself: {error}");
    }
}

async fn turn(api: &Api<Lease>, election: &mut Election, identity: &str) -> Result<(), kube::Error> {
    let began = Instant::now();
    let lease = tokio::time::timeout(RENEW, api.get_opt(NAME))
        .await
        .unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))?;
    let params = PostParams::default();
    let asked = match election.observe(lease.as_ref().map(observed), began) {
        Action::Create => api.create(&params, &written(None, identity)).await,
        // The version that was read goes along: the API server refuses what is outdated.
        Action::Take(_) | Action::Renew(_) => {
            api.replace(NAME, &params, &written(lease.as_ref(), identity)).await
        }
        Action::Wait => return Ok(()),
    };
    match asked {
        Ok(_) => election.granted(began),
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn observed(lease: &Lease) -> Observed {
    let spec = lease.spec.as_ref();
    let seconds =
        spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    Observed {
        holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: seconds.map_or(DURATION, Duration::from_secs),
    }
}

fn written(before: Option<&Lease>, holder: &str) -> Lease {
    let now = MicroTime(Timestamp::now());
    let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let same = spec.holder_identity.as_deref() == Some(holder);
    let metadata = match before {
        Some(lease) => lease.metadata.clone(),
        None => ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
    };
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if same { spec.acquire_time } else { Some(now.clone()) },
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!same)),
            renew_time: Some(now),
            ..spec
        }),
    }
}
