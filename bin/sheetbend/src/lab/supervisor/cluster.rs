//! What the API server serves: a directory per generation, and a link to the newest.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// How many older generations stay for agents that are still reading.
const KEPT: usize = 8;

/// Writes generations. File name → content.
#[derive(Debug)]
pub(super) struct Publisher {
    link: PathBuf,
    root: PathBuf,
    last: BTreeMap<String, String>,
    generation: u64,
    kept: VecDeque<PathBuf>,
}

impl Publisher {
    /// Publishes below `root`; `link` always points at the newest generation.
    pub(super) fn new(link: PathBuf, root: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&root)?;
        Ok(Self { link, root, last: BTreeMap::new(), generation: 0, kept: VecDeque::new() })
    }

    /// Makes `files` the newest generation, whole or not at all; nothing happens when nothing changed.
    /// Returns the generation's name.
    pub(super) fn publish(&mut self, files: BTreeMap<String, String>) -> anyhow::Result<String> {
        if self.generation > 0 && files == self.last {
            return Ok(name(self.generation));
        }
        let next = self.generation + 1;
        let dir = self.root.join(name(next));
        self.write(&dir, &files).with_context(|| format!("cannot write {}", dir.display()))?;
        let draft = self.root.join(".link");
        let _ = fs::remove_file(&draft);
        symlink(&dir, &draft)?;
        fs::rename(&draft, &self.link).context("cannot swap the generation in")?;
        self.generation = next;
        self.last = files;
        self.kept.push_back(dir);
        while self.kept.len() > KEPT {
            if let Some(old) = self.kept.pop_front() {
                fs::remove_dir_all(old)?;
            }
        }
        Ok(name(next))
    }

    fn write(&self, dir: &Path, files: &BTreeMap<String, String>) -> anyhow::Result<()> {
        fs::create_dir(dir)?;
        let before = self.kept.back();
        for (file, text) in files {
            let path = dir.join(file);
            match before {
                Some(before) if self.last.get(file) == Some(text) => fs::hard_link(before.join(file), &path)?,
                _ => fs::File::create_new(&path)?.write_all(text.as_bytes())?,
            }
        }
        Ok(())
    }
}

fn name(generation: u64) -> String {
    format!("{generation:06}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_generation_is_whole_and_shares_what_did_not_change() {
        let root = std::env::temp_dir().join(format!("sheetbend-publisher-{}", std::process::id()));
        let link = root.join("cluster");
        let mut publisher = Publisher::new(link.clone(), root.join("cluster.d")).unwrap();
        assert_eq!(publisher.publish(files(&[("a", "1"), ("b", "1")])).unwrap(), "000001");
        let before = fs::metadata(link.join("a")).unwrap().ino();
        assert_eq!(publisher.publish(files(&[("a", "1"), ("b", "2"), ("c", "1")])).unwrap(), "000002");
        assert_eq!(fs::metadata(link.join("a")).unwrap().ino(), before);
        assert_eq!(fs::read_to_string(link.join("b")).unwrap(), "2");
        assert_eq!(publisher.publish(files(&[("a", "1"), ("b", "2"), ("c", "1")])).unwrap(), "000002");
        for generation in 0..20 {
            publisher.publish(files(&[("a", &generation.to_string())])).unwrap();
        }
        assert_eq!(fs::read_dir(&link).unwrap().count(), 1);
        assert_eq!(fs::read_dir(root.join("cluster.d")).unwrap().count(), KEPT);
        fs::remove_dir_all(root).unwrap();
    }
}
