//! Leases and attachments, as files.
//!
//! ```text
//! <state dir>/<boot id>/leases/10.244.1.5                 who holds the address
//! <state dir>/<boot id>/released/10.244.1.5               since when it rests, ms since boot
//! <state dir>/<boot id>/attachments/<container>@<ifname>  the whole attachment
//! ```
//!
//! Every file appears whole or not at all (written beside, then linked or renamed), so kill -9 leaves nothing half
//! done; what a boot leaves is removed by the next. Everything is also held in memory: only [`Store::open`] reads
//! directories.
//!
//! **Invariant:** an attachment's leases exist before it and go after it. A lease without an attachment is a crash's.

mod directory;
mod error;
mod fail_point;
mod recover;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sheetbend_model::state::{Attachment, AttachmentId};

pub use error::StoreError;
pub use fail_point::{FAIL_POINT_VARIABLE, fail_point};
pub use recover::{OnDisk, Recovered, boot_id, read_back};

use directory::Directory;

/// Content of a lease file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    /// Who holds the address.
    attachment: AttachmentId,
}

/// Content of a file in `released/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Release {
    /// When the address was released, milliseconds of CLOCK_BOOTTIME.
    released_at_ms: u64,
}

/// The files and their index.
#[derive(Debug)]
pub struct Store {
    leases: Directory,
    released: Directory,
    attachments: Directory,
    held: BTreeMap<IpAddr, AttachmentId>,
    resting: BTreeMap<IpAddr, Duration>,
    index: BTreeMap<AttachmentId, Arc<Attachment>>,
}

impl Store {
    /// Opens `<state dir>/<boot id>`, removes what other boots left, and reads what this one holds. Leases without an
    /// attachment are removed; they are in [`Recovered::orphans`].
    ///
    /// # Errors
    /// The directory cannot be made or read, or a file in it is not ours.
    pub fn open(state_dir: &Path, boot_id: &str, now: Duration) -> Result<(Self, Recovered), StoreError> {
        recover::open(state_dir, boot_id, now)
    }

    /// Gives `addr` to an attachment.
    ///
    /// # Errors
    /// [`StoreError::Leased`] when another one holds it.
    pub fn lease(&mut self, addr: IpAddr, attachment: &AttachmentId) -> Result<(), StoreError> {
        if let Some(holder) = self.held.get(&addr) {
            return Err(StoreError::Leased { addr, holder: holder.clone() });
        }
        let name = addr.to_string();
        self.leases.create(&name, &Lease { attachment: attachment.clone() })?;
        self.held.insert(addr, attachment.clone());
        if self.resting.remove(&addr).is_some() {
            self.released.remove(&name)?;
        }
        Ok(())
    }

    /// Takes `addr` back; it rests from `now` (CLOCK_BOOTTIME). Releasing what nobody holds changes nothing.
    ///
    /// # Errors
    /// The files cannot be changed.
    pub fn release(&mut self, addr: IpAddr, now: Duration) -> Result<(), StoreError> {
        if !self.held.contains_key(&addr) {
            return Ok(());
        }
        let name = addr.to_string();
        let released_at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.released.replace(&name, &Release { released_at_ms })?;
        fail_point("released");
        self.leases.remove(&name)?;
        self.held.remove(&addr);
        self.resting.insert(addr, now);
        Ok(())
    }

    /// Forgets addresses that have rested long enough: released before `before`.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn forget_released(&mut self, before: Duration) -> Result<(), StoreError> {
        let rested: Vec<IpAddr> =
            self.resting.iter().filter(|(_, at)| **at < before).map(|(addr, _)| *addr).collect();
        for addr in rested {
            self.released.remove(&addr.to_string())?;
            self.resting.remove(&addr);
        }
        Ok(())
    }

    /// Writes an attachment, new or changed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn put(&mut self, attachment: Arc<Attachment>) -> Result<(), StoreError> {
        self.attachments.replace(&attachment_name(&attachment.id), &*attachment)?;
        self.index.insert(attachment.id.clone(), attachment);
        Ok(())
    }

    /// Removes an attachment; its leases stay until they are released. Removing what is not there changes nothing.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove(&mut self, id: &AttachmentId) -> Result<(), StoreError> {
        if self.index.contains_key(id) {
            self.attachments.remove(&attachment_name(id))?;
            self.index.remove(id);
        }
        Ok(())
    }

    /// The attachment called `id`.
    pub fn get(&self, id: &AttachmentId) -> Option<&Arc<Attachment>> {
        self.index.get(id)
    }

    /// Every attachment, in order.
    pub fn attachments(&self) -> impl Iterator<Item = &Arc<Attachment>> {
        self.index.values()
    }

    /// Address → who holds it.
    pub fn leases(&self) -> &BTreeMap<IpAddr, AttachmentId> {
        &self.held
    }

    /// Address → since when it rests.
    pub fn resting(&self) -> &BTreeMap<IpAddr, Duration> {
        &self.resting
    }
}

/// File name of an attachment. A container id has no `@` (CNI 1.1.0, "Parameters"), an interface name no `/`.
fn attachment_name(id: &AttachmentId) -> String {
    format!("{}@{}", id.container_id, id.ifname)
}
