//! Images in a cluster's nodes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::enter;
use super::node::CONTAINERD;
use super::record::Record;

/// The image that holds each Pod's namespaces.
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10.1";

/// Imports an archive into every node at once.
pub(super) fn import(record: &Record, ctr: &Path, archive: &Path) -> Result<()> {
    let mut running = Vec::new();
    for node in record.settings.node_names() {
        let socket = enter::root_of(record, &node)?.join(CONTAINERD.trim_start_matches('/'));
        let mut command = Command::new(ctr);
        command.arg("--address").arg(&socket).args(["--namespace", "k8s.io", "images", "import"]);
        command.arg(archive).stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        running.push((node, command.spawn().context("cannot start ctr")?));
    }
    for (node, child) in running {
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{node} does not take {}: {}", archive.display(), why.trim());
        }
    }
    Ok(())
}
