//! Tables of `sheetbend service`.

use std::io::{IsTerminal, Result, Write};

use comfy_table::{Cell, Color, Table, presets};

use super::wire::{Choice, Detail, Endpoint, Frontend, List, Row};

/// One row for each Service, and where several agents were asked for each node.
pub(super) fn list(out: &mut dyn Write, lists: &[List], wide: bool) -> Result<()> {
    let several = lists.len() > 1;
    let more = ["ALGORITHM", "CONDITIONS"];
    let columns = ["NAMESPACE", "NAME", "TYPE", "ADDRESSES", "PORTS", "ENDPOINTS", "CONNECTIONS"];
    let node = several.then_some("NODE");
    let mut table = table(node.into_iter().chain(columns).chain(more.into_iter().filter(|_| wide)));
    for List { node, services, synced } in lists {
        if !synced {
            eprintln!("note: the kernel of {node} does not hold all of this yet; see `sheetbend status`");
        }
        for service in services {
            let Row { namespace, name, r#type, addresses, ports, ready, endpoints, .. } = service;
            let mut cells = Vec::new();
            cells.extend(several.then(|| Cell::new(node)));
            cells.extend([Cell::new(namespace), Cell::new(name), Cell::new(r#type)]);
            cells.extend([Cell::new(join(addresses)), Cell::new(join(ports))]);
            let colour = if ready < endpoints { Color::Yellow } else { Color::Reset };
            let colour = if *ready == 0 && *endpoints > 0 { Color::Red } else { colour };
            cells.push(Cell::new(format!("{ready}/{endpoints}")).fg(colour));
            cells.push(Cell::new(service.connections));
            if wide {
                cells.extend([Cell::new(&service.algorithm), Cell::new(join(&service.conditions))]);
            }
            table.add_row(cells);
        }
    }
    writeln!(out, "{table}")
}

/// Each node's view of the Service.
pub(super) fn show(out: &mut dyn Write, details: &[Detail], wide: bool) -> Result<()> {
    for (index, detail) in details.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        let Row { namespace, name, r#type, ready, endpoints, connections, .. } = &detail.service;
        let Detail { node, synced, note, frontends, choices, conditions, .. } = detail;
        writeln!(
            out,
            "{namespace}/{name} ({type}) on {node}: {ready} of {endpoints} endpoints, {connections} live connections"
        )?;
        if !synced {
            writeln!(out, "the kernel does not hold all of this yet; see `sheetbend status`")?;
        }
        if let Some(note) = note {
            writeln!(out, "{note}")?;
        }
        for condition in conditions {
            writeln!(out, "{}: {}", condition.reason, condition.message)?;
        }
        if !frontends.is_empty() {
            writeln!(out, "\n{}", frontend_table(frontends, choices))?;
        }
        for choice in choices {
            let local = if choice.only_this_node { ", only of this node (traffic policy Local)" } else { "" };
            let fixed = choice.fixed_port.filter(|fixed| *fixed != choice.port);
            let fixed = fixed.map(|fixed| format!(" for clients of port {fixed}")).unwrap_or_default();
            writeln!(out, "\nendpoints of {}{fixed}, {}{local}", port(choice), choice.family)?;
            if choice.endpoints.is_empty() {
                writeln!(out, " no EndpointSlice names any")?;
            } else {
                writeln!(out, "{}", endpoint_table(choice, wide))?;
            }
        }
    }
    Ok(())
}

fn port(choice: &Choice) -> String {
    let Choice { port_name, port, protocol, .. } = choice;
    if port_name.is_empty() {
        format!("{port}/{protocol}")
    } else {
        format!("{port_name} ({port}/{protocol})")
    }
}

fn frontend_table(frontends: &[Frontend], choices: &[Choice]) -> Table {
    let columns = ["FRONTEND", "FOR", "PORT", "ALGORITHM", "AFFINITY", "SOURCES", "OUTCOME"];
    let mut table = table(columns);
    for of in frontends {
        let address = match of.address.as_str() {
            "0.0.0.0" => "(node, IPv4)".to_owned(),
            "::" => "(node, IPv6)".to_owned(),
            address if address.contains(':') => format!("[{address}]"),
            address => address.to_owned(),
        };
        let clients = match (of.scope.as_str(), of.reach.as_deref()) {
            ("inside", Some("everywhere")) => "everybody",
            ("inside", Some(_)) => "this node's pods and processes",
            ("inside", None) => "-",
            _ => "clients elsewhere",
        };
        let choice = of.choice.and_then(|index| choices.get(index));
        let chosen = |choice: &Choice| choice.endpoints.iter().filter(|of| of.state == "chosen").count();
        let (outcome, colour) = match of.outcome.as_str() {
            "balanced" => match choice.map_or(0, chosen) {
                1 => ("1 backend".to_owned(), Color::Green),
                count => (format!("{count} backends"), Color::Green),
            },
            "dropped" => ("dropped: no endpoint on this node".to_owned(), Color::Red),
            "conflict" => (
                format!("conflict: Service {} has it", of.held_by.as_deref().unwrap_or_default()),
                Color::Red,
            ),
            _ => ("refused: no endpoint".to_owned(), Color::Red),
        };
        table.add_row([
            Cell::new(format!("{address}:{}/{}", of.port, of.protocol)),
            Cell::new(clients),
            Cell::new(choice.map(|choice| choice.port_name.as_str()).unwrap_or_default()),
            Cell::new(of.algorithm.as_deref().unwrap_or("-")),
            Cell::new(of.affinity_seconds.map_or("-".to_owned(), |seconds| format!("{seconds} s"))),
            Cell::new(of.source_ranges.as_ref().map_or("all".to_owned(), |ranges| join(ranges))),
            Cell::new(outcome).fg(colour),
        ]);
    }
    table
}

fn endpoint_table(choice: &Choice, wide: bool) -> Table {
    let columns = ["ENDPOINT", "STATE", "WEIGHT", "CONNECTIONS", "POD", "NODE"];
    let mut table = table(columns.into_iter().chain(wide.then_some("SLICE")).chain(["WHY"]));
    for of in &choice.endpoints {
        let Endpoint { address, port, pod, node, slice, state, reason, message, weight, connections } = of;
        let address = address.as_deref().unwrap_or("-");
        let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let (word, colour) = match state.as_str() {
            "chosen" => ("chosen", Color::Green),
            "draining" => ("draining", Color::Yellow),
            _ => ("OUT", Color::Red),
        };
        let why = match (reason, message) {
            (Some(reason), Some(message)) => format!("{reason}: {message}"),
            _ => String::new(),
        };
        let mut cells = vec![
            Cell::new(format!("{address}{port}")),
            Cell::new(word).fg(colour),
            Cell::new(weight),
            Cell::new(connections),
            Cell::new(pod.as_deref().unwrap_or("-")),
            Cell::new(node.as_deref().unwrap_or("-")),
        ];
        cells.extend(wide.then(|| Cell::new(slice)));
        cells.push(Cell::new(why));
        table.add_row(cells);
    }
    table
}

/// A table without lines, as kubectl prints them; in colours on a terminal, unless NO_COLOR is set.
fn table(columns: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns);
    if std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}

fn join(items: &[String]) -> String {
    items.join(" ")
}
