//! Each Rust file is declared as a module, and long files are named.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use super::Outcome;
use crate::progress::Step;
use crate::repo::Repo;
use crate::rooms::{self, Package, code_of, names_in};

/// Longer files need a word in the review.
const LONG: usize = 800;

/// The gate.
pub(super) fn check(repo: &Repo, _step: &mut Step) -> Result<Outcome> {
    let packages = rooms::packages(repo)?;
    let (mut orphans, mut long, mut count) = (Vec::new(), Vec::new(), 0);
    for package in &packages {
        let files = package.files(repo, &packages)?;
        count += files.len();
        for file in &files {
            let lines = repo.read(file)?.lines().count();
            if lines > LONG {
                long.push(format!("{file} has {lines} lines"));
            }
        }
        orphans.extend(undeclared(repo, package, &files)?);
    }
    if !orphans.is_empty() {
        bail!("no module declares these files, so nothing compiles them:\n{}", orphans.join("\n"));
    }
    let note = if long.is_empty() {
        String::new()
    } else {
        format!("; longer than {LONG} lines: {}", long.join(", "))
    };
    Ok(Outcome::Passed(format!("{count} files{note}")))
}

fn undeclared(repo: &Repo, package: &Package, files: &[String]) -> Result<Vec<String>> {
    let mut declared = BTreeSet::new();
    let mut by_path = BTreeSet::new();
    for file in files {
        let text = repo.read(file)?;
        for line in code_of(&text) {
            declared.extend(modules(&line).map(|module| (directory_of(file, package), module.to_owned())));
        }
        by_path.extend(
            text.lines().filter_map(|line| {
                Some(line.trim().strip_prefix("#[path = \"")?.split('"').next()?.to_owned())
            }),
        );
    }
    let orphan = |file: &&String| {
        let (directory, module) = place_of(file);
        !package.roots.contains(file)
            && !declared.contains(&(directory, module))
            && !by_path.iter().any(|path| file.ends_with(path.trim_start_matches("../")))
    };
    Ok(files.iter().filter(orphan).cloned().collect())
}

/// The names in `mod name;`.
fn modules(line: &str) -> impl Iterator<Item = &str> {
    let names = names_in(line);
    let found: Vec<&str> = names.windows(2).filter(|pair| pair[0].0 == "mod").map(|pair| pair[1].0).collect();
    let is_file = !line.contains('{');
    found.into_iter().filter(move |_| is_file)
}

/// The directory in which a file's modules lie.
fn directory_of(file: &str, package: &Package) -> String {
    let (directory, stem) = split(file);
    if stem == "mod" || package.roots.iter().any(|root| root == file) {
        directory
    } else {
        format!("{directory}/{stem}")
    }
}

/// The directory from which a file is declared, and its module name.
fn place_of(file: &str) -> (String, String) {
    let (directory, stem) = split(file);
    if stem == "mod" { split(&directory) } else { (directory, stem) }
}

fn split(path: &str) -> (String, String) {
    let path = path.trim_end_matches(".rs");
    let (directory, stem) = path.rsplit_once('/').unwrap_or(("", path));
    (directory.to_owned(), stem.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn a_file_nobody_declares_is_an_orphan() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "c/src/lib.rs",
            "pub mod a;\n// mod lost;\nmod inline { }\n#[path = \"odd/name.rs\"]\nmod odd;",
        );
        write("c/src/a/mod.rs", "mod b;");
        write("c/src/a/b.rs", "mod c;");
        write("c/src/a/b/c.rs", "");
        write("c/src/odd/name.rs", "");
        write("c/src/lost.rs", "");
        write("c/src/a/lost.rs", "");
        write("c/tests/whole.rs", "mod help;");
        write("c/tests/help/mod.rs", "");
        let roots = vec!["c/src/lib.rs".to_owned(), "c/tests/whole.rs".to_owned()];
        let package = Package { name: "c".into(), directory: "c".into(), roots, dependencies: Vec::new() };
        let repo = Repo::at(dir.path().to_owned());
        let files = repo.files("c", ".rs").unwrap();
        assert_eq!(undeclared(&repo, &package, &files).unwrap(), ["c/src/a/lost.rs", "c/src/lost.rs"]);
    }
}
