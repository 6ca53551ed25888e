//! One request at a time per attachment; different attachments go side by side.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sheetbend_model::state::AttachmentId;
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The locks that somebody holds or waits for.
#[derive(Debug, Default)]
pub(super) struct Locks {
    held: Mutex<BTreeMap<AttachmentId, Lock>>,
}

/// A held lock.
pub(super) struct Guard<'a> {
    locks: &'a Locks,
    id: AttachmentId,
    /// `Some` until dropped.
    guard: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    pub(super) async fn lock(&self, id: &AttachmentId) -> Guard<'_> {
        let lock = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(held.entry(id.clone()).or_default())
        };
        let guard = lock.lock_owned().await;
        Guard { locks: self, id: id.clone(), guard: Some(guard) }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut held = self.locks.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits has a clone of its own.
        if held.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            held.remove(&self.id);
        }
    }
}
