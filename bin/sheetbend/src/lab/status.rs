//! `sheetbend lab status`.

use std::io::Write;
use std::process::ExitCode;

use comfy_table::{Table, presets};

use super::command::{Output, Status};
use super::failure::Outcome;
use super::state;
use super::wire::{LabStatus, Request, ask};

/// Runs the command.
pub(crate) fn run(args: &Status) -> Outcome<ExitCode> {
    let (dir, _) = state::find(args.which.name.as_deref())?;
    let status = ask(&dir, &Request::Status, |_| ())?;
    let mut out = std::io::stdout().lock();
    match args.output {
        // JSON is YAML too (YAML 1.2 §1.2).
        Output::Json | Output::Yaml => writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?,
        Output::Table => tables(&mut out, &status, false)?,
        Output::Wide => tables(&mut out, &status, true)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What `up` says at its end.
pub(crate) fn summary(out: &mut impl Write, status: &LabStatus) -> std::io::Result<()> {
    let LabStatus { name, mode, nodes, pods, times, .. } = status;
    let seconds = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.1} s"));
    writeln!(
        out,
        "lab {name} ({mode}): {} nodes, {} pods; first pod after {}, last after {}, converged after {}",
        nodes.len(),
        pods.len(),
        seconds(times.first_pod),
        seconds(times.last_pod),
        seconds(times.converged)
    )?;
    writeln!(out, "next: sheetbend lab matrix · sheetbend lab exec POD -- CMD · sheetbend lab down")
}

fn tables(out: &mut impl Write, status: &LabStatus, wide: bool) -> std::io::Result<()> {
    summary(out, status)?;
    let mut nodes = table(&["NODE", "AGENT", "ADDRESSES", "POD RANGES"], wide.then_some("NETNS"));
    for node in &status.nodes {
        let row = [node.name.clone(), node.agent.clone(), join(&node.addresses), join(&node.pod_cidrs)];
        nodes.add_row(row.into_iter().chain(wide.then(|| node.netns.clone())));
    }
    writeln!(out, "\n{nodes}\n")?;
    let mut pods = table(&["POD", "NODE", "PHASE", "READY", "ADDRESSES", "SERVES"], wide.then_some("NETNS"));
    for pod in &status.pods {
        let ready = if pod.ready { "yes" } else { "no" }.to_owned();
        let row = [
            pod.pod.clone(),
            pod.node.clone(),
            pod.phase.clone(),
            ready,
            join(&pod.addresses),
            pod.serves.join(" "),
        ];
        pods.add_row(row.into_iter().chain(wide.then(|| pod.netns.clone())));
    }
    writeln!(out, "{pods}")
}

/// A table without lines, as kubectl prints them.
pub(crate) fn table(columns: &[&str], more: Option<&str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().copied().chain(more));
    table
}

fn join(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
