//! Sequences of states, by plans and by full syncs, over restarts, down to nothing.

use std::thread::sleep;

use anyhow::{Context, ensure};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use sheetbend_apply::bpf::{Kernel, Report};
use sheetbend_model::plan::{
    Dataplane, Entry, Frontend, LocalPod, Origin, Overlay, Place as Part, Ruling, Wanted, diff,
};
use sheetbend_model::state::AttachmentId;
use sheetbend_model::types::{AddrKey, BlockKey};

use super::draw::{self, Event};
use super::{Place, links};

/// After any sequence the tables, with numbers replaced by names, equal what was last wanted; the last state leaves no
/// row.
pub(super) fn sequences_equal_a_fresh_sync(place: &Place) -> anyhow::Result<()> {
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let result = runner.run(&draw::events(), |events| {
        play(place, "sequences", &events).map_err(|error| TestCaseError::fail(format!("{error:?}")))
    });
    result.map_err(|error| anyhow::anyhow!("{error}"))
}

fn play(place: &Place, instance: &str, events: &[Event]) -> anyhow::Result<()> {
    let mut kernel = place.open(instance)?;
    let mut now = Dataplane::default();
    for (step, event) in events.iter().enumerate() {
        let report = match event {
            Event::Run(next) => {
                let report = kernel.run(&diff(&now, next), &links)?;
                now = (**next).clone();
                report
            }
            Event::Sync(next) => {
                now = (**next).clone();
                // The same, a part at a time, once there was a sync.
                if step % 2 == 1 { compare(&mut kernel, &now)? } else { kernel.sync(&now, &links)? }
            }
            Event::Restart => {
                drop(kernel);
                kernel = place.open(instance)?;
                let report = kernel.sync(&now, &links)?;
                // Draining is only known from the wanted state, and what was retired goes late: nothing else is written.
                ensure!(!report.epoch_raised, "step {step}: a restart judged flows anew: {report}");
                report
            }
            Event::Sweep => {
                kernel.sweep()?;
                kernel.run(&diff(&now, &now), &links)?
            }
        };
        ensure!(report.is_done(), "step {step}: {:?}", report.failed);
        let mismatches = kernel.verify(&now, &links)?;
        ensure!(mismatches.is_empty(), "step {step}: {}", text(&mismatches));
    }
    down_to_nothing(&mut kernel, &now)
}

/// A Dataplane in as many parts as a compiler's tables have.
struct InParts<'a>(&'a Dataplane);

impl Wanted for InParts<'_> {
    fn part(&self, part: &Part) -> (Vec<Entry>, Option<Part>) {
        let (all, _) = self.0.part(part);
        let next = match part {
            Part::Base => Some(Part::Classes(None)),
            Part::Classes(_) => Some(Part::Services(None)),
            Part::Services(_) => Some(Part::Pods),
            Part::Pods => None,
        };
        let is_its = |entry: &Entry| match entry {
            Entry::Overlay(_) | Entry::Route(..) | Entry::Rule(..) | Entry::Block(..) => *part == Part::Base,
            Entry::Class(..) => matches!(part, Part::Classes(_)),
            Entry::Service(..) | Entry::ServiceAddress(..) => matches!(part, Part::Services(_)),
            Entry::Pod(..) => *part == Part::Pods,
        };
        (all.into_iter().filter(is_its).collect(), next)
    }

    fn pods(&self) -> Box<dyn Iterator<Item = (&AttachmentId, &LocalPod)> + '_> {
        Wanted::pods(self.0)
    }

    fn has_route(&self, key: &BlockKey) -> bool {
        self.0.has_route(key)
    }

    fn has_block(&self, key: &BlockKey) -> bool {
        self.0.has_block(key)
    }

    fn has_class(&self, key: &AddrKey) -> bool {
        self.0.has_class(key)
    }

    fn has_service(&self, key: &Frontend) -> bool {
        self.0.has_service(key)
    }

    fn has_service_address(&self, key: &AddrKey) -> bool {
        self.0.has_service_address(key)
    }
}

/// Returns the last part's report, with what failed in any.
fn compare(kernel: &mut Kernel, want: &Dataplane) -> anyhow::Result<Report> {
    let (mut part, mut failed) = (Part::Base, Vec::new());
    loop {
        let (report, next) = kernel.compare(&InParts(want), &part, &links)?;
        failed.extend(report.failed);
        match next {
            Some(next) => part = next,
            None => return Ok(Report { failed, written: report.written, epoch_raised: report.epoch_raised }),
        }
    }
}

