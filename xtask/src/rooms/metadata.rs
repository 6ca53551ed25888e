//! What cargo knows about our packages.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::repo::Repo;

/// One of our packages.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// Its name, e.g. `sheetbend-model`.
    pub(crate) name: String,
    /// Its directory relative to the repository, e.g. `crates/model`.
    pub(crate) directory: String,
    /// The root file of each of its targets, relative to the repository.
    pub(crate) roots: Vec<String>,
    /// What its manifest names.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One entry of a manifest.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// The name it has in the code, with underscores.
    pub(crate) code_name: String,
    /// The table it stands in.
    pub(crate) kind: Kind,
    /// Whether it lies in this repository.
    pub(crate) ours: bool,
}

/// The table of a manifest that names a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `[dependencies]`.
    Normal,
    /// `[dev-dependencies]`: tests only.
    Dev,
    /// `[build-dependencies]`.
    Build,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<RawPackage>,
    workspace_root: String,
}

#[derive(Deserialize)]
struct RawPackage {
    name: String,
    manifest_path: String,
    #[serde(default)]
    targets: Vec<RawTarget>,
    dependencies: Vec<RawDependency>,
}

#[derive(Deserialize)]
struct RawTarget {
    src_path: String,
}

#[derive(Deserialize)]
struct RawDependency {
    name: String,
    rename: Option<String>,
    kind: Option<String>,
    path: Option<String>,
}

impl Package {
    /// Its Rust files, relative to the repository; a package inside it (compile/oracle) keeps its own.
    pub(crate) fn files(&self, repo: &Repo, packages: &[Package]) -> Result<Vec<String>> {
        let mut files = repo.files(&self.directory, ".rs")?;
        let own = format!("{}/", self.directory);
        let inner: Vec<String> = packages
            .iter()
            .map(|package| format!("{}/", package.directory))
            .filter(|directory| *directory != own && directory.starts_with(&own))
            .collect();
        files.retain(|file| !inner.iter().any(|directory| file.starts_with(directory)));
        Ok(files)
    }
}

/// Our packages: the workspace's, and the kernel programs beside it.
pub(crate) fn packages(repo: &Repo) -> Result<Vec<Package>> {
    let mut found = read(repo.cargo().args(["metadata", "--format-version=1", "--no-deps"]), repo)?;
    let programs = repo.path("crates/ebpf/programs/Cargo.toml");
    if programs.is_file() {
        let mut command = repo.cargo();
        command.args(["metadata", "--format-version=1", "--no-deps", "--manifest-path"]).arg(programs);
        found.extend(read(&mut command, repo)?);
    }
    found.sort_by(|a, b| a.directory.cmp(&b.directory));
    Ok(found)
}

fn read(command: &mut Command, repo: &Repo) -> Result<Vec<Package>> {
    let output = command.output().context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    parse(&output.stdout, &repo.root().display().to_string())
}

/// Reads the output of `cargo metadata`; `root` is the repository's directory.
pub(super) fn parse(json: &[u8], root: &str) -> Result<Vec<Package>> {
    let metadata: Metadata = serde_json::from_slice(json).context("cargo metadata printed something else")?;
    let relative = |path: &str| {
        let path =
            path.strip_prefix(root).or_else(|| path.strip_prefix(&metadata.workspace_root)).unwrap_or(path);
        path.trim_matches('/').to_owned()
    };
    let package = |raw: RawPackage| Package {
        directory: relative(raw.manifest_path.trim_end_matches("Cargo.toml")),
        roots: raw.targets.iter().map(|target| relative(&target.src_path)).collect(),
        name: raw.name,
        dependencies: raw.dependencies.into_iter().map(dependency).collect(),
    };
    Ok(metadata.packages.into_iter().map(package).collect())
}

fn dependency(raw: RawDependency) -> Dependency {
    let kind = match raw.kind.as_deref() {
        Some("dev") => Kind::Dev,
        Some("build") => Kind::Build,
        _ => Kind::Normal,
    };
    Dependency {
        code_name: raw.rename.unwrap_or_else(|| raw.name.clone()).replace('-', "_"),
        name: raw.name,
        kind,
        ours: raw.path.is_some(),
    }
}
