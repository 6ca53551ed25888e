//! One directory of objects, read again and again, parsing only what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::hash::{BuildHasher, RandomState};
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
    /// Who has each thing that only one may have: (hash of the claim, file, place in it). The claim itself is in the file.
    claims: BTreeSet<(u64, u32, u32)>,
    /// Keys of the hashes.
    hashing: RandomState,
    /// Number → file.
    names: BTreeMap<u32, Arc<Path>>,
    next_name: u32,
    sharing: Sharing,
    snapshot: Snapshot,
}

/// File name → content.
type Files = BTreeMap<Arc<Path>, File>;

/// A file name's content at one time.
struct File {
    /// In [`Directory::names`], once it is one of them.
    number: u32,
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
        let names: Vec<&Arc<Path>> = changed.keys().collect();
        // As `Directory::claims`, by the place in `names`.
        let mut new: BTreeSet<(u64, u32, u32)> = BTreeSet::new();
        let mut errors = Vec::new();
        for (number, (_, file)) in (0..).zip(changed) {
            for (claim, index) in claims(file) {
                let hash = self.hashing.hash_one(&claim);
                let rival = holders(&new, hash).find_map(|(file, index)| {
                    let file = changed.get(*names.get(file as usize)?)?;
                    object(file, index, &claim)
                });
                let known = || {
                    holders(&self.claims, hash).find_map(|(file, index)| {
                        let name = self.names.get(&file).filter(|name| !replaced.contains(name))?;
                        object(self.files.get(name)?, index, &claim)
                    })
                };
                let holder = rival.or_else(known);
                let own = file.objects.get(index as usize);
                let (Some((holder, first)), Some((id, place, _))) = (holder, own) else {
                    new.insert((hash, number, index));
                    continue;
                };
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
            }
        }
        errors
    }

    fn accept(&mut self, gone: Vec<Arc<Path>>, changed: Files) {
        let touched = !gone.is_empty() || !changed.is_empty();
        let mut old: BTreeMap<ObjectId, Part> = BTreeMap::new();
        for name in gone.iter().chain(changed.keys()) {
            let Some(file) = self.files.remove(name) else { continue };
            for (claim, index) in claims(&file) {
                self.claims.remove(&(self.hashing.hash_one(&claim), file.number, index));
            }
            self.names.remove(&file.number);
            old.extend(file.objects.into_iter().filter_map(|(id, _, part)| Some((id, part?))));
        }
        self.differs |= !self.synced;
        for (name, mut file) in changed {
            file.number = self.next_name;
            self.next_name += 1;
            self.names.insert(file.number, Arc::clone(&name));
            let hashed = |(claim, index)| (self.hashing.hash_one(&claim), file.number, index);
            self.claims.extend(claims(&file).map(hashed));
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
    Ok(Some(File { number: 0, stamp, objects: objects.collect() }))
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
        | Part::ServiceCidr(_)
        | Part::ClusterNetworkPolicy(_)
        | Part::LoadBalancerPool(_)
        | Part::L2Announcement(_) => return id,
    };
    ObjectId { kind: id.kind, namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) }
}

/// (file, place in it) of who may have the claim with this hash.
fn holders(claims: &BTreeSet<(u64, u32, u32)>, hash: u64) -> impl Iterator<Item = (u32, u32)> + '_ {
    claims.range((hash, 0, 0)..=(hash, u32::MAX, u32::MAX)).map(|(_, file, index)| (*file, *index))
}

/// The object in this place, if it makes this claim.
fn object<'a>(file: &'a File, index: u32, claim: &Claim) -> Option<(&'a ObjectId, &'a Place)> {
    let object = file.objects.get(index as usize)?;
    claims_of(object).any(|own| own == *claim).then_some((&object.0, &object.1))
}

/// What a file's objects claim for themselves, with each one's place.
fn claims(file: &File) -> impl Iterator<Item = (Claim, u32)> + '_ {
    (0..).zip(&file.objects).flat_map(|(index, object)| claims_of(object).map(move |claim| (claim, index)))
}

fn claims_of((id, _, part): &(ObjectId, Place, Option<Part>)) -> impl Iterator<Item = Claim> + use<> {
    let addresses = match part {
        Some(Part::Service(service)) => service.cluster_ips.clone(),
        Some(
            Part::Node(_)
            | Part::Namespace(_)
            | Part::Pod(_)
            | Part::EndpointSlice(_)
            | Part::NetworkPolicy(_)
            | Part::ServiceCidr(_)
            | Part::ClusterNetworkPolicy(_)
            | Part::LoadBalancerPool(_)
            | Part::L2Announcement(_),
        )
        | None => Vec::new(),
    };
    std::iter::once(Claim::Object(id.clone())).chain(addresses.into_iter().map(Claim::ClusterIp))
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
