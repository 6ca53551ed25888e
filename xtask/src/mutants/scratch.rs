//! The scratch copy of the sources that mutants are built in.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::ebpf::{self, Compiler};
use crate::process;
use crate::progress::Step;
use crate::repo::Repo;

/// One directory for all mutants, so that what they share is compiled once.
pub(super) struct Scratch {
    tree: Repo,
    original: PathBuf,
    objects: PathBuf,
}

/// What the kernel programs are built from; the manifest at the root is inherited from.
const COPIED: &[&str] = &["crates/ebpf/abi", "crates/ebpf/programs"];

impl Scratch {
    /// An empty copy below the target directory.
    pub(super) fn new(repo: &Repo) -> Result<Self> {
        let base = repo.scratch("mutants")?;
        let tree = base.join("tree");
        Ok(Self { tree: Repo::at(tree), original: repo.root().to_owned(), objects: base })
    }

    /// The object of the sources with `patch` applied.
    pub(super) fn build(
        &self,
        compiler: &Compiler,
        name: &str,
        patch: Option<&Path>,
        step: &mut Step,
    ) -> Result<PathBuf> {
        self.restore()?;
        if let Some(patch) = patch {
            self.apply(patch)?;
        }
        let built = ebpf::build_into(&self.tree, &self.objects.join("target"), compiler, step)?;
        let object = self.objects.join(format!("{name}.o"));
        std::fs::copy(&built, &object).with_context(|| format!("cannot copy {}", built.display()))?;
        Ok(object)
    }

    /// Applies `patch` to a fresh copy.
    pub(super) fn apply_only(&self, patch: &Path) -> Result<()> {
        self.restore()?;
        self.apply(patch)
    }

    /// The copy as the sources are now.
    fn restore(&self) -> Result<()> {
        let root = self.tree.root();
        if root.exists() {
            std::fs::remove_dir_all(root).with_context(|| format!("cannot empty {}", root.display()))?;
        }
        for directory in COPIED {
            copy(&self.original.join(directory), &root.join(directory))?;
        }
        // Only what the ABI's manifest inherits, without members that are not here.
        let manifest = std::fs::read_to_string(self.original.join("Cargo.toml"))?;
        std::fs::write(root.join("Cargo.toml"), without_members(&manifest))?;
        Ok(())
    }

    fn apply(&self, patch: &Path) -> Result<()> {
        let mut command = Command::new("git");
        command.args(["apply", "--whitespace=nowarn"]).arg(patch).current_dir(self.tree.root());
        // The copy lies inside the repository and is ignored by it: git must see a plain directory.
        command.env("GIT_CEILING_DIRECTORIES", &self.objects);
        let done = process::capture(&mut command, &mut |_| {})?;
        if !done.ok() {
            bail!("{} does not apply any more; write it anew:\n{}", patch.display(), done.tail(10));
        }
        Ok(())
    }
}

/// A workspace manifest that has the ABI as its only member.
fn without_members(manifest: &str) -> String {
    let (head, rest) = manifest.split_once("members = [").unwrap_or((manifest, ""));
    let tail = rest.split_once(']').map_or("", |(_, tail)| tail);
    format!("{head}members = [\"crates/ebpf/abi\"]{tail}")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                copy(&entry.path(), &target)?;
            }
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_has_one_member() {
        let manifest = "[workspace]\nmembers = [\n  \"a\", \"b\",\n]\nexclude = [\"c\"]\n";
        assert_eq!(
            without_members(manifest),
            "[workspace]\nmembers = [\"crates/ebpf/abi\"]\nexclude = [\"c\"]\n"
        );
    }
}
