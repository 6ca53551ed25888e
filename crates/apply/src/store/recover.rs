//! What a start finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sheetbend_model::state::{Attachment, AttachmentId};

use super::directory::Directory;
use super::error::StoreError;
use super::{Lease, Release, Store, attachment_name};

/// What [`Store::open`] put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Addresses whose lease had no attachment: an ADD or DEL was cut short. They rest now.
    pub orphans: BTreeMap<IpAddr, AttachmentId>,
    /// Directories of earlier boots that were removed.
    pub earlier_boots: Vec<String>,
}

/// This boot's id, as `/proc/sys/kernel/random/boot_id` says.
///
/// # Errors
/// /proc is not there.
pub fn boot_id() -> Result<String, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|source| StoreError::io("read", path, source))?;
    Ok(text.trim().to_owned())
}

/// What the files of this boot say, read without changing anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Address → who holds it.
    pub leases: BTreeMap<IpAddr, AttachmentId>,
    /// Every attachment.
    pub attachments: Vec<Attachment>,
}

/// Reads the files of `boot_id` below `state_dir`.
///
/// # Errors
/// A file cannot be read, or is not ours.
pub fn read_back(state_dir: &Path, boot_id: &str) -> Result<OnDisk, StoreError> {
    let root = state_dir.join(boot_id);
    let leases = Directory::existing(root.join("leases"));
    let mut found = OnDisk::default();
    for (name, lease) in leases.read_all::<Lease>()? {
        found.leases.insert(address(&leases, &name)?, lease.attachment);
    }
    let attachments = Directory::existing(root.join("attachments")).read_all::<Attachment>()?;
    found.attachments = attachments.into_iter().map(|(_, attachment)| attachment).collect();
    Ok(found)
}

pub(super) fn open(state_dir: &Path, boot_id: &str, now: Duration) -> Result<(Store, Recovered), StoreError> {
    fs::create_dir_all(state_dir).map_err(|source| StoreError::io("create", state_dir, source))?;
    let earlier_boots = remove_earlier_boots(state_dir, boot_id)?;
    let root = state_dir.join(boot_id);
    let mut store = Store {
        leases: Directory::open(root.join("leases"))?,
        released: Directory::open(root.join("released"))?,
        attachments: Directory::open(root.join("attachments"))?,
        held: BTreeMap::new(),
        resting: BTreeMap::new(),
        index: BTreeMap::new(),
    };
    read(&mut store)?;
    let orphans = release_orphans(&mut store, now)?;
    Ok((store, Recovered { orphans, earlier_boots }))
}

/// Directory names that the kernel's boot ids have: UUIDs. Others are not ours.
fn is_boot_id(name: &str) -> bool {
    name.len() == 36 && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn remove_earlier_boots(state_dir: &Path, boot_id: &str) -> Result<Vec<String>, StoreError> {
    let error = |source| StoreError::io("read", state_dir, source);
    let mut removed = Vec::new();
    for entry in fs::read_dir(state_dir).map_err(error)? {
        let name = entry.map_err(error)?.file_name().to_string_lossy().into_owned();
        if name != boot_id && is_boot_id(&name) {
            let path = state_dir.join(&name);
            fs::remove_dir_all(&path).map_err(|source| StoreError::io("remove", &path, source))?;
            removed.push(name);
        }
    }
    removed.sort_unstable();
    Ok(removed)
}

fn address(directory: &Directory, name: &str) -> Result<IpAddr, StoreError> {
    name.parse().map_err(|_| StoreError::Content {
        path: directory.path().join(name),
        source: serde::de::Error::custom("the file's name is no address"),
    })
}

fn read(store: &mut Store) -> Result<(), StoreError> {
    for (name, lease) in store.leases.read_all::<Lease>()? {
        store.held.insert(address(&store.leases, &name)?, lease.attachment);
    }
    for (name, release) in store.released.read_all::<Release>()? {
        let addr = address(&store.released, &name)?;
        store.resting.insert(addr, Duration::from_millis(release.released_at_ms));
    }
    for (name, attachment) in store.attachments.read_all::<Attachment>()? {
        if name != attachment_name(&attachment.id) {
            return Err(StoreError::Content {
                path: store.attachments.path().join(name),
                source: serde::de::Error::custom("the file's name is another attachment's"),
            });
        }
        store.index.insert(attachment.id.clone(), Arc::new(attachment));
    }
    Ok(())
}

fn release_orphans(store: &mut Store, now: Duration) -> Result<BTreeMap<IpAddr, AttachmentId>, StoreError> {
    let attached: BTreeSet<(IpAddr, AttachmentId)> = store
        .index
        .values()
        .flat_map(|attachment| attachment.addresses.iter().map(|addr| (*addr, attachment.id.clone())))
        .collect();
    let orphans: BTreeMap<IpAddr, AttachmentId> = store
        .held
        .iter()
        .filter(|(addr, id)| !attached.contains(&(**addr, (*id).clone())))
        .map(|(addr, id)| (*addr, id.clone()))
        .collect();
    for addr in orphans.keys() {
        store.release(*addr, now)?;
    }
    // A lease that was made and whose `released` file was not removed any more: the lease counts.
    for addr in store.held.keys() {
        if store.resting.remove(addr).is_some() {
            store.released.remove(&addr.to_string())?;
        }
    }
    Ok(orphans)
}
