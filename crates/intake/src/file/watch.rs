//! A directory that stands for the API server, watched: every change becomes a new Snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sheetbend_model::state::Snapshot;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::directory::Directory;
use super::error::ManifestError;

/// How often the directory is read although nothing was heard of it.
const REREAD: Duration = Duration::from_secs(30);
/// How often a directory that is swapped while we read it is tried anew.
const ATTEMPTS: usize = 5;

/// One reading of a directory, without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What the files say. Attachments are empty.
    pub snapshot: Arc<Snapshot>,
    /// The directory that was read, symlinks resolved.
    pub directory: PathBuf,
}

/// The newest state of a watched directory.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The last reading without errors; `None` until there was one.
    pub readings: watch::Receiver<Option<Reading>>,
    /// What is wrong with the directory now; while there is something, `readings` stays as it was.
    pub errors: watch::Receiver<Arc<[ManifestError]>>,
}

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No inotify, or no directory around it.
    #[error(
        "cannot watch {dir}: {source}; create its parent directory, or raise fs.inotify.max_user_instances"
    )]
    Notify {
        /// The directory.
        dir: PathBuf,
        /// What inotify says.
        #[source]
        source: notify::Error,
    },
    /// No thread.
    #[error("cannot start a thread to watch {dir}: {source}; raise the process limit")]
    Thread {
        /// The directory.
        dir: PathBuf,
        /// What the kernel says.
        #[source]
        source: std::io::Error,
    },
}

/// Watches `dir`: ordinary Kubernetes YAML or JSON, `status` included, in any number of files (no subdirectories).
/// It may be a symlink that is swapped by rename, so that many files change at once; a file whose inode, size and
/// mtime stay the same is not read again. It need not exist yet, its parent must. A thread does the work until all
/// receivers are gone.
///
/// # Errors
/// Watching is impossible. Errors in the files come through [`Watched::errors`].
pub fn watch(dir: &Path) -> Result<Watched, WatchError> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let (to_thread, events) = channel();
    let notify_error = |source| WatchError::Notify { dir: dir.clone(), source };
    let mut watcher = notify::recommended_watcher(to_thread).map_err(notify_error)?;
    let parent = dir.parent().unwrap_or(&dir);
    watcher.watch(parent, RecursiveMode::NonRecursive).map_err(notify_error)?;
    let (readings, readings_out) = watch::channel(None);
    let (errors, errors_out) = watch::channel(Arc::from([]));
    let thread =
        Thread { dir: dir.clone(), real: None, directory: Directory::default(), watcher, readings, errors };
    thread::Builder::new()
        .name("intake-file".to_owned())
        .spawn(move || thread.run(&events))
        .map_err(|source| WatchError::Thread { dir, source })?;
    Ok(Watched { readings: readings_out, errors: errors_out })
}

struct Thread {
    dir: PathBuf,
    /// What `dir` is now, symlinks resolved; watched too.
    real: Option<PathBuf>,
    directory: Directory,
    watcher: RecommendedWatcher,
    readings: watch::Sender<Option<Reading>>,
    errors: watch::Sender<Arc<[ManifestError]>>,
}

impl Thread {
    fn run(mut self, events: &Receiver<notify::Result<Event>>) {
        loop {
            self.read();
            if !self.wait(events) || (self.readings.is_closed() && self.errors.is_closed()) {
                return;
            }
        }
    }

    fn read(&mut self) {
        for attempt in 1.. {
            self.follow();
            // A swap of the symlink while we read changes nothing: all files come from one directory.
            let directory = fs::canonicalize(&self.dir).unwrap_or_else(|_| self.dir.clone());
            match self.directory.read(&directory) {
                Ok(changed) => {
                    self.report(Vec::new());
                    return self.publish(changed, directory);
                }
                // Swapped and removed meanwhile: what was read is nobody's state.
                Err(_)
                    if attempt < ATTEMPTS
                        && fs::canonicalize(&self.dir).is_ok_and(|now| now != directory) => {}
                Err(errors) => return self.report(errors),
            }
        }
    }

    fn publish(&self, changed: bool, directory: PathBuf) {
        self.readings.send_if_modified(|last| {
            let snapshot = match last {
                Some(last) if !changed && last.directory == directory => return false,
                Some(last) if !changed => Arc::clone(&last.snapshot),
                _ => Arc::new(self.directory.snapshot().clone()),
            };
            debug!(directory = %directory.display(), pods = snapshot.pods.len(), "directory read");
            *last = Some(Reading { snapshot, directory });
            true
        });
    }

    fn report(&self, errors: Vec<ManifestError>) {
        self.errors.send_if_modified(|last| {
            let changed = **last != *errors;
            if changed {
                for error in &errors {
                    warn!("{error}; the last good state stays in force");
                }
                *last = errors.into();
            }
            changed
        });
    }

    /// Watches the directory that `dir` leads to now, before it is read.
    fn follow(&mut self) {
        let real = fs::canonicalize(&self.dir).ok();
        if real == self.real {
            return;
        }
        if let Some(old) = self.real.take() {
            // Fails when it was removed, which ended the watch.
            drop(self.watcher.unwatch(&old));
        }
        if let Some(new) = &real
            && let Err(error) = self.watcher.watch(new, RecursiveMode::NonRecursive)
        {
            warn!(dir = %new.display(), %error, "no news from this directory; it is read every {REREAD:?}");
            return;
        }
        self.real = real;
    }

    /// Waits for news of the directory, or for the time to look anyway; `false` when no news can come any more.
    fn wait(&mut self, events: &Receiver<notify::Result<Event>>) -> bool {
        loop {
            match events.recv_timeout(REREAD) {
                Ok(event) if !self.concerns(&event) => {}
                Ok(_) => break,
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        // Everything that has happened by now is seen by one reading.
        while events.try_recv().is_ok() {}
        true
    }

    fn concerns(&mut self, event: &notify::Result<Event>) -> bool {
        let Ok(event) = event else { return true };
        let change = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => true,
        };
        let inside = |path: &Path| self.real.as_deref().is_some_and(|real| path.starts_with(real));
        change && (event.paths.is_empty() || event.paths.iter().any(|path| *path == self.dir || inside(path)))
    }
}
