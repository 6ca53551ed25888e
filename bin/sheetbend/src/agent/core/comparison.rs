//! Looking for drift while nothing else is to be done, for little: the work of hours is not worth a late ADD.

use sheetbend_model::plan::Place;
use sheetbend_model::state::AttachmentId;
use tokio::time::Instant;
use tracing::{error, info};

use super::{Core, pod_link};

/// The tables are compared a part at a time, and after each this many times as long is something else's: 0.25 % of a core.
const SHARE: u32 = 400;

impl Core {
    /// Looks for what changed though nobody told us: the node's links and routes at once, the tables part by part.
    pub(super) fn begin_comparison(&mut self) {
        if self.stale || !self.attached || !self.is_fresh() {
            return;
        }
        if let Err(error) = self.ensure_node() {
            error!("the node's links and routes are not as they should be, trying again: {error:#}");
            self.stale = true;
        } else if self.comparing.is_none() {
            self.comparing = Some((Place::Base, Instant::now()));
        }
    }

    /// Compares the next part.
    pub(super) fn compare(&mut self) {
        let Some((place, _)) = self.comparing.take() else { return };
        let began = Instant::now();
        let attachments = self.attachments.clone();
        let link = |id: &AttachmentId| attachments.get(id).map(|attachment| pod_link(attachment));
        match self.kernel.compare(&self.compiler, &place, &link) {
            Ok((report, next)) => {
                if report.writes() > 0 {
                    info!(%report, "the kernel's tables were not as wanted and are now");
                }
                for failure in &report.failed {
                    error!(step = failure.step, "{}", failure.error);
                }
                self.stale |= !report.is_done();
                let then = Instant::now() + began.elapsed() * SHARE;
                self.comparing = next.map(|next| (next, then));
                // What was mended may have got numbers.
                if self.stale || report.writes() > 0 {
                    self.show();
                }
            }
            Err(error) => {
                error!("the kernel's tables cannot be compared, trying again: {error}");
                self.stale = true;
            }
        }
    }
}
