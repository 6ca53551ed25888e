//! What rules with `log: true` decide, in the agent's log: some lines a second, so that a scan of ports fills no disk.

use std::time::{Duration, Instant};

use sheetbend_model::events::PacketEvent;
use tracing::info;

use crate::monitor;

/// How many lines may come at once after a quiet time.
const BURST: u32 = 100;
/// One more may come each time this has gone by.
const PACE: Duration = Duration::from_millis(100);

/// Writes lines for as long as there is room for them.
pub(super) struct PolicyLog {
    /// Lines that may come now.
    room: u32,
    /// Up to when `room` is counted.
    counted: Instant,
    /// Lines that had no room since the last that had.
    left_out: u64,
}

impl PolicyLog {
    pub(super) fn new(now: Instant) -> Self {
        Self { room: BURST, counted: now, left_out: 0 }
    }

    /// Says what became of a packet, if there is room.
    pub(super) fn tell(&mut self, event: &PacketEvent, now: Instant) {
        let Some(left_out) = self.take(now) else { return };
        if left_out > 0 {
            info!(
                left_out,
                "policy log: more than {BURST} lines at once, or 10 a second; `sheetbend monitor` shows all"
            );
        }
        info!("policy log: {}", monitor::line(event, false));
    }

    /// Room for one line; and how many had none before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let more = now.saturating_duration_since(self.counted).as_nanos() / PACE.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.counted += PACE * more.min(BURST);
        if more > BURST {
            self.counted = now;
        }
        self.room = self.room.saturating_add(more).min(BURST);
        match self.room.checked_sub(1) {
            Some(room) => {
                self.room = room;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_has_room_and_what_follows_comes_at_a_pace() {
        let start = Instant::now();
        let mut log = PolicyLog::new(start);
        let taken = |log: &mut PolicyLog, at: Duration, count: usize| {
            (0..count).filter_map(|_| log.take(start + at)).collect::<Vec<u64>>()
        };
        assert_eq!(taken(&mut log, Duration::ZERO, 150), vec![0; 100]);
        // Half a second makes room for five, of which the first says what was left out.
        assert_eq!(taken(&mut log, Duration::from_millis(550), 7), [50, 0, 0, 0, 0]);
        assert!(taken(&mut log, Duration::from_millis(590), 1).is_empty());
        assert_eq!(taken(&mut log, Duration::from_millis(600), 1), [3]);
        // A quiet day makes room for no more than a burst.
        assert_eq!(taken(&mut log, Duration::from_secs(86_400), 150).len(), 100);
    }
}
