//! The last good Snapshot on disk: the intake of a process that starts while the API server is away.
//!
//! A header, an object a line, and the digest of all of it. Written beside its place and renamed, so that a crash
//! leaves the old one.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sheetbend_model::state::Snapshot;
use tokio::sync::watch;
use tracing::warn;

use crate::convert::Part;
use crate::kube::Reading;

/// Raised whenever the model's serialised form changes.
const FORMAT: u32 = 8;
/// Between two writings.
const PERIOD: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Header {
    sheetbend_snapshot: u32,
    /// [`Snapshot::audit`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    audit: bool,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// It cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another version of Sheetbend wrote it.
    #[error("{path} has another format than {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error("{path}:{line} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// How it shows.
        reason: String,
    },
}

/// Reads the file; `None` when there is none.
///
/// # Errors
/// It is damaged or of another version. Nothing is returned in part.
pub fn read(path: &Path) -> Result<Option<Snapshot>, LastGoodError> {
    match File::open(path) {
        Ok(file) => parse(BufReader::new(file), path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LastGoodError::Unreadable { path: path.to_owned(), source }),
    }
}

/// Reads what [`text`] wrote.
///
/// # Errors
/// As [`read`].
pub fn read_text(text: &str) -> Result<Snapshot, LastGoodError> {
    parse(text.as_bytes(), Path::new("the Snapshot"))
}

/// Reads what was written; `path` is what errors name.
///
/// # Errors
/// As [`read`].
pub fn parse(file: impl BufRead, path: &Path) -> Result<Snapshot, LastGoodError> {
    let unreadable = |source| LastGoodError::Unreadable { path: path.to_owned(), source };
    let damaged =
        |line: usize, reason: String| LastGoodError::Damaged { path: path.to_owned(), line, reason };
    let mut digest = Sha256::new();
    let mut snapshot = Snapshot::default();
    for (index, line) in file.lines().enumerate() {
        let (number, line) = (index + 1, line.map_err(unreadable)?);
        if let Some(written) = line.strip_prefix("sha256 ") {
            let found = hex(digest);
            return if written == found {
                Ok(snapshot)
            } else {
                Err(damaged(number, "the digest differs".to_owned()))
            };
        }
        if index == 0 {
            let header = serde_json::from_str::<Header>(&line).ok();
            let Some(header) = header.filter(|header| header.sheetbend_snapshot == FORMAT) else {
                return Err(LastGoodError::Format { path: path.to_owned() });
            };
            snapshot.audit = header.audit;
        } else {
            let part: Part =
                serde_json::from_str(&line).map_err(|error| damaged(number, error.to_string()))?;
            part.insert(&mut snapshot);
        }
        digest.update(line.as_bytes());
        digest.update(b"\n");
    }
    Err(damaged(0, "it ends early".to_owned()))
}

/// Writes the objects of `snapshot` (its attachments have files of their own).
///
/// # Errors
/// What the file system says; the old file is still there.
pub fn write(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let fresh = path.with_extension("new");
    let mut file = BufWriter::new(File::create(&fresh)?);
    write_to(&mut file, snapshot)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&fresh, path)
}

/// What the file of `snapshot` holds.
///
/// # Errors
/// An object that has no text; there is none.
pub fn text(snapshot: &Snapshot) -> io::Result<String> {
    let mut text = Vec::new();
    write_to(&mut text, snapshot)?;
    String::from_utf8(text).map_err(io::Error::other)
}

fn write_to(file: &mut impl Write, snapshot: &Snapshot) -> io::Result<()> {
    let mut digest = Sha256::new();
    let mut line = serde_json::to_vec(&Header { sheetbend_snapshot: FORMAT, audit: snapshot.audit })?;
    for part in std::iter::once(None).chain(Part::all(snapshot).map(Some)) {
        if let Some(part) = part {
            line.clear();
            serde_json::to_writer(&mut line, &part)?;
        }
        line.push(b'\n');
        digest.update(&line);
        file.write_all(&line)?;
    }
    writeln!(file, "sha256 {}", hex(digest))
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes what `readings` has, at most every 10 s, until nobody sends any more or `ended` returns; then once more.
/// Only fresh readings are written.
pub async fn keep(
    path: PathBuf,
    mut readings: watch::Receiver<Option<Reading>>,
    ended: impl Future<Output = ()>,
) {
    let mut ended = std::pin::pin!(ended);
    readings.mark_changed();
    let mut more = true;
    while more {
        more = tokio::select! {
            changed = readings.changed() => changed.is_ok(),
            () = &mut ended => false,
        };
        keep_newest(&path, &mut readings).await;
        more = more
            && tokio::select! {
                () = tokio::time::sleep(PERIOD) => true,
                () = &mut ended => false,
            };
    }
    if readings.has_changed().unwrap_or(false) {
        keep_newest(&path, &mut readings).await;
    }
}

async fn keep_newest(path: &Path, readings: &mut watch::Receiver<Option<Reading>>) {
    let newest = readings.borrow_and_update().clone();
    let Some(reading) = newest.filter(|reading| reading.fresh) else { return };
    let owned = path.to_owned();
    let written = tokio::task::spawn_blocking(move || write(&owned, &reading.snapshot)).await;
    if let Ok(Err(error)) = written {
        warn!("cannot keep the last good Snapshot in {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests;
