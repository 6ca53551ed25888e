//! Listening to an agent's events.

use std::io;
use std::path::Path;

use serde::Deserialize;
use sheetbend_model::events::PacketEvent;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;

/// A stream of events from one agent.
#[derive(Debug)]
pub struct Subscription {
    lines: Lines<BufReader<UnixStream>>,
    lost: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Event(Box<PacketEvent>),
    Lost {
        lost: u64,
    },
    Listening {
        #[serde(rename = "listening")]
        _listening: bool,
    },
}

/// Listens at an agent's `events.sock`. When it returns, every later event will come.
///
/// # Errors
/// Nobody serves at `path`.
pub async fn subscribe(path: &Path) -> io::Result<Subscription> {
    let stream = UnixStream::connect(path).await?;
    let mut lines = BufReader::with_capacity(1 << 16, stream).lines();
    match lines.next_line().await? {
        Some(_) => Ok(Subscription { lines, lost: 0 }),
        None => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

impl Subscription {
    /// The next event; `None` when the agent has ended. Lines of a newer agent that make no sense are passed over.
    pub async fn next(&mut self) -> Option<PacketEvent> {
        loop {
            let line = self.lines.next_line().await.ok()??;
            match serde_json::from_str(&line) {
                Ok(Line::Event(event)) => return Some(*event),
                Ok(Line::Lost { lost }) => self.lost += lost,
                Ok(Line::Listening { .. }) | Err(_) => (),
            }
        }
    }

    /// Events that came too fast for us so far.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use std::time::Duration;

    use sheetbend_model::events::{EventEnd, PacketVerdict};

    use super::*;
    use crate::Hub;

    fn event(port: u16) -> PacketEvent {
        let end = EventEnd { address: [10, 0, 0, 1].into(), port, name: None };
        PacketEvent {
            time: 0,
            node: "n".into(),
            verdict: PacketVerdict::Dropped,
            reason: "policy_denied".into(),
            hook: "from_pod".into(),
            source: end.clone(),
            destination: end,
            frontend: None,
            protocol: "TCP".into(),
            decided_by: None,
            length: 60,
        }
    }

    #[tokio::test]
    async fn every_listener_gets_every_event_and_a_slow_one_is_told_its_loss() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.sock");
        let hub = Hub::default();
        let server = tokio::spawn({
            let (hub, path) = (hub.clone(), path.clone());
            async move { hub.serve(&path).await }
        });
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (mut fast, mut slow) = (subscribe(&path).await.unwrap(), subscribe(&path).await.unwrap());
        assert!(hub.has_listeners());
        hub.publish(&event(1));
        assert_eq!(fast.next().await.unwrap(), event(1));
        let total = 60_000;
        for port in 0..total {
            hub.publish(&event(port));
        }
        let last = event(total - 1);
        let mut seen = 0;
        while slow.next().await.unwrap() != last {
            seen += 1;
        }
        assert_eq!(slow.lost() + seen, u64::from(total));
        assert!(slow.lost() > 0);
        server.abort();
    }
}
