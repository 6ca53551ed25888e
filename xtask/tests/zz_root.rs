//! Ends a plain `cargo test` with the number of tests that need root, and the command that runs them.
//!
//! Cargo runs test targets by package and target name, so this one is last.

use std::process::{Command, ExitCode};

/// Packages whose targets list their tests with `--list`.
const ROOT_PACKAGES: &[&str] = &["sheetbend-kernel-tests", "sheetbend-interop-tests"];

fn main() -> ExitCode {
    let lists = std::env::args().any(|argument| argument == "--list");
    if lists || std::env::var_os("SHEETBEND_XTASK").is_some() {
        return ExitCode::SUCCESS;
    }
    let count: usize =
        ROOT_PACKAGES.iter().flat_map(|package| executables(package)).map(|path| tests_of(&path)).sum();
    println!("{count} tests need root: cargo xtask test kernel");
    ExitCode::SUCCESS
}

/// The test programs of a package; cargo has built them already, so this only asks where they are.
fn executables(package: &str) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["test", "--quiet", "--no-run", "--offline", "--message-format=json", "--package", package])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output();
    let Ok(output) = output else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.filter_map(|message| message["executable"].as_str().map(str::to_owned)).collect()
}

fn tests_of(path: &str) -> usize {
    let Ok(output) = Command::new(path).arg("--list").output() else { return 0 };
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.ends_with(": test")).count()
}
