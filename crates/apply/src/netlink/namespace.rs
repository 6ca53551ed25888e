//! Sockets in other network namespaces.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::NetlinkError;
use super::connection::Connection;

/// A pod's network namespace, held open.
pub(super) struct Namespace {
    /// An open file keeps the namespace, whatever happens to its path.
    pub(super) file: File,
}

impl Namespace {
    /// Opens `path` and makes sure that it is not the caller's own namespace.
    pub(super) fn open(path: &Path) -> Result<Self, NetlinkError> {
        let error = |source| NetlinkError::Namespace { path: path.to_owned(), source };
        let file = File::open(path).map_err(error)?;
        let (theirs, ours) =
            (file.metadata().map_err(error)?, std::fs::metadata("/proc/thread-self/ns/net").map_err(error)?);
        if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
            return Err(NetlinkError::NodeNamespace { path: path.to_owned() });
        }
        Ok(Self { file })
    }

    /// A netlink socket inside. Opened by a thread of its own that ends in there, so that no thread of the caller's
    /// can be left in a pod's namespace.
    pub(super) fn connect(&self, path: &Path) -> Result<Connection, NetlinkError> {
        let opened = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                    Connection::open()
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread that enters the namespace died")))
        });
        opened.map_err(|source| NetlinkError::Namespace { path: path.to_owned(), source })
    }
}
