//! Process 1 must reap what nobody waits for; everybody else waits for their own. So whoever starts a process in the
//! supervisor does it here: the reaper would take the end of any other.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// This process's own children, by process id.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn own() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that this one started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

/// Starts a process; nobody else will reap it.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Process> {
    // The reaper waits until the new child is known.
    let mut own = own();
    let child = command.spawn()?;
    own.insert(pid_of(&child).as_raw());
    Ok(Process { child })
}

/// Reaps orphans for as long as the process lives.
pub(crate) fn reap_orphans() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            reap_once();
        }
    });
}

fn reap_once() {
    let own = own();
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) = waitid(Id::All, peek) {
        if own.contains(&pid.as_raw()) || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            // Its own waiter comes soon; the orphans behind it, next time.
            break;
        }
    }
}

impl Process {
    /// Its process id in the lab's PID namespace.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes `input` to its standard input, closes that, and reads what it says until it ends: its standard output, or
    /// its standard error. One of the two may be a pipe.
    pub(crate) fn converse(&mut self, input: &[u8]) -> io::Result<(ExitStatus, Vec<u8>)> {
        if let Some(mut stdin) = self.child.stdin.take() {
            stdin.write_all(input)?;
        }
        let mut answer = Vec::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_end(&mut answer)?;
        } else if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_end(&mut answer)?;
        }
        Ok((self.child.wait()?, answer))
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends `signal` and waits; SIGKILL after `patience`.
    pub(crate) fn stop(&mut self, signal: Signal, patience: Duration) -> io::Result<ExitStatus> {
        // It may have ended by itself, which is as good.
        let _ = kill(pid_of(&self.child), signal);
        let step = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while waited < patience {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(step);
            waited += step;
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        own().remove(&pid_of(&self.child).as_raw());
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}
