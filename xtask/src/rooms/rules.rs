//! The rules themselves, as one table a reader can check against ARCHITECTURE.md.

use std::collections::BTreeMap;

use super::Violation;
use super::metadata::{Kind, Package};
use super::scan::names_in;

/// What a room's own code may import of ours. Test-only imports have a rule of their own.
const ARROWS: &[(&str, &[&str])] = &[
    ("sheetbend-ebpf-abi", &[]),
    ("sheetbend-ebpf-programs", &["sheetbend-ebpf-abi"]),
    ("sheetbend-model", &[]),
    ("sheetbend-shell", &["sheetbend-model"]),
    ("sheetbend-intake", &["sheetbend-model", "sheetbend-shell", "sheetbend-cni-wire"]),
    ("sheetbend-cni-wire", &[]),
    ("sheetbend-compile", &["sheetbend-model", "sheetbend-shell"]),
    ("sheetbend-apply", &["sheetbend-model", "sheetbend-shell", "sheetbend-ebpf-abi"]),
    ("sheetbend-observe", &["sheetbend-model", "sheetbend-shell", "sheetbend-ebpf-abi"]),
    ("sheetbend-dns", &["sheetbend-model", "sheetbend-shell"]),
    ("sheetbend-oracle", &["sheetbend-model"]),
    ("sheetbend-testkit", &["sheetbend-model", "sheetbend-shell", "sheetbend-ebpf-abi"]),
    ("sheetbend-cni", &["sheetbend-cni-wire"]),
    (
        "sheetbend",
        &[
            "sheetbend-model",
            "sheetbend-intake",
            "sheetbend-compile",
            "sheetbend-apply",
            "sheetbend-dns",
            "sheetbend-observe",
            "sheetbend-shell",
            "sheetbend-ebpf-abi",
            "sheetbend-oracle",
        ],
    ),
    ("xtask", &["sheetbend-ebpf-abi"]),
];

/// The live checker: the only code outside tests that may ask the oracle.
const ORACLE_USERS: &[&str] = &["bin/sheetbend/src/lab/"];

/// Where `unsafe` may stand: the kernel border.
const UNSAFE_BORDER: &[&str] =
    &["crates/apply/src/bpf/", "crates/apply/src/netlink/", "crates/apply/src/memory.rs", "crates/ebpf/"];

/// What a pure room must not name, and why.
const PURE: &[(&str, &str)] = &[
    ("crates/compile/", "compile is pure: it reads no clock, environment, socket or file"),
    ("crates/model/", "model has no async and no I/O"),
];
const IMPURE_PATHS: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::env",
    "std::process",
    "std::thread",
    "std::os",
    "Instant::now",
    "SystemTime",
    "tokio::",
    "async fn",
];

/// Arrows of a manifest that the table does not have.
pub(super) fn manifest(package: &Package) -> Vec<Violation> {
    let place = format!("{}/Cargo.toml", package.directory);
    let wrong = |text: String| Violation { place: place.clone(), text };
    if package.directory.starts_with("tests/") || package.directory == "benches" {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.name) else {
        return vec![wrong(format!(
            "{} is no room that the table of arrows (xtask/src/rooms/rules.rs) knows",
            package.name
        ))];
    };
    let ours = package.dependencies.iter().filter(|dependency| dependency.ours);
    let test_only = ["sheetbend-testkit", "sheetbend-oracle"];
    ours.filter(|dependency| !allowed.contains(&dependency.name.as_str()))
        // Tests may use more, but the five rooms stay apart in tests too.
        .filter(|dependency| !(dependency.kind == Kind::Dev && test_only.contains(&dependency.name.as_str())))
        .filter(|dependency| !(dependency.kind == Kind::Dev && package.name == "sheetbend-testkit"))
        .map(|dependency| {
            wrong(format!("{} → {}: {}", package.name, dependency.name, rule(&dependency.name, allowed)))
        })
        .collect()
}

fn rule(target: &str, allowed: &[&str]) -> String {
    match target {
        "sheetbend-testkit" => "only tests use testkit; name it under [dev-dependencies]".to_owned(),
        "sheetbend-oracle" => "only tests and the lab's live checker use oracle".to_owned(),
        _ if allowed.is_empty() => "this room imports none of ours".to_owned(),
        _ => format!("this room may import {}", allowed.join(", ")),
    }
}

/// What a file's code must not do. `known` maps code names (`sheetbend_model`) to packages.
pub(super) fn source(
    package: &Package,
    file: &str,
    code: &[String],
    known: &BTreeMap<String, &Package>,
) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut wrong =
        |line: usize, text: String| found.push(Violation { place: format!("{file}:{}", line + 1), text });
    let testing = is_test_file(package, file);
    for (number, line) in code.iter().enumerate() {
        for (name, _) in names_in(line).into_iter().filter(|(_, path)| *path) {
            let Some(target) = known.get(name).filter(|target| target.name != package.name) else { continue };
            if !testing && target.name == "sheetbend-oracle" && !oracle_may_be_used(package, file) {
                wrong(
                    number,
                    format!(
                        "{} → {}: only tests and the lab's live checker use oracle",
                        package.name, target.name
                    ),
                );
            }
            if !package.dependencies.iter().any(|dependency| dependency.name == target.name) {
                wrong(number, format!("{} → {}: not named in its manifest", package.name, target.name));
            }
        }
        if names_in(line).iter().any(|(name, _)| *name == "unsafe_code")
            && line.contains("allow")
            && !testing
            && !UNSAFE_BORDER.iter().any(|border| file.starts_with(border))
        {
            wrong(
                number,
                "unsafe code is allowed only at the kernel border (apply/{bpf, netlink, memory}, ebpf)"
                    .to_owned(),
            );
        }
    }
    if let Some((_, why)) = PURE.iter().find(|(directory, _)| file.starts_with(directory) && !testing) {
        let tests_from = code.iter().position(|line| line.contains("cfg(test)")).unwrap_or(code.len());
        for (number, line) in code[..tests_from].iter().enumerate() {
            if let Some(path) = IMPURE_PATHS.iter().find(|path| line.contains(**path)) {
                wrong(number, format!("`{path}`: {why}"));
            }
        }
    }
    found
}

fn oracle_may_be_used(package: &Package, file: &str) -> bool {
    if package.name == "sheetbend" {
        return ORACLE_USERS.iter().any(|user| file.starts_with(user));
    }
    // Elsewhere only the tests see it: cargo knows no dev-dependency outside them.
    package
        .dependencies
        .iter()
        .any(|dependency| dependency.name == "sheetbend-oracle" && dependency.kind == Kind::Dev)
}

fn is_test_file(package: &Package, file: &str) -> bool {
    let inside = file.strip_prefix(&format!("{}/", package.directory)).unwrap_or(file);
    package.directory.starts_with("tests/")
        || ["tests/", "examples/", "benches/"].iter().any(|directory| inside.starts_with(directory))
        || inside.ends_with("tests.rs")
        || inside.contains("/tests/")
}
