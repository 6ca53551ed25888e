//! One directory of objects, read again and again, parsing only what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::mem;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sheetbend_model::state::{Sharing, Snapshot};

use super::error::{ManifestError, Place, Problem};
use super::object::ObjectId;
use super::read::{Source, is_manifest, parse, unreadable, whole_file};
use crate::convert::Part;

/// A file changed less than this before it was read may change again without a later mtime.
const MTIME_GRAIN: Duration = Duration::from_millis(50);

/// What was read of a directory, and the Snapshot that it makes.
#[derive(Default)]
pub(super) struct Directory {
    /// Whether there was a reading without errors.
    synced: bool,
    /// Whether the Snapshot is another than [`Directory::read`] last told of.
    differs: bool,
    files: Files,
    /// Who has each thing that only one may have.
    claims: HashMap<Claim, Claimant>,
    sharing: Sharing,
    snapshot: Snapshot,
}

/// File name → content.
type Files = BTreeMap<Arc<Path>, File>;

/// A file name's content at one time.
struct File {
    stamp: Stamp,
    objects: Vec<(ObjectId, Place, Option<Part>)>,
}

/// A file with the same stamp has the same content.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Changed so shortly before it was read that the stamp says nothing.
    fresh: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Claim {
    Object(ObjectId),
    ClusterIp(IpAddr),
}

/// An object by its place in [`Files`].
#[derive(Clone)]
struct Claimant {
    file: Arc<Path>,
    index: u32,
}

impl Directory {
    /// The state after the last reading without errors.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Reads `dir`. `true` when the Snapshot is another one now, or the first.
    ///
    /// # Errors
    /// All that is wrong; the Snapshot stays as it was.
    pub(super) fn read(&mut self, dir: &Path) -> Result<bool, Vec<ManifestError>> {
        self.attempt(dir)?;
        Ok(mem::take(&mut self.differs))
    }

    fn attempt(&mut self, dir: &Path) -> Result<(), Vec<ManifestError>> {
        let listed = list(dir).map_err(|error| vec![whole_file(dir, unreadable(&error))])?;
        let mut errors = Vec::new();
        let mut changed = BTreeMap::new();
        for (name, stamp) in &listed {
            if self.files.get(name).is_some_and(|file| file.stamp == *stamp && !stamp.fresh) {
                continue;
            }
            match load(dir, name, *stamp, &mut self.sharing) {
                Ok(Some(file)) => drop(changed.insert(Arc::clone(name), file)),
                Ok(None) => {}
                Err(found) => errors.extend(found),
            }
        }
        let gone: Vec<Arc<Path>> =
            self.files.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
        let replaced: BTreeSet<&Arc<Path>> = gone.iter().chain(changed.keys()).collect();
        errors.extend(self.contested(&changed, &replaced));
        if !errors.is_empty() {
            errors.sort_by(|a, b| a.place.cmp(&b.place));
            return Err(errors);
        }
        self.accept(gone, changed);
        Ok(())
    }

    /// Errors for what the changed files claim and others have.
    fn contested(&self, changed: &Files, replaced: &BTreeSet<&Arc<Path>>) -> Vec<ManifestError> {
        let mut new: HashMap<Claim, Claimant> = HashMap::new();
        let mut errors = Vec::new();
        for (claim, claimant) in changed.iter().flat_map(|(name, file)| claims(name, file)) {
            let stays = |claimant: &&Claimant| !replaced.contains(&claimant.file);
            let known = || {
                let holder = self.claims.get(&claim).filter(stays)?;
                object(&self.files, holder)
            };
            let holder = new.get(&claim).and_then(|holder| object(changed, holder)).or_else(known);
            if let (Some((holder, first)), Some((id, place))) = (holder, object(changed, &claimant)) {
                let (first, place) = (first.clone(), place.clone());
                let problem = match &claim {
                    Claim::Object(_) => Problem::DuplicateObject { first },
                    Claim::ClusterIp(address) => Problem::AddressClash {
                        field: "spec.clusterIP".to_owned(),
                        address: address.to_string(),
                        other: holder.to_string(),
                        first,
                    },
                };
                errors.push(ManifestError { place, object: id.to_string(), problem });
            } else {
                new.insert(claim, claimant);
            }
        }
        errors
    }

