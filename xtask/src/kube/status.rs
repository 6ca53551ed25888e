//! `kube status`.

use anyhow::Result;

use super::plan::Plan;
use super::record::{self, Record, directory};
use super::{Which, build, enter, machine, wait};
use crate::progress::{Mark, symbol};

/// Shows one cluster whole, or all in a line each.
pub(super) fn run(which: &Which) -> Result<()> {
    let names = record::names();
    if which.name.is_none() && names.len() != 1 {
        for name in names {
            match Record::read(&name)? {
                Some(record) => println!("{}", line(&record)),
                None => println!("{name}: unfinished; `cargo xtask kube down --name {name}` removes it"),
            }
        }
        return Ok(());
    }
    let record = which.record()?;
    println!("{}", line(&record));
    if record.alive().is_none() {
        return Ok(());
    }
    let path = directory(&record.settings.name).join("plan.json");
    let plan: Plan = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    for planned in &plan.machines {
        for service in &planned.services {
            let log = planned.log(&service.name);
            let is_down = machine::gave_up(&log).exists();
            let mark = symbol(if is_down { Mark::Failed } else { Mark::Done });
            println!("{mark} {}.{}", planned.name, service.name);
            if is_down {
                print!("{}", wait::tail(&log, 5));
            }
        }
    }
    let mut command = enter::kubectl(&record, &build::kubectl()?)?;
    command.args(["get", "nodes", "-o", "wide"]);
    print!("{}", enter::output(command)?);
    Ok(())
}

fn line(record: &Record) -> String {
    let settings = &record.settings;
    let state = match (record.alive(), record.ready, record.maker.runs()) {
        (Some(process), true, _) => format!("up, process {}", process.pid),
        (_, false, true) => "coming up".to_owned(),
        _ => format!("ended; `cargo xtask kube down --name {}` removes the rest", settings.name),
    };
    let family = format!("{:?}", settings.family).to_lowercase();
    let network = format!("{:?}", settings.network).to_lowercase();
    format!("{}: {state}; {} nodes, {family}, network {network}", settings.name, settings.nodes)
}
