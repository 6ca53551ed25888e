//! Directories of Kubernetes YAML: manifests as people write them ([`read()`]), what controllers would make of them
//! ([`expand()`]), and a directory that stands for the API server ([`write_object`], [`watch()`]).

mod check;
mod clash;
mod directory;
mod error;
mod expand;
mod field;
mod manifests;
mod object;
mod read;
mod store;
mod watch;
mod yaml;

pub use crate::convert::{applied, deleted, snapshot};
pub(crate) use check::{disregarded, problems};
pub use error::{ManifestError, Notice, Place, Problem};
pub use expand::{Assigned, Cluster, Expanded, build_endpoint_slices, expand};
pub use manifests::{Manifest, Manifests, Skipped};
pub use object::{Kind, Object, ObjectId};
pub use read::{Source, parse, read};
pub use store::{remove_object, write_object};
pub use watch::{Reading, WatchError, Watched, watch};
