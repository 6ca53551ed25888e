//! Sheetbend in a test cluster: its image in every node, its manifests applied.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::record::Record;
use super::{build, enter, images};
use crate::image;
use crate::progress::{Mark, Step};
use crate::repo::Repo;

/// What `kubectl apply -k` takes: a directory for each mode.
const MANIFESTS: &str = "deploy/kubernetes/overlays";

/// Refuses early what cannot be installed.
pub(super) fn check(repo: &Repo) -> Result<()> {
    if !repo.path(MANIFESTS).is_dir() {
        bail!("--network sheetbend: this tree has no {MANIFESTS}; use none or peer");
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
    let step = Step::start(format!("kubectl apply -k {MANIFESTS}/{}", record.settings.mode.overlay()));
    let outcome = overlay(repo, record).and_then(|overlay| {
        let mut command = enter::kubectl(record, kubectl)?;
        command.arg("apply").arg("-k").arg(overlay);
        enter::output(command)
    });
    let outcome = outcome.and_then(|_| give_load_balancer_addresses(record, kubectl));
    step.end(if outcome.is_ok() { Mark::Done } else { Mark::Failed }, "");
    outcome
}

/// Addresses of the nodes' link for Services of type LoadBalancer, as an administrator would give them.
fn give_load_balancer_addresses(record: &Record, kubectl: &Path) -> Result<()> {
    let run = |arguments: &[&str]| {
        let mut command = enter::kubectl(record, kubectl)?;
        command.args(arguments);
        enter::output(command)
    };
    let definitions =
        ["loadbalancerpools", "l2announcements"].map(|name| format!("crd/{name}.sheetbend.dev"));
    run(&["wait", "--for=condition=Established", "--timeout=30s", &definitions[0], &definitions[1]])?;
    let path = super::record::directory(&record.settings.name).join("load-balancer.json");
    std::fs::write(&path, format!("{:#}\n", load_balancer(&record.settings.load_balancer_addresses())))?;
    run(&["apply", "--filename", &path.display().to_string()]).map(drop)
}

/// A pool of these blocks, announced by every node.
fn load_balancer(blocks: &[&str]) -> Value {
    let blocks: Vec<Value> = blocks.iter().map(|block| json!({"cidr": block})).collect();
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "sheetbend.dev/v1alpha1", "kind": kind,
            "metadata": {"name": "underlay"}, "spec": spec,
        })
    };
    json!({
        "apiVersion": "v1", "kind": "List",
        "items": [object("LoadBalancerPool", json!({"blocks": blocks})), object("L2Announcement", json!({}))],
    })
}

/// The manifests with the DNS addresses that this cluster's kubelets name.
fn overlay(repo: &Repo, record: &Record) -> Result<PathBuf> {
    let directory = super::record::directory(&record.settings.name).join("install");
    std::fs::create_dir_all(&directory)?;
    // kustomize takes bases by relative paths only.
    let (from, to) = (
        directory.canonicalize()?,
        repo.path(MANIFESTS).join(record.settings.mode.overlay()).canonicalize()?,
    );
    let up = "../".repeat(from.components().count() - 1);
    let base = format!("{up}{}", to.strip_prefix("/")?.display());
    let text = kustomization(&base, &record.settings.dns_service());
    std::fs::write(directory.join("kustomization.yaml"), format!("{text:#}\n"))?;
    Ok(directory)
}

/// `base` with these addresses of Service `kube-dns`.
fn kustomization(base: &str, addresses: &[&str]) -> Value {
    let policy = if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let patch = json!([
        {"op": "replace", "path": "/spec/clusterIP", "value": addresses[0]},
        {"op": "add", "path": "/spec/clusterIPs", "value": addresses},
        {"op": "replace", "path": "/spec/ipFamilyPolicy", "value": policy},
    ]);
    json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": [base],
        "patches": [{"target": {"kind": "Service", "name": "kube-dns"}, "patch": patch.to_string()}],
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_s_own_dns_addresses_are_installed() {
        let text = kustomization("../../base", &["fd00:10:96::a"]).to_string();
        assert!(text.contains("fd00:10:96::a") && text.contains("SingleStack"), "{text}");
        assert!(
            kustomization("b", &["10.96.0.10", "fd00:10:96::a"]).to_string().contains("RequireDualStack")
        );
    }
}
