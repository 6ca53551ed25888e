//! What a user gave us.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::clash;
use super::error::{ManifestError, Notice, Place};
use super::object::{Object, ObjectId};

/// The objects of some manifests, all of them right.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    /// By kind, namespace and name.
    pub objects: BTreeMap<ObjectId, Manifest>,
    /// Objects of kinds that we don't read, in file order.
    pub skipped: Vec<Skipped>,
    /// What is read and has no effect yet, or was assumed.
    pub notices: Vec<Notice>,
}

impl Manifests {
    /// These with `others` added; an object that is in both is the one of `others` (`apply`).
    ///
    /// # Errors
    /// Services that have the same address.
    pub fn merged(&self, others: &Manifests) -> Result<Manifests, Vec<ManifestError>> {
        let mut merged = self.clone();
        merged.objects.extend(others.objects.iter().map(|(id, manifest)| (id.clone(), manifest.clone())));
        merged.skipped.extend(others.skipped.iter().cloned());
        merged.notices.extend(others.notices.iter().cloned());
        let errors = clash::cluster_ips(&merged.objects);
        if errors.is_empty() { Ok(merged) } else { Err(errors) }
    }

    /// Takes the objects of `others` away (`delete`); returns those that were not here.
    pub fn remove(&mut self, others: &Manifests) -> Vec<ObjectId> {
        others.objects.keys().filter(|id| self.objects.remove(*id).is_none()).cloned().collect()
    }
}

/// An object and where it was written.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The object; `metadata.namespace` is always set for namespaced kinds.
    pub object: Arc<Object>,
    /// Its first line.
    pub place: Place,
    /// Line of `spec.clusterIP`, or of what is around it.
    pub(super) cluster_ip_line: usize,
}

impl Manifest {
    /// An object that no file holds: it was made, or comes from `place`.
    pub fn new(object: Object, place: Place) -> Self {
        let cluster_ip_line = place.line;
        Self { object: Arc::new(object), place, cluster_ip_line }
    }
}

/// An object of a kind that we don't read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Where.
    pub place: Place,
    /// Its `apiVersion`.
    pub api_version: String,
    /// Its `kind`.
    pub kind: String,
    /// `namespace/name`, or just the name.
    pub name: Option<String>,
    /// The kind that the user may have meant.
    pub near: Option<&'static str>,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.place, self.kind, self.api_version)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        f.write_str(": not a kind that Sheetbend reads, skipped")?;
        match self.near {
            Some(near) => write!(f, "; did you mean {near}?"),
            None => Ok(()),
        }
    }
}
