//! What can go wrong with the files.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sheetbend_model::state::AttachmentId;

/// Why leases or attachments could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}; is the disk full or read-only?", path = path.display())]
    Io {
        /// create, read, write, remove.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A file of ours says something else than we write.
    #[error("{path} is not what an agent writes: {source}; remove it if you put it there", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The address is another attachment's.
    #[error("address {addr} belongs to container {}, interface {}", holder.container_id, holder.ifname)]
    Leased {
        /// The address.
        addr: IpAddr,
        /// Who holds it.
        holder: AttachmentId,
    },
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
