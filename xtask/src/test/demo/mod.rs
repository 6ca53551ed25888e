//! Tests of the demo as a user runs it: it ends with 0, two run at once, and a kill leaves nothing behind.

mod killed;
mod machine;

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use self::machine::Machine;
use super::Tally;
use crate::process::{self, Finished};
use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::{demo, setup};

/// Longer than any demo takes.
const LIMIT: Duration = Duration::from_secs(300);

type Test = fn(&Repo) -> Result<()>;

/// The phases in which the demo is killed; its output announces phase n as `[n/5]`.
const PHASES: &[&str] = &["set-up", "pods", "matrix", "spread", "tear-down"];

const TESTS: &[(&str, Test)] = &[
    ("everything_matches", everything_matches),
    ("two_at_once", two_at_once),
    ("killed_in_set_up", |repo| killed::in_phase(repo, 1)),
    ("killed_in_pods", |repo| killed::in_phase(repo, 2)),
    ("killed_in_matrix", |repo| killed::in_phase(repo, 3)),
    ("killed_in_spread", |repo| killed::in_phase(repo, 4)),
    ("killed_in_tear_down", |repo| killed::in_phase(repo, 5)),
];

/// Runs the demo tests whose name contains `filter`.
pub(super) fn run(repo: &Repo, filter: Option<&str>) -> Result<Tally> {
    let mut tally = Tally::default();
    if !setup::is_root() {
        return Ok(Tally::failure(
            "the demo needs root: sudo env \"PATH=$PATH\" cargo xtask test demo".to_owned(),
        ));
    }
    demo::build(repo)?;
    for (name, test) in TESTS {
        if !filter.is_none_or(|filter| name.contains(filter)) {
            continue;
        }
        let step = Step::start(format!("demo: {name}"));
        match test(repo) {
            Ok(()) => {
                tally.passed += 1;
                step.end(Mark::Done, "");
            }
            Err(error) => {
                step.end(Mark::Failed, &format!("{error:#}"));
                tally.fail(format!("demo: {name}"));
            }
        }
    }
    Ok(tally)
}

/// `sheetbend lab demo`, as `cargo xtask demo` runs it.
fn demo_command(repo: &Repo) -> Command {
    let mut command = demo::lab(repo);
    command.args(["demo", "-f", demo::SHOP]);
    command
}

fn succeeds(done: &Finished) -> Result<()> {
    if !done.ok() {
        bail!("the demo: {}\n{}", done.ending(), done.tail(60));
    }
    Ok(())
}

fn everything_matches(repo: &Repo) -> Result<()> {
    let before = Machine::now()?;
    succeeds(&process::capture_within(&mut demo_command(repo), Some(LIMIT), &mut |_| {})?)?;
    before.assert_unchanged()
}

fn two_at_once(repo: &Repo) -> Result<()> {
    let before = Machine::now()?;
    let run = || process::capture_within(&mut demo_command(repo), Some(2 * LIMIT), &mut |_| {});
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(run);
        (run(), other.join())
    });
    let Ok(other) = other else { bail!("the thread of the second demo panicked") };
    succeeds(&one?)?;
    succeeds(&other?)?;
    before.assert_unchanged()
}
