//! Packets that are judged while policies change, and whether one set explains what was seen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use anyhow::{Context, bail};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

use super::sets::{Probe, SUBJECTS};
use crate::program::node::{DROP, REDIRECT};

/// How far the changes are. Change n leads to set n % 2; set 0 is in force at the start.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// The newest change that has begun.
    pub(super) begun: AtomicU64,
    /// The newest change that is done.
    pub(super) done: AtomicU64,
    /// Nobody changes anything any more.
    pub(super) stop: AtomicBool,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Packets.
    pub(super) packets: u64,
    /// Of them, while a change was under way.
    pub(super) during: u64,
    /// Of those that the sets judge differently, how many each judged.
    pub(super) by_set: [u64; 2],
    /// Verdicts during a change that neither set gives, or the old one after the new one.
    pub(super) torn: u64,
    /// Verdicts of another set than the one in force when nothing changed.
    pub(super) wrong: u64,
    /// The first of both.
    pub(super) first: Option<String>,
}

/// The changes that a pod can have been judged under, each packet in turn: a change that was seen is not taken back.
#[derive(Debug, Default)]
pub(super) struct Order {
    last: u64,
}

impl Order {
    /// The change that explains a verdict, as early as possible, if `done` was done before the packet and `begun` had
    /// begun after it.
    pub(super) fn explain(&mut self, done: u64, begun: u64, fits: impl Fn(usize) -> bool) -> Option<u64> {
        let found = (done.max(self.last)..=begun).find(|change| fits((change % 2) as usize))?;
        self.last = found;
        Some(found)
    }
}

/// Sends `probes` in turn, each from a new port, until `count` packets are judged.
pub(super) fn judge(
    program: &SchedClassifier,
    probes: &[Probe],
    clock: &Clock,
    count: u64,
) -> anyhow::Result<Seen> {
    let (mut seen, mut orders) = (Seen::default(), SUBJECTS.map(|_| Order::default()));
    // Every flow is new: a port comes again after 60,000 rounds, when its flow has long been evicted.
    for port in (1_024..61_024).cycle() {
        for probe in probes {
            if seen.packets >= count || clock.stop.load(SeqCst) {
                return Ok(seen);
            }
            let frame = probe.frame(port);
            let done = clock.done.load(SeqCst);
            let allows = run(program, probe.ifindex, &frame)?;
            let begun = clock.begun.load(SeqCst);
            seen.packets += 1;
            seen.during += u64::from(begun > done);
            let order = &mut orders[probe.subject];
            match order.explain(done, begun, |set| probe.allows[set] == allows) {
                Some(change) if probe.allows[0] != probe.allows[1] => {
                    seen.by_set[(change % 2) as usize] += 1;
                }
                Some(_) => {}
                None => {
                    let count = if begun > done { &mut seen.torn } else { &mut seen.wrong };
                    *count += 1;
                    seen.first.get_or_insert_with(|| {
                        let verdict = if allows { "passed" } else { "was dropped" };
                        format!("changes {done} to {begun}, {order:?}: {verdict}: {probe:?} from {port}")
                    });
                }
            }
        }
    }
    Ok(seen)
}

/// Whether a frame that a pod sends passes.
fn run(program: &SchedClassifier, ifindex: u32, frame: &[u8]) -> anyhow::Result<bool> {
    // `struct __sk_buff` of linux/bpf.h: ifindex is its eleventh word.
    let mut context = [0_u8; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
    match program.test_run(options).context("BPF_PROG_TEST_RUN")?.return_value {
        REDIRECT => Ok(true),
        DROP => Ok(false),
        other => bail!("verdict {other} of a packet from device {ifindex}"),
    }
}
