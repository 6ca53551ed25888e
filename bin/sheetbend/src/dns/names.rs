//! The cluster's names, followed.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sheetbend_compile::names::{PodNames, ZoneCompiler};
use sheetbend_dns::{Authority, Responder};
use sheetbend_intake::{file, kube, last_good};
use sheetbend_model::state::Snapshot;
use sheetbend_shell::config::Config;
use sheetbend_shell::drain::Drain;
use sheetbend_shell::ready::ReadyTask;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::source;

/// What was last known of the cluster's names, in the state directory.
const LAST_GOOD: &str = "dns-snapshot";

/// The names of a cluster that is watched.
pub(super) struct Names {
    /// Whether the first are known.
    pub(super) known: watch::Receiver<bool>,
    /// Ends when the last are on disk.
    pub(super) keeper: Option<JoinHandle<()>>,
}

/// The cluster as intake last saw it; `None` until it has seen it.
type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Keeps the responder's zone as the cluster is, until drained.
///
/// # Errors
/// There is no directory, or no way to an API server.
pub(super) async fn follow(
    config: &Config,
    responder: &Arc<Responder>,
    ready: ReadyTask,
    drain: &Drain,
) -> anyhow::Result<Names> {
    let (snapshots, pod_names, keeper) = match &config.objects {
        Some(directory) => {
            let readings = file::watch(directory)?.readings;
            (source::map(readings, |reading: file::Reading| reading.snapshot), PodNames::Known, None)
        }
        None => {
            let (snapshots, keeper) = from_api_server(config, drain).await?;
            (snapshots, PodNames::Any, Some(keeper))
        }
    };
    let (known, known_out) = watch::channel(false);
    let zone = FollowedZone {
        compiler: ZoneCompiler::new(&config.dns.zone, pod_names),
        origin: config.dns.zone.clone(),
        ttl: config.dns.ttl,
        serial: 0,
        responder: Arc::clone(responder),
    };
    tokio::spawn(zone.run(snapshots, known, ready));
    Ok(Names { known: known_out, keeper })
}

/// Namespaces, Services and EndpointSlices. While the API server is away what was last known is served: from memory,
/// and after a restart from the disk.
async fn from_api_server(config: &Config, drain: &Drain) -> anyhow::Result<(Snapshots, JoinHandle<()>)> {
    let client = source::client(config).await?;
    let path = config.node.state_dir.join(LAST_GOOD);
    let last_good = last_good::read(&path).unwrap_or_else(|error| {
        warn!("{error}; it is ignored, the names are known when the API server answers");
        None
    });
    let watched = kube::watch_names(client, kube::Waiting { last_good, grace: None });
    let snapshots = source::map(watched.readings.clone(), |reading: kube::Reading| reading.snapshot);
    let ended = drain.clone();
    let keep = last_good::keep(path, watched.readings, async move { ended.requested().await });
    Ok((snapshots, tokio::spawn(keep)))
}

/// The zone of one process.
struct FollowedZone {
    compiler: ZoneCompiler,
    origin: String,
    ttl: u32,
    serial: u32,
    responder: Arc<Responder>,
}

impl FollowedZone {
    async fn run(mut self, mut snapshots: Snapshots, known: watch::Sender<bool>, ready: ReadyTask) {
        let mut ready = Some(ready);
        while let Ok(snapshot) = snapshots.wait_for(Option::is_some).await.map(|snapshot| snapshot.clone()) {
            let Some(snapshot) = snapshot else { continue };
            self.take(&snapshot);
            if let Some(ready) = ready.take() {
                info!(
                    services = snapshot.services.len(),
                    names = self.compiler.zone().len(),
                    "the names are known"
                );
                ready.done();
                known.send_replace(true);
            }
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    fn take(&mut self, snapshot: &Snapshot) {
        if !self.compiler.update(snapshot) && self.serial != 0 {
            return;
        }
        self.serial = next_serial(self.serial);
        let names = self.compiler.zone().clone();
        debug!(serial = self.serial, names = names.len(), "zone");
        if let Some(authority) = Authority::new(&self.origin, names, self.ttl, self.serial) {
            self.responder.set_authority(authority);
        }
    }
}

/// Seconds since 1970, or one more than the last (RFC 1912 §2.2), so that a successor's serial is higher too.
fn next_serial(last: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u32::try_from(now).unwrap_or(u32::MAX).max(last.saturating_add(1))
}
