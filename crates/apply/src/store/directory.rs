//! A directory of small JSON files that appear and vanish in one step.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::StoreError;
use super::fail_point;

/// Prefix of files that are being written. No address and no container id begins with a dot.
const UNFINISHED: &str = ".new-";

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory if it is not there, and removes what a crash left half-written in it.
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
        fs::create_dir_all(&path).map_err(|source| StoreError::io("create", &path, source))?;
        let directory = Self { path };
        for name in directory.all_names()? {
            if name.starts_with(UNFINISHED) {
                directory.remove(&name)?;
            }
        }
        Ok(directory)
    }

    /// A directory that another process has opened. Files may come and go meanwhile.
    pub(super) fn existing(path: PathBuf) -> Self {
        Self { path }
    }

    fn all_names(&self) -> Result<Vec<String>, StoreError> {
        let error = |source| StoreError::io("read", &self.path, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(error)? {
            names.push(entry.map_err(error)?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Every file: name and content.
    pub(super) fn read_all<T: DeserializeOwned>(&self) -> Result<Vec<(String, T)>, StoreError> {
        let mut all = Vec::new();
        for name in self.all_names()?.into_iter().filter(|name| !name.starts_with(UNFINISHED)) {
            let path = self.path.join(&name);
            let text = match fs::read(&path) {
                Ok(text) => text,
                // It went while the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(StoreError::io("read", &path, source)),
            };
            let content =
                serde_json::from_slice(&text).map_err(|source| StoreError::Content { path, source })?;
            all.push((name, content));
        }
        Ok(all)
    }

    /// Writes a file that must not be there yet.
    pub(super) fn create<T: Serialize>(&self, name: &str, content: &T) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let unfinished = self.write_unfinished(name, content)?;
        fail_point("file-written");
        let linked = fs::hard_link(&unfinished, &path);
        fail_point("file-linked");
        fs::remove_file(&unfinished).map_err(|source| StoreError::io("remove", &unfinished, source))?;
        linked.map_err(|source| StoreError::io("create", &path, source))
    }

    /// Writes a file, instead of an older one if there is one.
    pub(super) fn replace<T: Serialize>(&self, name: &str, content: &T) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let unfinished = self.write_unfinished(name, content)?;
        fs::rename(&unfinished, &path).map_err(|source| StoreError::io("create", &path, source))
    }

    fn write_unfinished<T: Serialize>(&self, name: &str, content: &T) -> Result<PathBuf, StoreError> {
        let path = self.path.join(format!("{UNFINISHED}{name}"));
        let mut text = serde_json::to_vec(content)
            .map_err(|source| StoreError::Content { path: path.clone(), source })?;
        text.push(b'\n');
        fs::write(&path, text).map_err(|source| StoreError::io("write", &path, source))?;
        Ok(path)
    }

    /// Removes a file; it need not be there.
    pub(super) fn remove(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", &path, source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
