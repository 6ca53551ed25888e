//! What can be wrong with manifests, in words a user can act on.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A place in the user's files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file, as the user named it.
    pub file: Arc<Path>,
    /// The line, from 1; 0 means the whole file.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

/// One thing wrong with the manifests. Shown as `file:line: Kind namespace/name: what is wrong; how to fix it`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// Where.
    pub place: Place,
    /// `Kind namespace/name`, or empty when no object was recognised.
    pub object: String,
    /// What is wrong and how to fix it.
    #[source]
    pub problem: Problem,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        self.problem.fmt(f)
    }
}

/// Something a user should know although nothing is wrong. Shown like an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Where, if it is about one place.
    pub place: Option<Place>,
    /// The sentence.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not understood, and so without effect; all else of the object holds.
    #[error("{field}: {effect}")]
    Disregarded {
        /// What it is about.
        field: String,
        /// What is held against it, and what holds instead.
        effect: String,
    },
    /// The file or directory cannot be read.
    #[error("cannot be read: {0}; check the path and its permissions")]
    Unreadable(String),
    /// Nothing to read.
    #[error(
        "no manifests: no *.yaml, *.yml or *.json in this directory; name a directory that has some, or a file"
    )]
    NoManifests,
    /// Not text.
    #[error("is not UTF-8 text (byte {0}); save the file as UTF-8")]
    NotUtf8(usize),
    /// Not YAML.
    #[error("broken YAML: {detail}; {fix}")]
    Syntax {
        /// What the parser says.
        detail: String,
        /// What to try.
        fix: String,
    },
    /// Not a Kubernetes object.
    #[error("{what}; {fix}")]
    NotAnObject {
        /// What it is instead.
        what: String,
        /// What to write.
        fix: String,
    },
    /// A kind we know in an API version that no longer exists.
    #[error("apiVersion {found} has no {kind} that is served today; write apiVersion: {current}")]
    ApiVersion {
        /// The kind.
        kind: String,
        /// The version written.
        found: String,
        /// The version to write.
        current: &'static str,
    },
    /// A key written twice.
    #[error("{field}: written twice in one mapping, first in line {first}; keep one of them")]
    DuplicateField {
        /// The field.
        field: String,
        /// Line of the first.
        first: usize,
    },
    /// A field that the API does not have.
    #[error("{field}: unknown field; {fix}")]
    UnknownField {
        /// The field.
        field: String,
        /// The nearest known field, or what is known.
        fix: String,
    },
    /// A value of another type than the API's.
    #[error("{field}: {found}, where {wanted} is needed; {fix}")]
    WrongType {
        /// The field.
        field: String,
        /// What is there.
        found: String,
        /// What should be.
        wanted: String,
        /// What to write.
        fix: String,
    },
    /// A required field is absent.
    #[error("{field}: missing; {fix}")]
    Missing {
        /// The field.
        field: String,
        /// What to write.
        fix: String,
    },
    /// A value that the API server refuses.
    #[error("{field}: {value:?} {why}; {fix}")]
    Invalid {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// The rule it breaks.
        why: String,
        /// What to write.
        fix: String,
    },
    /// Fields that contradict each other.
    #[error("{field}: {why}; {fix}")]
    Conflict {
        /// The field.
        field: String,
        /// The rule they break.
        why: String,
        /// What to write.
        fix: String,
    },
    /// A field that the API has and nobody acts on yet.
    #[error("{field}: not built yet; {fix}")]
    NotBuilt {
        /// The field.
        field: String,
        /// What to write.
        fix: String,
    },
    /// The same object twice.
    #[error("defined twice, first at {first}; remove or rename one of them")]
    DuplicateObject {
        /// Where it was first.
        first: Place,
    },
    /// One address for two.
    #[error(
        "{field}: address {address} is also {other}'s, at {first}; give one of them another, or leave it out to have one allocated"
    )]
    AddressClash {
        /// The field.
        field: String,
        /// The address.
        address: String,
        /// The other object.
        other: String,
        /// Where the other is.
        first: Place,
    },
}

impl Problem {
    /// The field that is wrong, as `spec.ports[0].port`; `None` where it is the whole object.
    pub fn field(&self) -> Option<&str> {
        match self {
            Problem::Disregarded { field, .. }
            | Problem::DuplicateField { field, .. }
            | Problem::UnknownField { field, .. }
            | Problem::WrongType { field, .. }
            | Problem::Missing { field, .. }
            | Problem::Invalid { field, .. }
            | Problem::Conflict { field, .. }
            | Problem::NotBuilt { field, .. }
            | Problem::AddressClash { field, .. } => Some(field),
            Problem::Unreadable(_)
            | Problem::NoManifests
            | Problem::NotUtf8(_)
            | Problem::Syntax { .. }
            | Problem::NotAnObject { .. }
            | Problem::ApiVersion { .. }
            | Problem::DuplicateObject { .. } => None,
        }
    }
}

/// The word among `known` that a reader most likely meant by `written`, if any is near.
pub(super) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = written.to_lowercase();
    let limit = (written.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|word| (distance(&lower, &word.to_lowercase()), word))
        .filter(|(edits, _)| *edits <= limit)
        .min()
        .map(|(_, word)| word)
}

/// Optimal string alignment distance: bytes inserted, removed, replaced, and neighbours exchanged.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = last[j] + usize::from(a[i] != b[j]);
            let mut edits = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                edits = edits.min(before[j - 1] + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