fn down_to_nothing(kernel: &mut Kernel, now: &Dataplane) -> anyhow::Result<()> {
    let nothing = Dataplane {
        overlay: Overlay { mode: now.overlay.mode, ..Overlay::default() },
        ..Dataplane::default()
    };
    kernel.run(&diff(now, &nothing), &links)?;
    while let Some(due) = kernel.tick()? {
        sleep(due);
    }
    let mismatches = kernel.verify(&nothing, &links)?;
    ensure!(mismatches.is_empty(), "nothing wanted: {}", text(&mismatches));
    let report = kernel.sync(&nothing, &links)?;
    ensure!(report.writes() == 0, "a row was left: {report}");
    Ok(())
}

fn text(mismatches: &[sheetbend_apply::bpf::Mismatch]) -> String {
    mismatches.iter().map(|mismatch| format!("\n  {mismatch}")).collect()
}

/// A restarted agent finds every number, and touches nothing that is right.
pub(super) fn restart_keeps_numbers_and_writes_nothing(place: &Place) -> anyhow::Result<()> {
    let want = some_dataplane()?;
    let names = {
        let mut kernel = place.open("restart")?;
        let report = kernel.sync(&want, &links)?;
        ensure!(report.writes() > 0 && report.is_done(), "{report}");
        kernel.names()
    };
    let mut kernel = place.open("restart")?;
    let report = kernel.sync(&want, &links)?;
    ensure!(report.writes() == 0, "{report}");
    ensure!(!report.epoch_raised, "{report}");
    ensure!(*kernel.names() == *names, "numbers changed: {:?} was {names:?}", kernel.names());
    ensure!(
        !names.sets.is_empty() && !names.origins.is_empty() && !names.classes.is_empty(),
        "nothing was numbered"
    );
    Ok(())
}

/// A Dataplane that uses every table.
fn some_dataplane() -> anyhow::Result<Dataplane> {
    let mut runner = TestRunner::deterministic();
    for _ in 0..10_000 {
        let drawn = proptest::strategy::Strategy::new_tree(&draw::dataplane(), &mut runner);
        let state = proptest::strategy::ValueTree::current(&drawn.map_err(anyhow::Error::msg)?);
        let slots = state.services.values().map(|entry| entry.backends.len()).sum::<usize>();
        let named = state.rules.keys().any(|rule| rule.class.is_some() && !rule.set.is_empty());
        let exact = state.classes.values().any(|class| !class.is_empty());
        let drains = state.services.values().any(|entry| !entry.draining.is_empty());
        let parts = [state.pods.len(), state.blocks.len(), state.routes.len(), slots];
        if parts.iter().all(|part| *part > 1) && named && exact && !drains {
            return Ok(state);
        }
    }
    anyhow::bail!("no such Dataplane was drawn")
}

/// A number whose symbol went is given to another symbol only after a sweep that began after it went.
pub(super) fn numbers_rest_through_a_sweep(place: &Place) -> anyhow::Result<()> {
    let want = some_dataplane()?;
    let mut kernel = place.open("rest")?;
    kernel.sync(&want, &links)?;
    let first = kernel.names();
    let mut without = want.clone();
    without.rules.clear();
    kernel.run(&diff(&want, &without), &links)?;
    ensure!(!kernel.names().origins.is_empty(), "an origin's number was forgotten at once");

    // The same symbol comes back to its number.
    kernel.run(&diff(&without, &want), &links)?;
    ensure!(*kernel.names() == *first, "a resting number was not found again");

    // Another symbol does not get it before the sweep, and may after.
    kernel.run(&diff(&want, &without), &links)?;
    let mut other = without.clone();
    let named = want.rules.iter().find_map(|(rule, ruling)| Some((rule, ruling.origin.clone()?)));
    let (rule, origin) = named.context("a rule")?;
    other.rules.insert(rule.clone(), Ruling::allow(Origin { rule: 77, ..origin }));
    kernel.run(&diff(&without, &other), &links)?;
    let number_of_77 = |kernel: &Kernel| {
        kernel.names().origins.iter().find(|(_, origin)| origin.rule == 77).map(|(number, _)| *number)
    };
    let given = number_of_77(&kernel).context("a number")?;
    ensure!(!first.origins.contains_key(&given), "number {given} was given again before a sweep");
    kernel.run(&diff(&other, &without), &links)?;
    let sweep = kernel.sweep()?;
    ensure!(sweep.released > 0, "{sweep:?}");
    ensure!(kernel.names().origins.is_empty(), "{:?}", kernel.names().origins);
    kernel.run(&diff(&without, &other), &links)?;
    let again = number_of_77(&kernel).context("a number")?;
    ensure!(again <= given, "freed numbers are used first: {again} after {given}");
    ensure!(kernel.verify(&other, &links)?.is_empty(), "tables differ");
    Ok(())
}
