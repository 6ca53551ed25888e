//! Orderly end of a daemon.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Says when a daemon shall end. Cloned into every task.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<bool>);

impl Drain {
    /// Ends on SIGTERM or SIGINT. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let (sender, receiver) = watch::channel(false);
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => (), _ = int.recv() => () }
            // Nobody listening any more is as good as drained.
            let _ = sender.send(true);
        });
        Ok(Self(receiver))
    }

    /// Returns when the daemon shall end.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        // A closed channel means that the runtime is going down.
        let _ = receiver.wait_for(|requested| *requested).await;
    }
}
