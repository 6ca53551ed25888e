//! Where things are: the repository, its target directory, the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The repository this xtask was built from.
pub(crate) struct Repo {
    root: PathBuf,
}

impl Repo {
    /// Looks the repository up from where cargo says xtask's manifest is.
    pub(crate) fn find() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask's manifest has no parent directory")?.to_owned();
        if !root.join("crates/model").is_dir() {
            bail!("{} is not Sheetbend's repository; run `cargo xtask` inside a clone", root.display());
        }
        Ok(Self { root })
    }

    /// The same commands on another tree (a mutant's scratch copy).
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The repository's directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the repository.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Cargo's target directory.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.root.join("target"), |dir| self.root.join(dir))
    }

    /// Where the commands keep logs and scratch files: `target/xtask/<name>`.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let dir = self.target().join("xtask").join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// A cargo command in the repository.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }

    /// Every file below `relative` whose name ends with `suffix`, as sorted paths relative to the repository.
    /// Build directories and hidden ones are left out.
    pub(crate) fn files(&self, relative: &str, suffix: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let start = if relative.is_empty() { self.root.clone() } else { self.root.join(relative) };
        if start.is_dir() {
            self.walk(&start, suffix, &mut found)?;
        }
        found.sort();
        Ok(found)
    }

    fn walk(&self, dir: &Path, suffix: &str, found: &mut Vec<String>) -> Result<()> {
        for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    self.walk(&entry.path(), suffix, found)?;
                }
            } else if kind.is_file() && name.ends_with(suffix) {
                found.push(entry.path().strip_prefix(&self.root)?.to_string_lossy().into_owned());
            }
        }
        Ok(())
    }

    /// The text of a file, by its path relative to the repository.
    pub(crate) fn read(&self, relative: &str) -> Result<String> {
        std::fs::read_to_string(self.root.join(relative)).with_context(|| format!("cannot read {relative}"))
    }
}

/// `$SHEETBEND_CACHE`, or `sheetbend` in the user's cache directory: tools that setup builds.
pub(crate) fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("SHEETBEND_CACHE") {
        return dir.into();
    }
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        return Path::new(&dir).join("sheetbend");
    }
    home().join(".cache/sheetbend")
}

/// Cargo's home: registry sources and installed tools.
pub(crate) fn cargo_home() -> PathBuf {
    std::env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from)
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from)
}
