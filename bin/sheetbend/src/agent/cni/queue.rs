//! Deletions that a plugin wrote down because no agent listened.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sheetbend_intake::cni::wire::{DELETIONS, Request};
use sheetbend_model::state::AttachmentId;
use tracing::warn;

fn file(run_dir: &Path, id: &AttachmentId) -> PathBuf {
    run_dir.join(DELETIONS).join(format!("{}@{}", id.container_id, id.ifname))
}

/// Every queued deletion, in name order. A file that says something else is named in the log and left.
pub(super) fn read(run_dir: &Path) -> anyhow::Result<Vec<(PathBuf, AttachmentId)>> {
    let directory = run_dir.join(DELETIONS);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", directory.display())),
    };
    let mut queued = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", directory.display()))?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue; // being written
        }
        let path = entry.path();
        let request = std::fs::read(&path).map(|text| serde_json::from_slice(&text));
        match request {
            Ok(Ok(Request::Del(attachment))) => queued.push((path, super::id_of(&attachment))),
            Ok(_) => warn!(path = %path.display(), "is no deletion that sheetbend-cni wrote; ignoring it"),
            // Another task has just carried it out.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }
    queued.sort_unstable();
    Ok(queued)
}

/// Whether the deletion of `id` is queued.
pub(super) fn contains(run_dir: &Path, id: &AttachmentId) -> bool {
    file(run_dir, id).exists()
}

/// Forgets the deletion of `id`.
pub(super) fn forget(run_dir: &Path, id: &AttachmentId) {
    remove(&file(run_dir, id));
}

/// Removes one file; it need not be there.
pub(super) fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "cannot remove a deletion that is done; it will be done again");
        }
        Ok(()) | Err(_) => {}
    }
}
