//! What happens in the lab, in its log and to whoever watches.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The lab's log: standard error, which is `lab.log`, and the watchers.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    start: Instant,
    before: Duration,
    watchers: Arc<Mutex<Vec<mpsc::Sender<String>>>>,
}

impl Journal {
    /// `began` is when the user's command began, seconds since 1970.
    pub(super) fn new(began: f64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let before = Duration::from_secs_f64((now - began).clamp(0.0, 3600.0));
        Self { start: Instant::now(), before, watchers: Arc::default() }
    }

    /// A line for the log alone.
    pub(super) fn detail(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{:9.3} {text}", self.elapsed());
    }

    /// A line for the log and for people who watch.
    pub(super) fn progress(&self, text: &str) {
        self.detail(text);
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher.send(text.to_owned()).is_ok());
    }

    /// Everything that is said from now on.
    pub(super) fn watch(&self) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }

    /// Seconds since the user's command began.
    pub(super) fn elapsed(&self) -> f64 {
        (self.start.elapsed() + self.before).as_secs_f64()
    }
}
