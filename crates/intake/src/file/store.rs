//! A directory that stands for the API server: one object per file.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::object::{Object, ObjectId};

/// Writes `object` to its own file in `dir` (`pod.shop.web-0.json`), in the place of an older one, and returns the
/// file's path. The file appears whole: it is written beside and renamed.
///
/// # Errors
/// What the file system says.
pub fn write_object(dir: &Path, object: &Object) -> io::Result<PathBuf> {
    let name = object.id().file_name();
    let (path, beside) = (dir.join(&name), dir.join(format!(".{name}.new")));
    let text = object.to_json().map_err(io::Error::other)?;
    let mut file = fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    fs::rename(&beside, &path)?;
    Ok(path)
}

/// Removes the file of `id` from `dir`; `false` when there was none.
///
/// # Errors
/// What the file system says, other than that there is no such file.
pub fn remove_object(dir: &Path, id: &ObjectId) -> io::Result<bool> {
    match fs::remove_file(dir.join(id.file_name())) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
