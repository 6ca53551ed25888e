//! The hash of everything the object is built from.

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::repo::Repo;

const DIRECTORIES: &[&str] = &["crates/ebpf/abi/src", "crates/ebpf/programs/src"];
const FILES: &[&str] = &[
    "crates/ebpf/abi/Cargo.toml",
    "crates/ebpf/programs/.cargo/config.toml",
    "crates/ebpf/programs/Cargo.lock",
    "crates/ebpf/programs/Cargo.toml",
];

/// SHA-256 in hexadecimal over path, NUL, contents, NUL of each source file, sorted by path relative to the repository.
pub(super) fn hash(repo: &Repo) -> Result<String> {
    let mut paths: Vec<String> = FILES.iter().map(|path| (*path).to_owned()).collect();
    for directory in DIRECTORIES {
        paths.extend(repo.files(directory, ".rs")?);
    }
    paths.sort();
    let mut hasher = Sha256::new();
    for path in paths {
        let contents = std::fs::read(repo.path(&path)).with_context(|| format!("cannot read {path}"))?;
        hasher.update(path.as_bytes());
        hasher.update([0]);
        hasher.update(&contents);
        hasher.update([0]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn any_change_of_a_source_changes_the_hash() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::at(dir.path().to_owned());
        for path in
            FILES.iter().copied().chain(["crates/ebpf/abi/src/lib.rs", "crates/ebpf/programs/src/main.rs"])
        {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let before = hash(&repo).unwrap();
        assert_eq!(before, hash(&repo).unwrap());
        std::fs::write(dir.path().join("crates/ebpf/abi/src/lib.rs"), "y").unwrap();
        let changed = hash(&repo).unwrap();
        assert_ne!(before, changed);
        std::fs::write(dir.path().join("crates/ebpf/abi/src/new.rs"), "").unwrap();
        assert_ne!(changed, hash(&repo).unwrap());
    }
}
