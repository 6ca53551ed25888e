//! What a change opens and closes, for people.

use std::fmt::Write as _;

use super::wire::{Difference, Differences, Group, NODES, Replay, Replayed};

/// Peers of a line before the rest is a number.
const PEERS: usize = 6;
const EVERYTHING: [&str; 4] = ["1-65535/TCP", "1-65535/UDP", "1-65535/SCTP", "ICMP"];

/// How it is written.
pub(super) struct Printer {
    /// With colours of a terminal.
    pub(super) colour: bool,
    /// With the names of all pods.
    pub(super) wide: bool,
    /// How many ends are shown.
    pub(super) limit: usize,
}

impl Printer {
    /// All of it. One paragraph is one end whose verdict changes in one way; its lines are the ports and who is at the
    /// other end.
    pub(super) fn text(&self, differences: &Differences) -> String {
        let mut text = String::new();
        for note in &differences.notes {
            // Writing to a String does not fail.
            let _ = writeln!(text, "note: {note}");
        }
        let ends = differences.changes.chunk_by(|a, b| {
            (a.effect, &a.direction, own(a), &a.before, &a.after)
                == (b.effect, &b.direction, own(b), &b.before, &b.after)
        });
        let count = ends.clone().count();
        for of_end in ends.take(self.limit) {
            self.end(of_end, &mut text);
        }
        if count > self.limit {
            let _ = writeln!(text, "... and {} more; --limit 0 shows all\n", count - self.limit);
        }
        if let Some(replay) = &differences.flows {
            self.flows(replay, &mut text);
        }
        let pairs = |count: u64| if count == 1 { "1 pair".to_owned() } else { format!("{count} pairs") };
        let _ = match (differences.closes, differences.opens) {
            (0, 0) => writeln!(text, "no verdict changes"),
            (closes, opens) => {
                writeln!(
                    text,
                    "closes something between {}, opens something between {}",
                    pairs(closes),
                    pairs(opens)
                )
            }
        };
        text
    }

    fn flows(&self, replay: &Replay, text: &mut String) {
        let Replay { recorded, unknown, closes, opens } = replay;
        let sum = |of: &[Replayed]| of.iter().map(|replayed| replayed.flows).sum::<u64>();
        let gone =
            if *unknown > 0 { format!(" ({unknown} with an end that is gone)") } else { String::new() };
        let _ = writeln!(
            text,
            "of {recorded} recorded flows{gone}, {} that passed would be denied, {} that were denied would pass",
            sum(closes),
            sum(opens)
        );
        for (what, of) in [("would be denied", closes), ("would pass", opens)] {
            for Replayed { source, destination, port, flows } in of.iter().take(self.limit) {
                let _ = writeln!(text, "  {what}: {flows} {source} → {destination} {port}");
            }
            if of.len() > self.limit {
                let _ = writeln!(text, "  {what}: {} more kinds; --limit 0 shows all", of.len() - self.limit);
            }
        }
    }

    fn end(&self, of_end: &[Difference], text: &mut String) {
        let Some(first) = of_end.first() else { return };
        let (effect, paint) = if first.effect == "opens" { ("OPENS", "33") } else { ("CLOSES", "31") };
        let effect = if self.colour { format!("\x1b[{paint}m{effect}\x1b[0m") } else { effect.to_owned() };
        let way = if first.direction == "egress" { "to" } else { "from" };
        let _ = writeln!(text, "{effect} {} of {}", first.direction, self.groups(own(first)));
        let _ = writeln!(text, "  before: {}", first.before.message);
        let _ = writeln!(text, "  after:  {}", first.after.message);
        for difference in of_end {
            let only = match difference.families.as_slice() {
                [family] => format!(" ({family} only)"),
                _ => String::new(),
            };
            let (ports, others) = (ports(&difference.ports), self.groups(other(difference)));
            let _ = writeln!(text, "    {ports}{only} {way} {others}");
        }
        text.push('\n');
    }

    fn groups(&self, groups: &[Group]) -> String {
        let rest = groups.len().saturating_sub(PEERS);
        let shown = if self.wide || rest < 2 { groups } else { groups.get(..PEERS).unwrap_or_default() };
        let shown: Vec<String> = shown.iter().map(|group| self.group(group)).collect();
        if shown.len() == groups.len() {
            return shown.join(", ");
        }
        format!("{} and {rest} more (-o wide)", shown.join(", "))
    }

    fn group(&self, group: &Group) -> String {
        let members = || group.members.join(" ");
        match (&group.name, group.kind) {
            (Some(name), _) => {
                let (some, all) = (group.members.len(), group.whole);
                let count = match (some, all) {
                    (1, 1) => String::new(),
                    (some, all) if some == all => format!(" ({all} pods)"),
                    (some, all) => format!(" ({some} of {all} pods)"),
                };
                if self.wide { format!("{name}{count} [{}]", members()) } else { format!("{name}{count}") }
            }
            (None, kind) if !self.wide && group.members.len() == group.whole => kind.to_owned(),
            (None, NODES) => format!("nodes {}", members()),
            (None, _) => {
                let rest = group.members.len().saturating_sub(PEERS);
                if self.wide || rest < 2 {
                    format!("world {}", members())
                } else {
                    let shown = group.members.get(..PEERS).unwrap_or_default().join(" ");
                    format!("world {shown} and {rest} more blocks")
                }
            }
        }
    }
}

/// The end that decides.
fn own(difference: &Difference) -> &[Group] {
    if difference.direction == "egress" { &difference.source } else { &difference.destination }
}

fn other(difference: &Difference) -> &[Group] {
    if difference.direction == "egress" { &difference.destination } else { &difference.source }
}

/// Whole protocols by their name.
fn ports(ports: &[String]) -> String {
    if EVERYTHING.iter().all(|all| ports.iter().any(|own| own == all)) {
        return "everything".to_owned();
    }
    let short = |port: &String| match port.strip_prefix("1-65535/") {
        Some(protocol) => format!("all {protocol}"),
        None => port.clone(),
    };
    ports.iter().map(short).collect::<Vec<_>>().join(" ")
}
