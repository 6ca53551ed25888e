//! Domain names that policies ask about: learnt before the answer leaves, forgotten when their time is over.

use std::time::{SystemTime, UNIX_EPOCH};

use sheetbend_model::state::Snapshot;
use tracing::{debug, info, warn};

use super::Core;
use crate::agent::lessons::Lesson;
use crate::learnt::store::Seconds;

/// What was learnt, below the state directory.
pub(super) const LEARNT: &str = "learnt-names.json";
/// Answers that are kept until it is known what policies ask about, at most.
const EARLY: usize = 1_024;

fn now() -> Seconds {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Core {
    /// The cluster with what this node knows besides.
    pub(super) fn with_own(&self, cluster: &Snapshot) -> Snapshot {
        Snapshot {
            attachments: self.attachments.clone(),
            learnt_names: self.learnt.names().clone(),
            ..cluster.clone()
        }
    }

    /// Takes in what a name server says. Returns whether there is something to do before it may say so.
    pub(super) fn hear(&mut self, lesson: Lesson) -> bool {
        let Some(patterns) = self.outputs.patterns.borrow().clone() else {
            if self.early.len() < EARLY {
                self.early.push(lesson);
            }
            return false;
        };
        let Lesson { answer, done } = lesson;
        let more = self.learnt.learn(&answer, &patterns, now());
        if more {
            debug!(?answer, "a name has other addresses");
            self.write_learnt();
        } else if self.taught.is_empty() && !self.stale && self.attached {
            // Who asked may have gone.
            let _ = done.send(());
            return false;
        }
        self.taught.push(done);
        // While the kernel refuses, its next attempt is soon enough: each answer would be one more.
        more || !self.stale
    }

    /// What has been learnt is in the kernel: answers may leave.
    pub(super) fn tell_taught(&mut self) {
        if self.stale || !self.attached {
            self.taught.retain(|done| !done.is_closed());
            return;
        }
        for done in std::mem::take(&mut self.taught) {
            // Who asked may have gone.
            let _ = done.send(());
        }
    }

    /// Says which names are asked about by the policies that were compiled last, before they are in force: whoever asks
    /// under them must find that his answers are learnt. Returns whether there is more to compile: what was said before
    /// anything was known of them.
    pub(super) fn show_patterns(&mut self) -> bool {
        let patterns = self.compiler.domains();
        if self.outputs.patterns.borrow().as_ref() == Some(&patterns) {
            return false;
        }
        info!(names = ?patterns.iter().map(ToString::to_string).collect::<Vec<_>>(), "domain names that policies are for");
        // A cluster that is not known in full yet may lack the policy that asks.
        if self.is_fresh() {
            self.learnt.retain(&patterns);
        }
        self.outputs.patterns.send_replace(Some(patterns));
        let mut more = false;
        for lesson in std::mem::take(&mut self.early) {
            more |= self.hear(lesson);
        }
        more
    }

    /// Forgets addresses whose time is over. Returns whether there were any.
    pub(super) fn expire(&mut self) -> bool {
        let now = now();
        let ending = self.learnt.ending(now);
        let gone = if ending.is_empty() {
            false
        } else {
            // Where that is not known they stay: a connection that is cut is worse than one too many.
            let in_use = self.kernel.in_use(&ending).unwrap_or_else(|error| {
                warn!("looking for flows to addresses of domain names: {error}");
                ending.clone()
            });
            self.learnt.expire(now, |addr| in_use.contains(&addr))
        };
        self.write_learnt();
        gone
    }

    pub(super) fn write_learnt(&mut self) {
        let crowded_out = self.learnt.crowded_out();
        if crowded_out > 0 {
            warn!(
                names = crowded_out,
                "forgotten before their time: policies match more domain names than are kept"
            );
        }
        let path = self.config.state_dir.join(LEARNT);
        if let Err(error) = self.learnt.write(&path) {
            warn!("after a restart names must be asked for again: {error:#}");
        }
    }
}
