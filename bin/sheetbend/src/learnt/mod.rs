//! Addresses of domain names, from the name server that says them to the agent that lets pods reach them.
//!
//! `sheetbend dns` tells its own node's agent at a Unix socket, a JSON object a line, and holds the answer back until the
//! agent says that the kernel knows. Why this way: `docs/adr/0007-names-are-learnt-by-the-name-server.md`.

pub(crate) mod store;
pub(crate) mod teller;
pub(crate) mod wire;

use std::path::{Path, PathBuf};

/// Where the agent of `run_dir` listens. It has a directory of its own, so that a name server in a pod can be given this
/// and nothing else of the agent's.
pub(crate) fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("names").join("agent.sock")
}
