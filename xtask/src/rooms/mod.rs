//! `cargo xtask rooms`: the arrows of ARCHITECTURE.md, checked.

mod metadata;
mod rules;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

pub(crate) use self::metadata::{Dependency, Kind, Package, packages};
pub(crate) use self::scan::{code_of, names_in};
use crate::MISMATCH;
use crate::repo::Repo;

/// Check which room imports which, where `unsafe` may stand, and what pure rooms must not touch.
///
/// Arrows point one way: model ← intake, compile, apply, observe; these never import one another. Only bin/ sees them
/// all, only tests use testkit, only tests and the lab's live checker use oracle.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// A broken rule, with the place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// `path:line`, or the manifest's path.
    pub(crate) place: String,
    /// What is wrong and what the rule is.
    pub(crate) text: String,
}

/// Runs the subcommand.
pub(crate) fn run(repo: &Repo, _args: &Args) -> Result<ExitCode> {
    match check(repo) {
        Ok(note) => {
            println!("{note}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error:#}");
            Ok(ExitCode::from(MISMATCH))
        }
    }
}

/// All arrows; an error lists the wrong ones.
pub(crate) fn check(repo: &Repo) -> Result<String> {
    let packages = packages(repo)?;
    let violations = violations(repo, &packages)?;
    if violations.is_empty() {
        let arrows: usize =
            packages.iter().map(|package| package.dependencies.iter().filter(|d| d.ours).count()).sum();
        return Ok(format!("{} rooms, {arrows} arrows, all right", packages.len()));
    }
    let list: Vec<String> = violations.iter().map(|one| format!("{}: {}", one.place, one.text)).collect();
    anyhow::bail!("{}", list.join("\n"))
}

fn violations(repo: &Repo, packages: &[Package]) -> Result<Vec<Violation>> {
    let known: BTreeMap<String, &Package> =
        packages.iter().map(|package| (package.name.replace('-', "_"), package)).collect();
    let mut found = Vec::new();
    for package in packages {
        found.extend(rules::manifest(package));
        for file in package.files(repo, packages)? {
            let text = repo.read(&file).with_context(|| format!("scan of {}", package.name))?;
            let code = code_of(&text);
            found.extend(rules::source(package, &file, &code, &known));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}
