//! The cluster's names, followed.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use sheetbend_compile::names::ZoneCompiler;
use sheetbend_dns::{Authority, Responder};
use sheetbend_intake::file;
use sheetbend_model::state::Snapshot;
use sheetbend_shell::config::Config;
use sheetbend_shell::ready::ReadyTask;
use tokio::sync::watch;
use tracing::{debug, info};

/// Keeps the responder's zone as the cluster is. The receiver tells when it knows the first.
pub(super) fn follow(
    config: &Config,
    responder: &Arc<Responder>,
    ready: ReadyTask,
) -> anyhow::Result<watch::Receiver<bool>> {
    let mut snapshots = snapshots(config)?;
    let (known, known_out) = watch::channel(false);
    let (zone, ttl, responder) = (config.dns.zone.clone(), config.dns.ttl, Arc::clone(responder));
    tokio::spawn(async move {
        let mut compiler = ZoneCompiler::new(&zone);
        let mut serial = 0u32;
        while let Ok(snapshot) = snapshots.wait_for(Option::is_some).await.map(|snapshot| snapshot.clone()) {
            let Some(snapshot) = snapshot else { continue };
            if compiler.update(&snapshot) || serial == 0 {
                serial = next_serial(serial);
                let names = compiler.zone().clone();
                debug!(serial, names = names.len(), "zone");
                if let Some(authority) = Authority::new(&zone, names, ttl, serial) {
                    responder.set_authority(authority);
                }
            }
            if !known.send_replace(true) {
                info!(
                    services = snapshot.services.len(),
                    names = compiler.zone().len(),
                    "the names are known"
                );
                ready.done();
            }
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(known_out)
}

/// The cluster as intake last saw it; `None` until it has seen it.
fn snapshots(config: &Config) -> anyhow::Result<watch::Receiver<Option<Arc<Snapshot>>>> {
    let directory = config.objects.as_deref().context(
        "no source of objects; give --objects DIR with Kubernetes YAML (watching an API server comes with the next release)",
    )?;
    let mut readings = file::watch(directory)?.readings;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        readings.mark_changed();
        while readings.changed().await.is_ok() {
            let snapshot = readings.borrow_and_update().as_ref().map(|reading| Arc::clone(&reading.snapshot));
            if snapshot.is_some() && sender.send(snapshot).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Seconds since 1970, or one more than the last (RFC 1912 §2.2), so that a successor's serial is higher too.
fn next_serial(last: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u32::try_from(now).unwrap_or(u32::MAX).max(last.saturating_add(1))
}
