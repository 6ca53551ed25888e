//! Dependencies that a manifest names and no code uses.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::Outcome;
use crate::progress::Step;
use crate::repo::Repo;
use crate::rooms::{self, Kind, Package, code_of, names_in};

/// The gate: a word scan, as wide as it can be, so that what it names is surely unused.
pub(super) fn check(repo: &Repo, _step: &mut Step) -> Result<Outcome> {
    let packages = rooms::packages(repo)?;
    let mut wrong = Vec::new();
    for package in &packages {
        let manifest = format!("{}/Cargo.toml", package.directory);
        wrong.extend(unused(repo, package, &packages)?.into_iter().map(|name| format!("{manifest}: {name}")));
    }
    wrong.extend(unnamed(repo, &packages)?);
    if !wrong.is_empty() {
        bail!("nothing uses these dependencies; remove them:\n{}", wrong.join("\n"));
    }
    let count: usize = packages.iter().map(|package| package.dependencies.len()).sum();
    Ok(Outcome::Passed(format!("{count} in use")))
}

fn unused(repo: &Repo, package: &Package, packages: &[Package]) -> Result<Vec<String>> {
    let (mut code, mut tests) = (BTreeSet::new(), BTreeSet::new());
    for file in package.files(repo, packages)? {
        let lines = code_of(&repo.read(&file)?);
        let is_test =
            file.strip_prefix(&package.directory).is_some_and(|inside| !inside.starts_with("/src/"));
        let words = lines.iter().flat_map(|line| names_in(line)).map(|(word, _)| word.to_owned());
        if is_test { tests.extend(words) } else { code.extend(words) }
    }
    let is_unused = |dependency: &&rooms::Dependency| {
        let in_code = code.contains(&dependency.code_name);
        let in_tests = tests.contains(&dependency.code_name);
        match dependency.kind {
            // A test target sees normal dependencies too, but only code makes them worth shipping.
            Kind::Normal => !(in_code || in_tests && package.directory.starts_with("tests/")),
            Kind::Dev | Kind::Build => !in_code && !in_tests,
        }
    };
    let mut names: Vec<String> =
        package.dependencies.iter().filter(is_unused).map(|dependency| dependency.name.clone()).collect();
    names.sort();
    Ok(names)
}

/// Entries of `[workspace.dependencies]` that no package takes.
fn unnamed(repo: &Repo, packages: &[Package]) -> Result<Vec<String>> {
    let taken: BTreeSet<&str> = packages
        .iter()
        .flat_map(|package| &package.dependencies)
        .map(|dependency| dependency.name.as_str())
        .collect();
    let manifest = repo.read("Cargo.toml")?;
    let table = manifest.split("[workspace.dependencies]").nth(1).unwrap_or_default();
    let entries = table
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "));
    let unknown =
        entries.map(|(name, _)| name.trim()).filter(|name| !name.starts_with('#') && !taken.contains(name));
    Ok(unknown.map(|name| format!("Cargo.toml: {name}")).collect())
}
