//! `kube down`.

use anyhow::Result;

use super::Which;
use super::record::{self, Record};
use crate::progress::{Mark, Step};

/// Ends one cluster, or all.
pub(super) fn run(which: &Which, all: bool) -> Result<()> {
    if all {
        for name in record::names() {
            match Record::read(&name)? {
                Some(record) => end(&record)?,
                None => record::sweep(&name)?,
            }
        }
        return Ok(());
    }
    // A directory without a record: `up` was killed before it had written one.
    if let Some(name) = &which.name
        && Record::read(name)?.is_none()
        && record::directory(name).exists()
    {
        return record::sweep(name);
    }
    end(&which.record()?)
}

fn end(record: &Record) -> Result<()> {
    let step = Step::start(format!("ending cluster {}", record.settings.name));
    let outcome = record.remove();
    step.end(if outcome.is_ok() { Mark::Done } else { Mark::Failed }, "");
    outcome
}
