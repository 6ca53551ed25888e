//! Sheetbend in a test cluster: its image in every node, its manifests applied.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::record::Record;
use super::{build, enter, images};
use crate::image;
use crate::progress::{Mark, Step};
use crate::repo::Repo;

/// What `kubectl apply -k` takes.
const MANIFESTS: &str = "deploy/kubernetes";

/// Refuses early what cannot be installed.
pub(super) fn check(repo: &Repo) -> Result<()> {
    if !repo.path(MANIFESTS).join("kustomization.yaml").is_file() {
        bail!("--network sheetbend: this tree has no {MANIFESTS}/kustomization.yaml; use none or peer");
    }
    Ok(())
}

/// Says where the API server is by an address that works before any Service does, as an administrator would.
pub(super) fn name_api_server(record: &Record, kubectl: &Path) -> Result<()> {
    let mut command = enter::kubectl(record, kubectl)?;
    let url = format!("--from-literal=url={}", record.settings.api_url());
    command.args(["--namespace=kube-system", "create", "configmap", "sheetbend-api-server", &url]);
    enter::output(command).map(drop)
}

/// Builds and loads the image, then applies the manifests.
pub(super) fn install(repo: &Repo, record: &Record, kubectl: &Path) -> Result<()> {
    load(repo, record, None)?;
    let step = Step::start(format!("kubectl apply -k {MANIFESTS}"));
    let mut command = enter::kubectl(record, kubectl)?;
    command.arg("apply").arg("-k").arg(repo.path(MANIFESTS));
    let outcome = enter::output(command);
    step.end(if outcome.is_ok() { Mark::Done } else { Mark::Failed }, "");
    outcome.map(drop)
}

/// Imports `archive`, or Sheetbend's own image, into every node.
pub(super) fn load(repo: &Repo, record: &Record, archive: Option<PathBuf>) -> Result<()> {
    let archive = match archive {
        Some(archive) => archive,
        None => image::build(repo, None)?,
    };
    let step = Step::start(format!("{} in every node", archive.display()));
    let outcome = images::import(record, &build::ctr()?, &archive);
    step.end(if outcome.is_ok() { Mark::Done } else { Mark::Failed }, "");
    outcome
}
