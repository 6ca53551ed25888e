//! Tests of the demo as a user runs it.

use anyhow::Result;

use super::Tally;
use crate::progress::{Mark, Step};
use crate::repo::Repo;
use crate::{demo, process, setup};

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

type Test = fn(&Repo) -> Result<()>;

const TESTS: &[(&str, Test)] = &[("everything matches", everything_matches)];

fn everything_matches(repo: &Repo) -> Result<()> {
    let mut command = demo::lab(repo);
    command.args(["demo", "-f", demo::SHOP]);
    let done = process::capture(&mut command, &mut |_| {})?;
    if !done.ok() {
        anyhow::bail!("{}\n{}", done.ending(), done.tail(60));
    }
    Ok(())
}
