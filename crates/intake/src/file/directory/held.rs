//! What is kept of each object of a directory. There may be 100,000.

use std::path::Path;
use std::sync::Arc;

use sheetbend_model::state::Sharing;

use crate::convert::Part;
use crate::file::error::Place;
use crate::file::manifests::Manifest;
use crate::file::object::ObjectId;

/// One object of a file: 24 bytes, and the part that a Snapshot has too.
pub(super) struct Held {
    /// Its first line, from 1.
    line: u32,
    pub(super) content: Content,
}

pub(super) enum Content {
    /// What a Snapshot holds of it.
    Part(Part),
    /// Which it is: a Snapshot holds nothing of it.
    Other(Box<ObjectId>),
}

impl Held {
    /// What is kept of `manifest`, which lets it use what other objects have too.
    pub(super) fn new(id: ObjectId, manifest: &Manifest, sharing: &mut Sharing) -> Self {
        let content = match Part::of(&manifest.object) {
            Some(mut part) => {
                part.share(sharing);
                Content::Part(part)
            }
            None => Content::Other(Box::new(id)),
        };
        Self { line: u32::try_from(manifest.place.line).unwrap_or(u32::MAX), content }
    }

    pub(super) fn id(&self) -> ObjectId {
        match &self.content {
            Content::Part(part) => part.id(),
            Content::Other(id) => (**id).clone(),
        }
    }

    /// Where it stands in `file`.
    pub(super) fn place(&self, file: &Arc<Path>) -> Place {
        Place { file: Arc::clone(file), line: self.line as usize }
    }

    pub(super) fn into_part(self) -> Option<(ObjectId, Part)> {
        match self.content {
            Content::Part(part) => Some((part.id(), part)),
            Content::Other(_) => None,
        }
    }
}
