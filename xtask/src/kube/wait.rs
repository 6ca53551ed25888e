//! Waiting for a cluster's parts, and saying why one does not come.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::machine::gave_up;
use super::plan::Plan;
use super::record::Record;
use crate::progress::{Mark, Step};

const PAUSE: Duration = Duration::from_millis(200);
/// How many lines of a log say why a service ended.
const LINES: usize = 15;

/// Calls `try_it` until it gives something; an error names what the last try said, or the service that stays down.
pub(super) fn until<T>(
    what: &str,
    limit: Duration,
    record: &Record,
    plan: &Plan,
    mut try_it: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut step = Step::start(what);
    let deadline = Instant::now() + limit;
    let outcome = loop {
        match try_it() {
            Ok(value) => break Ok(value),
            Err(error) => {
                step.note(&format!("{error:#}"));
                if let Err(dead) = all_run(record, plan) {
                    break Err(dead);
                }
                if Instant::now() > deadline {
                    break Err(error.context(format!("{what}: not after {} s", limit.as_secs())));
                }
            }
        }
        std::thread::sleep(PAUSE);
    };
    step.end(if outcome.is_ok() { Mark::Done } else { Mark::Failed }, "");
    outcome
}

/// Fails with the last lines of a log if the supervisor, a machine or a service is down for good.
fn all_run(record: &Record, plan: &Plan) -> Result<()> {
    services_run(plan)?;
    if record.alive().is_none() {
        let logs = plan.machines.first().map(|machine| machine.logs.join("supervisor.log"));
        bail!("the cluster's supervisor ended:\n{}", logs.map(|log| tail(&log, LINES)).unwrap_or_default());
    }
    Ok(())
}

fn services_run(plan: &Plan) -> Result<()> {
    for machine in &plan.machines {
        for service in &machine.services {
            let log = machine.log(&service.name);
            if let Ok(how) = std::fs::read_to_string(gave_up(&log)) {
                bail!("{} on {} ended: {}{}", service.name, machine.name, how, tail(&log, LINES));
            }
        }
        // A machine's own log holds only errors of its set-up, and lines on services that were started again.
        let log = machine.log("machine");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.lines().any(|line| line.starts_with("error: ")) {
            bail!("{} does not start:\n{}", machine.name, tail(&log, LINES));
        }
    }
    Ok(())
}

/// The last lines of a file, indented.
pub(super) fn tail(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let text =
        text.map_or_else(|error| format!("{error:#}"), |text| String::from_utf8_lossy(&text).into_owned());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use std::collections::BTreeMap;

    use super::super::plan::{Machine, Router, Service};
    use super::*;

    #[test]
    fn a_service_that_stays_down_is_named_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine {
            name: "node1".to_owned(),
            directory: dir.path().to_owned(),
            logs: dir.path().to_owned(),
            cache: dir.path().to_owned(),
            addresses: Vec::new(),
            programs: BTreeMap::new(),
            plugins: None,
            files: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            services: vec![Service::new("kubelet", &[], None)],
        };
        let plan = Plan {
            cluster: "a".to_owned(),
            directory: dir.path().to_owned(),
            router: Router::default(),
            machines: vec![machine],
        };
        assert!(services_run(&plan).is_ok());
        let log = plan.machines[0].log("kubelet");
        std::fs::write(&log, "first\n".repeat(100) + "unknown flag: --x\n").unwrap();
        std::fs::write(gave_up(&log), "exit code 1, 5 times in a row\n").unwrap();
        let text = services_run(&plan).unwrap_err().to_string();
        assert!(text.starts_with("kubelet on node1 ended: exit code 1") && text.ends_with("--x\n"), "{text}");
        assert!(text.lines().count() < 20, "{text}");
    }
}
