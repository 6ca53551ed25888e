//! Who waits for what, and gets to know that it is true.

use std::collections::BTreeSet;
use std::time::Duration;

use sheetbend_model::plan::Posture;
use sheetbend_model::state::AttachmentId;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;

use super::Core;

/// How long ADD waits for the pod's object and its policy.
const POLICY_WAIT: Duration = Duration::from_secs(8);

/// An ADD that is answered when the pod's policy is in place.
pub(super) struct Waiting {
    id: AttachmentId,
    until: Instant,
    done: oneshot::Sender<Result<(), String>>,
}

impl Waiting {
    pub(super) fn new(id: AttachmentId, done: oneshot::Sender<Result<(), String>>) -> Self {
        Self { id, until: Instant::now() + POLICY_WAIT, done }
    }
}

impl Core {
    /// Answers everybody whose part is true, or who has waited long enough.
    pub(super) fn answer(&mut self) {
        self.tell_taught();
        let now = Instant::now();
        let synced = self.attached && !self.stale;
        let adding: BTreeSet<&AttachmentId> = self.adding.iter().map(|add| &add.id).collect();
        let judged: BTreeSet<AttachmentId> = self
            .compiler
            .pods()
            .filter(|(id, pod)| pod.posture != Posture::Closed && adding.contains(id))
            .map(|(id, _)| id.clone())
            .collect();
        let mut waiting = Vec::new();
        for add in std::mem::take(&mut self.adding) {
            // A caller that has gone needs no answer.
            if synced && judged.contains(&add.id) {
                let _ = add.done.send(Ok(()));
            } else if now >= add.until {
                let seconds = POLICY_WAIT.as_secs();
                let _ = add
                    .done
                    .send(Err(format!("its Pod object or its policy was not there within {seconds} s")));
            } else {
                waiting.push(add);
            }
        }
        self.adding = waiting;
        for (ifindex, done) in std::mem::take(&mut self.removed) {
            self.kernel.forget_pod(ifindex);
            let _ = done.send(());
        }
    }

    pub(super) fn applied(&mut self, generation: Option<&str>) {
        if self.stale || generation.is_none() || self.applied.as_deref() == generation {
            return;
        }
        self.applied = generation.map(ToOwned::to_owned);
        let (path, fresh) = (self.config.run_dir.join("applied"), self.config.run_dir.join(".applied"));
        let written = std::fs::write(&fresh, generation.unwrap_or_default())
            .and_then(|()| std::fs::rename(&fresh, &path));
        if let Err(error) = written {
            warn!(path = %path.display(), "cannot say what is applied: {error}");
        }
    }
}