    fn accept(&mut self, gone: Vec<Arc<Path>>, changed: Files) {
        let touched = !gone.is_empty() || !changed.is_empty();
        let mut old: BTreeMap<ObjectId, Part> = BTreeMap::new();
        for name in gone.iter().chain(changed.keys()) {
            let Some(file) = self.files.remove(name) else { continue };
            for (claim, _) in claims(name, &file) {
                self.claims.remove(&claim);
            }
            old.extend(file.objects.into_iter().filter_map(|(id, _, part)| Some((id, part?))));
        }
        self.differs |= !self.synced;
        for (name, mut file) in changed {
            self.claims.extend(claims(&name, &file));
            for (id, _, part) in &mut file.objects {
                let Some(part) = part else { continue };
                match old.remove(id) {
                    // The same content keeps the same Arc, so that Snapshots share it.
                    Some(same) if same == *part => *part = same,
                    _ => {
                        part.clone().insert(&mut self.snapshot);
                        self.differs = true;
                    }
                }
            }
            self.files.insert(name, file);
        }
        for part in old.into_values() {
            part.remove(&mut self.snapshot);
            self.differs = true;
        }
        if touched {
            self.sharing.sweep();
        }
        self.synced = true;
    }
}

/// Manifest files of a directory with their stamps.
fn list(dir: &Path) -> std::io::Result<BTreeMap<Arc<Path>, Stamp>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        if name.as_os_str().as_encoded_bytes().starts_with(b".") || !is_manifest(&name) {
            continue;
        }
        match fs::metadata(dir.join(&name)) {
            Ok(metadata) if metadata.is_file() => drop(files.insert(name.into(), Stamp::of(&metadata))),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// `None` when the file is gone meanwhile.
fn load(
    dir: &Path,
    name: &Path,
    stamp: Stamp,
    sharing: &mut Sharing,
) -> Result<Option<File>, Vec<ManifestError>> {
    let shown: Arc<Path> = dir.join(name).into();
    let bytes = match fs::read(&shown) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(vec![whole_file(&shown, unreadable(&error))]),
    };
    let manifests = parse(&[Source { name: shown, bytes }])?;
    let objects = manifests.objects.into_iter();
    let objects = objects.map(|(id, manifest)| {
        let mut part = Part::of(&manifest.object);
        let id = share(id, part.as_mut(), sharing);
        (id, manifest.place, part)
    });
    Ok(Some(File { stamp, objects: objects.collect() }))
}

/// Lets a part use what other objects have too. Returns the id, whose texts are the part's.
fn share(id: ObjectId, part: Option<&mut Part>, sharing: &mut Sharing) -> ObjectId {
    let Some(part) = part else { return id };
    part.share(sharing);
    let key = match part {
        Part::Pod(pod) => &pod.key,
        Part::Service(service) => &service.key,
        Part::EndpointSlice(slice) => &slice.key,
        Part::Node(_)
        | Part::Namespace(_)
        | Part::NetworkPolicy(_)
        | Part::ClusterNetworkPolicy(_)
        | Part::LoadBalancerPool(_)
        | Part::L2Announcement(_) => return id,
    };
    ObjectId { kind: id.kind, namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) }
}

fn object<'a>(files: &'a Files, claimant: &Claimant) -> Option<(&'a ObjectId, &'a Place)> {
    let (id, place, _) = files.get(&claimant.file)?.objects.get(claimant.index as usize)?;
    Some((id, place))
}

/// What a file's objects claim for themselves.
fn claims<'a>(name: &'a Arc<Path>, file: &'a File) -> impl Iterator<Item = (Claim, Claimant)> + 'a {
    (0..).zip(&file.objects).flat_map(move |(index, (id, _, part))| {
        let claimant = Claimant { file: Arc::clone(name), index };
        let addresses = match part {
            Some(Part::Service(service)) => service.cluster_ips.clone(),
            Some(
                Part::Node(_)
                | Part::Namespace(_)
                | Part::Pod(_)
                | Part::EndpointSlice(_)
                | Part::NetworkPolicy(_)
                | Part::ClusterNetworkPolicy(_)
                | Part::LoadBalancerPool(_)
                | Part::L2Announcement(_),
            )
            | None => Vec::new(),
        };
        let addresses = addresses.into_iter().map(Claim::ClusterIp);
        std::iter::once(Claim::Object(id.clone()))
            .chain(addresses)
            .map(move |claim| (claim, claimant.clone()))
    })
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let age =
            metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            fresh: age.is_none_or(|age| age < MTIME_GRAIN),
        }
    }
}

#[cfg(test)]
mod tests;
