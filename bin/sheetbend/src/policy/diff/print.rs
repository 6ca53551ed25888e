//! What a change opens and closes, for people.

use std::fmt::Write as _;

use super::wire::{Difference, Differences, Group};

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

    fn end(&self, of_end: &[Difference], text: &mut String) {
        let Some(first) = of_end.first() else { return };
        let (effect, paint) = if first.effect == "opens" { ("OPENS", "33") } else { ("CLOSES", "31") };
        let effect = if self.colour { format!("\x1b[{paint}m{effect}\x1b[0m") } else { effect.to_owned() };
        let way = if first.direction == "egress" { "to" } else { "from" };
        let _ = writeln!(text, "{effect} {} of {}", first.direction, self.group(own(first)));
        let _ = writeln!(text, "  before: {}", first.before.message);
        let _ = writeln!(text, "  after:  {}", first.after.message);
        let mut lines: Vec<((String, &[String]), Vec<String>)> = Vec::new();
        for difference in of_end {
            let key = (ports(&difference.ports), difference.families.as_slice());
            let peer = self.group(peer(difference));
            match lines.iter_mut().find(|(known, _)| *known == key) {
                Some((_, peers)) => peers.push(peer),
                None => lines.push((key, vec![peer])),
            }
        }
        for ((ports, families), peers) in lines {
            let only = if let [family] = families { format!(" ({family} only)") } else { String::new() };
            let rest = peers.len().saturating_sub(PEERS);
            if self.wide || rest < 2 {
                let _ = writeln!(text, "    {ports}{only} {way} {}", peers.join(", "));
            } else {
                let shown = peers.get(..PEERS).unwrap_or_default().join(", ");
                let _ = writeln!(text, "    {ports}{only} {way} {shown} and {rest} more (-o wide)");
            }
        }
        text.push('\n');
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
            (None, "nodes") if self.wide || group.members.len() < group.whole => {
                format!("nodes {}", members())
            }
            (None, "nodes") => "nodes".to_owned(),
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
fn own(difference: &Difference) -> &Group {
    if difference.direction == "egress" { &difference.source } else { &difference.destination }
}

fn peer(difference: &Difference) -> &Group {
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
