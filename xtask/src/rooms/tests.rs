//! The rules on a fake tree: each wrong arrow is named with its place.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use super::metadata::parse;
use super::{code_of, violations};
use crate::repo::Repo;

/// A repository of the given packages (name, directory, dependencies as `name` or `name:dev`) and files.
fn tree(packages: &[(&str, &str, &[&str])], files: &[(&str, &str)]) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let root = dir.path().display().to_string();
    let json = metadata(packages, dir.path());
    let packages = parse(json.as_bytes(), &root).unwrap();
    let found = violations(&Repo::at(dir.path().to_owned()), &packages).unwrap();
    found.into_iter().map(|one| (one.place, one.text)).collect()
}

fn metadata(packages: &[(&str, &str, &[&str])], root: &Path) -> String {
    let package = |(name, directory, dependencies): &(&str, &str, &[&str])| {
        let dependencies: Vec<_> = dependencies
            .iter()
            .map(|entry| {
                let (name, kind) =
                    entry.split_once(':').map_or((*entry, None), |(name, kind)| (name, Some(kind)));
                serde_json::json!({"name": name, "rename": null, "kind": kind, "path": "/somewhere"})
            })
            .collect();
        let manifest = root.join(directory).join("Cargo.toml");
        serde_json::json!({"name": name, "manifest_path": manifest, "dependencies": dependencies})
    };
    let packages: Vec<_> = packages.iter().map(package).collect();
    serde_json::json!({"packages": packages, "workspace_root": root}).to_string()
}

#[test]
fn a_right_tree_has_nothing_to_say() {
    let found = tree(
        &[
            ("sheetbend-model", "crates/model", &[]),
            (
                "sheetbend-compile",
                "crates/compile",
                &["sheetbend-model", "sheetbend-oracle:dev", "sheetbend-testkit:dev"],
            ),
            ("sheetbend-oracle", "crates/compile/oracle", &["sheetbend-model"]),
            ("sheetbend-testkit", "crates/testkit", &["sheetbend-model"]),
            ("sheetbend", "bin/sheetbend", &["sheetbend-model", "sheetbend-compile", "sheetbend-oracle"]),
        ],
        &[
            (
                "crates/compile/src/lib.rs",
                "use sheetbend_model::Snapshot;\n#[cfg(test)]\nmod tests { use sheetbend_oracle::x; }",
            ),
            ("bin/sheetbend/src/lab/matrix.rs", "use sheetbend_oracle::verdict;"),
            ("bin/sheetbend/src/main.rs", "fn main() {}"),
        ],
    );
    assert_eq!(found, []);
}

#[test]
fn the_five_rooms_never_import_one_another() {
    let found = tree(
        &[
            ("sheetbend-compile", "crates/compile", &["sheetbend-apply"]),
            ("sheetbend-apply", "crates/apply", &["sheetbend-intake:dev"]),
            ("sheetbend-model", "crates/model", &["sheetbend-shell"]),
        ],
        &[],
    );
    let places: Vec<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(places, ["crates/apply/Cargo.toml", "crates/compile/Cargo.toml", "crates/model/Cargo.toml"]);
    assert!(
        found[1].1.starts_with("sheetbend-compile → sheetbend-apply: this room may import sheetbend-model")
    );
}

#[test]
fn only_tests_use_testkit_and_only_the_lab_asks_the_oracle() {
    let found = tree(
        &[
            ("sheetbend-oracle", "crates/compile/oracle", &[]),
            ("sheetbend-intake", "crates/intake", &["sheetbend-testkit", "sheetbend-oracle"]),
            ("sheetbend-testkit", "crates/testkit", &[]),
            ("sheetbend", "bin/sheetbend", &["sheetbend-oracle"]),
        ],
        &[(
            "bin/sheetbend/src/agent/mod.rs",
            "// sheetbend_oracle::in_a_comment\nfn f() { sheetbend_oracle::verdict() }",
        )],
    );
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0].0, "bin/sheetbend/src/agent/mod.rs:2");
    assert!(
        found
            .iter()
            .any(|(place, text)| place == "crates/intake/Cargo.toml"
                && text.contains("only tests use testkit"))
    );
}

#[test]
fn an_unknown_package_must_be_given_a_place() {
    let found = tree(&[("sheetbend-utils", "crates/utils", &[])], &[]);
    assert!(found[0].1.contains("no room"), "{found:?}");
}

#[test]
fn unsafe_stays_at_the_border_and_pure_rooms_stay_pure() {
    let found = tree(
        &[("sheetbend-apply", "crates/apply", &[]), ("sheetbend-compile", "crates/compile", &[])],
        &[
            ("crates/apply/src/bpf/sys.rs", "#![allow(unsafe_code, reason = \"kernel border\")]"),
            ("crates/apply/src/store/mod.rs", "#![allow(unsafe_code, reason = \"no\")]"),
            (
                "crates/compile/src/a.rs",
                "// std::fs in words\nlet text = \"std::fs\";\nlet t = std::fs::read(x);",
            ),
            ("crates/compile/src/b.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }"),
        ],
    );
    let places: Vec<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(places, ["crates/apply/src/store/mod.rs:1", "crates/compile/src/a.rs:3"], "{found:?}");
}

#[test]
fn code_keeps_its_lines_and_loses_comments_and_literals() {
    let text = "a /* b\n /* c */ */ d\n\"e\nf\\\"\" 'g' '\\'' 'h: r#\"i\"j\"# k // l\nm";
    let code = code_of(text);
    assert_eq!(code.len(), 5);
    let words: Vec<&str> = code.iter().flat_map(|line| super::names_in(line)).map(|(word, _)| word).collect();
    assert_eq!(words, ["a", "d", "h", "k", "m"]);
}
