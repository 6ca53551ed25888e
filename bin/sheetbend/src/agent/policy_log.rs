//! Verdicts of policies in the agent's log, those of rules with `log: true` and those that `policy.log` asks for: some
//! lines a second, so that a scan of ports fills no disk.

use std::time::{Duration, Instant};

use sheetbend_ebpf_abi::{Event, Reason};
use sheetbend_model::events::{EventEnd, PacketEvent};
use sheetbend_shell::config::{LoggedVerdicts, PolicyConfig};
use sheetbend_shell::log::LogFormat;
use tracing::info;

use crate::monitor;

/// So many seconds' worth of lines may come at once after a quiet time.
const BURST: u32 = 10;

/// Writes lines for as long as there is room for them.
pub(super) struct PolicyLog {
    verdicts: LoggedVerdicts,
    format: LogFormat,
    /// Lines a second.
    rate: u32,
    /// Lines that may come now.
    room: u32,
    /// Up to when `room` is counted.
    counted: Instant,
    /// Lines that had no room since that was last said.
    left_out: u64,
}

impl PolicyLog {
    pub(super) fn new(config: &PolicyConfig, format: LogFormat, now: Instant) -> Self {
        let rate = config.log_rate.max(1);
        let room = rate.saturating_mul(BURST);
        Self { verdicts: config.log, format, rate, room, counted: now, left_out: 0 }
    }

    /// Whether anything but rules with `log: true` is logged.
    pub(super) fn is_on(&self) -> bool {
        self.verdicts != LoggedVerdicts::None
    }

    /// Whether `policy.log` asks for this.
    pub(super) fn wants(&self, event: &Event) -> bool {
        let is_denied =
            [Reason::PolicyDenied, Reason::PolicyAudited].iter().any(|reason| event.reason == *reason as u16);
        match self.verdicts {
            LoggedVerdicts::None => false,
            LoggedVerdicts::Denied => is_denied,
            LoggedVerdicts::All => is_denied || event.stage != 0,
        }
    }

    /// Says what became of a packet, if there is room.
    pub(super) fn tell(&mut self, event: &PacketEvent, now: Instant) {
        if !self.take(now) {
            self.left_out += 1;
            return;
        }
        self.say_left_out();
        match self.format {
            LogFormat::Text => info!("policy log: {}", monitor::line(event, false)),
            LogFormat::Json => json(event),
        }
    }

    /// Says how many lines had no room, once there is some again.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.left_out > 0 && self.take(now) {
            self.say_left_out();
        }
    }

    fn say_left_out(&mut self) {
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            info!(
                left_out,
                "policy log: more than {} lines at once, or {} a second; `sheetbend monitor` shows all",
                self.rate.saturating_mul(BURST),
                self.rate
            );
        }
    }

    /// Room for one line, if there is any.
    fn take(&mut self, now: Instant) -> bool {
        let pace = Duration::from_secs(1) / self.rate;
        let most = self.rate.saturating_mul(BURST);
        let more = now.saturating_duration_since(self.counted).as_nanos() / pace.as_nanos().max(1);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.counted += pace * more.min(most);
        if more > most {
            self.counted = now;
        }
        self.room = self.room.saturating_add(more).min(most);
        let has_room = self.room > 0;
        self.room = self.room.saturating_sub(1);
        has_room
    }
}

/// The same facts as fields.
fn json(event: &PacketEvent) {
    let name = |end: &EventEnd| end.name.as_deref().unwrap_or_default().to_owned();
    let by = event.decided_by.as_ref();
    let policies = by.map(|by| by.selected_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    info!(
        verdict = ?event.verdict,
        reason = %event.reason,
        protocol = %event.protocol,
        source = name(&event.source),
        source_address = %event.source.address,
        source_port = event.source.port,
        destination = name(&event.destination),
        destination_address = %event.destination.address,
        destination_port = event.destination.port,
        policy = by.map(|by| by.policy.to_string()),
        direction = by.map(|by| by.direction.to_string()),
        rule = by.and_then(|by| by.rule),
        isolated_by = policies,
        "policy log"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(verdicts: LoggedVerdicts, log_rate: u32, now: Instant) -> PolicyLog {
        let config = PolicyConfig { log: verdicts, log_rate, ..PolicyConfig::default() };
        PolicyLog::new(&config, LogFormat::Text, now)
    }

    #[test]
    fn a_burst_has_room_and_what_follows_comes_at_a_pace() {
        let start = Instant::now();
        for rate in [1, 10, 500] {
            let mut log = log(LoggedVerdicts::None, rate, start);
            let second = |count: f64| start + Duration::from_secs_f64(count);
            let most = rate as usize * 10;
            let taken =
                |log: &mut PolicyLog, at: Instant, count: usize| (0..count).filter(|_| log.take(at)).count();
            assert_eq!(taken(&mut log, start, most + 50), most, "{rate}");
            assert_eq!(taken(&mut log, second(2.001), most), rate as usize * 2, "{rate}");
            assert_eq!(taken(&mut log, second(2.001), most), 0, "{rate}");
            // A quiet day makes room for no more than a burst.
            assert_eq!(taken(&mut log, second(86_400.0), most + 50), most, "{rate}");
        }
    }

    #[test]
    fn what_was_left_out_is_said_once_there_is_room() {
        let start = Instant::now();
        let mut log = log(LoggedVerdicts::All, 10, start);
        while log.take(start) {}
        log.left_out = 7;
        log.settle(start + Duration::from_millis(50));
        assert_eq!(log.left_out, 7);
        log.settle(start + Duration::from_millis(150));
        assert_eq!(log.left_out, 0);
    }

    #[test]
    fn each_word_asks_for_its_verdicts() {
        let now = Instant::now();
        let event = |reason: Reason, stage| {
            // All zeros is an event.
            let mut event = sheetbend_observe::parse(&[0; sheetbend_observe::EVENT_BYTES]).into_iter().next();
            event.iter_mut().for_each(|event| (event.reason, event.stage) = (reason as u16, stage));
            event
        };
        let events = [
            event(Reason::PolicyDenied, 2),
            event(Reason::PolicyAudited, 1),
            event(Reason::Forwarded, 2),
            event(Reason::Forwarded, 0),
            event(Reason::SourceSpoofed, 0),
        ];
        for (verdicts, wanted) in [
            (LoggedVerdicts::None, [false; 5]),
            (LoggedVerdicts::Denied, [true, true, false, false, false]),
            (LoggedVerdicts::All, [true, true, true, false, false]),
        ] {
            let log = log(verdicts, 10, now);
            let found = events.each_ref().map(|event| event.as_ref().is_some_and(|event| log.wants(event)));
            assert_eq!((found, log.is_on()), (wanted, verdicts != LoggedVerdicts::None));
        }
    }
}
