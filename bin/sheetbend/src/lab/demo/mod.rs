//! `sheetbend lab demo`: up, matrix, spread of requests, latest drops, times, down.

mod drops;
mod spread;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::command::Demo;
use super::failure::{MISMATCH, Outcome};
use super::matrix::{self, Bench};
use super::owner::{Interrupts, finish};
use super::state::LabDir;
use super::up::{Plan, say};
use super::wire::LabStatus;

/// The lines that announce a phase; the kill tests wait for them.
const SET_UP: &str = "[1/5] set-up";
const PODS: &str = "[2/5] pods";
const MATRIX: &str = "[3/5] matrix: every source against every destination";
const SPREAD: &str = "[4/5] spread of requests";
const TEAR_DOWN: &str = "[5/5] tear-down";

/// Most mismatches shown in full.
const SHOWN: usize = 40;

/// Runs the command: exit 0 only if everything matches.
pub(crate) fn run(args: Demo) -> Outcome<ExitCode> {
    let start = Instant::now();
    let name = args.name.unwrap_or_else(|| format!("demo-{}", std::process::id()));
    let plan = Plan::new(&args.shape, name)?;
    say(SET_UP);
    let interrupts = Interrupts::listen()?;
    let (owner, status) = plan.bring_up(&interrupts, move |text| {
        if text.starts_with("setting ") {
            say(PODS);
        }
        say(&stamp(start, text));
    })?;
    let (dir, shown) = (owner.dir.clone(), status.clone());
    let proved = interrupts.guard(move || prove(&dir, &shown, start));
    say(TEAR_DOWN);
    let (dir, supervisor) = (owner.dir.clone(), owner.supervisor.clone());
    drop(owner);
    finish(&dir, &supervisor)?;
    let faults = proved?;
    let times = status.times;
    let seconds = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.2} s"));
    say(&format!(
        "\nTimes: agents {}, first pod {}, last pod {}, convergence {}, total {:.1} s",
        seconds(times.agents),
        seconds(times.first_pod),
        seconds(times.last_pod),
        seconds(times.converged),
        start.elapsed().as_secs_f64()
    ));
    if faults.is_empty() {
        say("Everything matches.");
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("Not everything matches: {}.", faults.join("; ")));
    Ok(ExitCode::from(MISMATCH))
}

/// Measures the running lab; returns what does not match.
fn prove(dir: &LabDir, status: &LabStatus, start: Instant) -> Outcome<Vec<String>> {
    let mut faults = Vec::new();
    let bench = Bench::new(dir, &dir.read()?)?;
    say(MATRIX);
    let tenths = AtomicUsize::new(0);
    let table = bench.matrix(None, &|done, all| {
        let tenth = done * 10 / all.max(1);
        if tenths.fetch_max(tenth, Ordering::Relaxed) < tenth {
            say(&stamp(start, &format!("{done} of {all} cells")));
        }
    })?;
    let drops = bench.drops();
    let mut out = std::io::stdout().lock();
    matrix::summary(&mut out, &table)?;
    matrix::mismatches(&mut out, &table, SHOWN)?;
    drop(out);
    if table.summary.mismatches > 0 {
        faults.push(format!("{} of {} cells differ", table.summary.mismatches, table.summary.cells));
    }
    say(SPREAD);
    faults.extend(spread::measure(&bench, status)?);
    say(&stamp(start, "latest drops, and what decided them"));
    drops::show(&drops)?;
    Ok(faults)
}

fn stamp(start: Instant, text: &str) -> String {
    format!("[{:5.1} s] {text}", start.elapsed().as_secs_f64())
}
