//! Process 1 must reap what nobody waits for; everybody else waits for their own.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// The supervisor's own children, by process id.
#[derive(Clone, Debug, Default)]
pub(super) struct Children {
    own: Arc<Mutex<BTreeSet<i32>>>,
}

/// A process that the supervisor started.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    children: Children,
}

impl Children {
    /// Starts a process; nobody else will reap it.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Process> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        own.insert(pid_of(&child).as_raw());
        Ok(Process { child, children: self.clone() })
    }

    /// Reaps orphans for as long as the process lives.
    pub(super) fn reap_orphans(self) {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                self.reap_once();
            }
        });
    }

    fn reap_once(&self) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) = waitid(Id::All, peek) {
            if own.contains(&pid.as_raw()) || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
                // Its own waiter comes soon; the orphans behind it, next time.
                break;
            }
        }
    }
}

impl Process {
    /// Its process id in the lab's PID namespace.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes `input` to its standard input, closes that, and reads its standard output until it ends.
    pub(super) fn converse(&mut self, input: &[u8]) -> io::Result<(ExitStatus, Vec<u8>)> {
        if let Some(mut stdin) = self.child.stdin.take() {
            stdin.write_all(input)?;
        }
        let mut answer = Vec::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_end(&mut answer)?;
        }
        Ok((self.child.wait()?, answer))
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends `signal` and waits; SIGKILL after `patience`.
    pub(super) fn stop(&mut self, signal: Signal, patience: Duration) -> io::Result<ExitStatus> {
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
        let mut own = self.children.own.lock().unwrap_or_else(PoisonError::into_inner);
        own.remove(&pid_of(&self.child).as_raw());
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}
