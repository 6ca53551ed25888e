//! Who starts a lab also ends it, unless it lets go: on success of `up` only.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Failure, INTERRUPTED, OWN_FAULT, Outcome};
use super::state::{LabDir, ProcessId};

/// How long a supervisor may take to end by itself.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Waits until the supervisor has ended, by force if need be, and removes the lab's directory.
pub(crate) fn finish(dir: &LabDir, supervisor: &ProcessId) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut forced = false;
    while supervisor.is_alive() {
        if !forced && start.elapsed() > END_PATIENCE {
            // It may end between the two lines.
            let _ = kill(Pid::from_raw(i32::try_from(supervisor.pid)?), Signal::SIGKILL);
            forced = true;
        }
        if start.elapsed() > 2 * END_PATIENCE {
            anyhow::bail!("the supervisor (process {}) cannot be ended; is the kernel well?", supervisor.pid);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    dir.remove()
}

/// Ctrl-C, SIGTERM and SIGHUP, from the moment this is made.
#[derive(Clone, Debug)]
pub(crate) struct Interrupts {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupts {
    /// Listens from now on; nothing ends the process by signal any more, SIGKILL excepted.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _context = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let told = Self { shared: shared.clone() };
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            *lock(&shared.0) = true;
            shared.1.notify_all();
        });
        Ok(told)
    }

    /// Runs `work` on a thread of its own until it ends or a signal comes. After a signal, `work` runs on until the
    /// process ends.
    pub(crate) fn guard<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let done = Arc::new(Mutex::new(None));
        let (result, shared) = (done.clone(), self.shared.clone());
        std::thread::spawn(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let outcome = outcome.unwrap_or_else(|_| Err(Failure::new(OWN_FAULT, "a thread panicked")));
            *lock(&result) = Some(outcome);
            // Taken once, so that the waiter either sees the result or is asleep.
            drop(lock(&shared.0));
            shared.1.notify_all();
        });
        let mut signalled = lock(&self.shared.0);
        loop {
            if *signalled {
                return Err(Failure::new(INTERRUPTED, "interrupted; everything that was made is removed"));
            }
            if let Some(outcome) = lock(&done).take() {
                return outcome;
            }
            signalled = self.shared.1.wait(signalled).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
