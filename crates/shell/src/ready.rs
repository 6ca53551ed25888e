//! Readiness, task by task.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Which tasks of a daemon have come up. The daemon is ready when all have.
#[derive(Clone, Debug)]
pub struct Ready {
    tasks: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    all: Arc<watch::Sender<bool>>,
}

/// One task's part of [`Ready`].
#[derive(Clone, Debug)]
pub struct ReadyTask {
    name: &'static str,
    ready: Ready,
}

impl Default for Ready {
    fn default() -> Self {
        Self { tasks: Arc::default(), all: Arc::new(watch::Sender::new(false)) }
    }
}

impl Ready {
    /// Registers a task, not ready yet.
    pub fn task(&self, name: &'static str) -> ReadyTask {
        self.set(name, false);
        ReadyTask { name, ready: self.clone() }
    }

    /// The tasks that are not ready, by name.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().filter(|(_, ready)| !**ready).map(|(name, _)| *name).collect()
    }

    /// Changes whenever the daemon as a whole becomes ready or unready.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.all.subscribe()
    }

    fn set(&self, name: &'static str, ready: bool) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.insert(name, ready);
        let all = tasks.values().all(|ready| *ready);
        self.all.send_if_modified(|current| std::mem::replace(current, all) != all);
    }
}

impl ReadyTask {
    /// The task is up.
    pub fn done(&self) {
        self.ready.set(self.name, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_task_is() {
        let ready = Ready::default();
        let (first, second) = (ready.task("first"), ready.task("second"));
        first.done();
        assert_eq!(ready.waiting_for(), ["second"]);
        assert!(!*ready.subscribe().borrow());
        second.done();
        assert!(*ready.subscribe().borrow());
    }
}
