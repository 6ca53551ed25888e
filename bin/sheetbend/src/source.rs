//! Where a daemon's cluster comes from: a directory of objects, or an API server.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use sheetbend_intake::kube::{self, Access, Client, Reading, Waiting, Watched};
use sheetbend_intake::{file, last_good};
use sheetbend_model::state::Snapshot;
use sheetbend_shell::config::Config;
use sheetbend_shell::drain::Drain;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// The cluster as intake last saw it.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// Without attachments.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Names this state of the objects, where the intake can.
    pub(crate) generation: Option<String>,
    /// `false` while it is what an earlier process knew: nothing may be removed on its word.
    pub(crate) fresh: bool,
}

/// An intake at work.
pub(crate) struct Source {
    /// The newest state.
    pub(crate) clusters: watch::Receiver<Option<Cluster>>,
    /// The API server, where there is one.
    pub(crate) kubernetes: Option<Kubernetes>,
}

/// An API server.
pub(crate) struct Kubernetes {
    /// For what is written to it.
    pub(crate) client: Client,
    /// What is read of it.
    pub(crate) watched: Watched,
    /// Ends when the last Snapshot is on disk.
    pub(crate) keeper: JoinHandle<()>,
}

/// Begins to watch what the configuration names.
///
/// # Errors
/// There is no directory, or no way to an API server.
pub(crate) async fn open(config: &Config, drain: &Drain) -> anyhow::Result<Source> {
    match &config.objects {
        Some(directory) => {
            let readings = file::watch(directory)?.readings;
            let audit = config.policy.audit;
            let clusters = map(readings, move |reading: file::Reading| Cluster {
                snapshot: known(reading.snapshot, audit),
                generation: reading.directory.file_name().map(|name| name.to_string_lossy().into_owned()),
                fresh: true,
            });
            Ok(Source { clusters, kubernetes: None })
        }
        None => kubernetes(config, drain).await,
    }
}

/// The API server that the configuration names.
pub(crate) async fn client(config: &Config) -> anyhow::Result<Client> {
    let access = Access {
        kubeconfig: config.kubernetes.kubeconfig.clone(),
        api_server: config.kubernetes.api_server.clone(),
    };
    kube::client(&access).await.context("reaching the API server")
}

async fn kubernetes(config: &Config, drain: &Drain) -> anyhow::Result<Source> {
    let client = client(config).await?;
    let path: PathBuf = config.node.state_dir.join("snapshot");
    let last_good = last_good::read(&path).unwrap_or_else(|error| {
        warn!("{error}; it is ignored, the cluster is known when the API server answers");
        None
    });
    if let Some(known) = &last_good {
        info!(
            pods = known.pods.len(),
            services = known.services.len(),
            "an earlier process knew the cluster"
        );
    }
    let watched = kube::watch(client.clone(), Waiting { last_good, grace: None });
    let audit = config.policy.audit;
    let clusters = map(watched.readings.clone(), move |Reading { snapshot, fresh }| Cluster {
        snapshot: known(snapshot, audit),
        generation: None,
        fresh,
    });
    let ended = drain.clone();
    let keep = last_good::keep(path, watched.readings.clone(), async move { ended.requested().await });
    Ok(Source { clusters, kubernetes: Some(Kubernetes { client, watched, keeper: tokio::spawn(keep) }) })
}

/// `snapshot`, with what the configuration says of all namespaces.
fn known(snapshot: Arc<Snapshot>, audit: bool) -> Arc<Snapshot> {
    if snapshot.audit == audit {
        snapshot
    } else {
        Arc::new(Snapshot { audit, ..Snapshot::clone(&snapshot) })
    }
}

/// The newest of `readings`, as `make` sees it.
pub(crate) fn map<T: Clone + Send + Sync + 'static, U: Send + Sync + 'static>(
    mut readings: watch::Receiver<Option<T>>,
    make: impl Fn(T) -> U + Send + 'static,
) -> watch::Receiver<Option<U>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        readings.mark_changed();
        while readings.changed().await.is_ok() {
            let reading = readings.borrow_and_update().clone();
            if let Some(reading) = reading
                && sender.send(Some(make(reading))).is_err()
            {
                return;
            }
        }
    });
    receiver
}
