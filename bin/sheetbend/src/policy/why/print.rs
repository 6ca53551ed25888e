//! The explanation for people.

use std::io::{Result, Write};

use super::group::{end, groups, short, subject};
use super::wire::{Path, Policy, Rule, Side, Why};

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const DIM: &str = "2";

/// Writes to a terminal in colours, to anything else without.
pub(super) struct Printer<'a> {
    pub(super) out: &'a mut dyn Write,
    pub(super) colour: bool,
}

impl Printer<'_> {
    /// All of it.
    pub(super) fn why(&mut self, why: &Why) -> Result<()> {
        let (word, code) = match why.verdict.as_str() {
            "allow" => ("ALLOWED", GREEN),
            "deny" => ("DENIED", RED),
            "mixed" => ("MIXED: some paths are allowed, some denied", YELLOW),
            _ => ("REFUSED: nobody answers at this Service", RED),
        };
        let word = self.paint(word, code);
        writeln!(self.out, "{} → {}: {word}", why.source, why.destination)?;
        for note in &why.notes {
            writeln!(self.out, "  note: {note}")?;
        }
        for group in groups(&why.paths) {
            self.path(group.first)?;
            if !group.others.is_empty() {
                writeln!(self.out, "  the same for:")?;
                for other in &group.others {
                    writeln!(self.out, "    {}", short(group.first, other))?;
                }
            }
        }
        Ok(())
    }

    fn path(&mut self, path: &Path) -> Result<()> {
        let Path { protocol, .. } = path;
        let carries = path.port.map_or(protocol.clone(), |port| format!("{port}/{protocol}"));
        let word = if path.verdict == "allow" { ("allowed", GREEN) } else { ("DENIED", RED) };
        let word = self.paint(word.0, word.1);
        let behind = path.service.as_ref().map(|name| format!(", behind Service {name}")).unwrap_or_default();
        writeln!(
            self.out,
            "\n{} → {}, {carries}{behind}: {word}",
            end(&path.source),
            end(&path.destination)
        )?;
        for side in [&path.egress, &path.ingress] {
            self.side(path, side)?;
        }
        Ok(())
    }

    fn side(&mut self, path: &Path, side: &Side) -> Result<()> {
        let who = subject(path, side);
        let who = who.pod.clone().unwrap_or_else(|| end(who));
        let code = match side.verdict.as_str() {
            _ if side.audited => YELLOW,
            "allow" => GREEN,
            _ => RED,
        };
        let message = self.paint(&side.message, code);
        writeln!(self.out, "  {} of {who}: {message}", side.direction)?;
        for policy in &side.consulted {
            self.policy(side, policy)?;
        }
        if let Some(nearest) = &side.nearest {
            writeln!(
                self.out,
                "    nearest: {} {}[{}] would allow it, but for",
                nearest.policy, side.direction, nearest.rule
            )?;
            for miss in &nearest.misses {
                let message = self.paint(&miss.message, YELLOW);
                writeln!(self.out, "      {message}")?;
            }
        } else if side.outcome == "default" && (side.verdict == "deny" || side.audited) {
            writeln!(self.out, "    no rule of these could ever allow it: they have none that allows")?;
        }
        Ok(())
    }

    fn policy(&mut self, side: &Side, policy: &Policy) -> Result<()> {
        writeln!(self.out, "    {}", heading(policy))?;
        if policy.rules.is_empty() {
            writeln!(self.out, "      no rules for {}: it allows nothing", side.direction)?;
        }
        for rule in &policy.rules {
            let (line, code) = rule_line(&side.direction, policy, rule);
            let line = self.paint(&line, code);
            writeln!(self.out, "      {line}")?;
            for miss in &rule.misses {
                writeln!(self.out, "        {}", miss.message)?;
            }
        }
        Ok(())
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.colour && !code.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// `NetworkPolicy shop/web`, `ClusterNetworkPolicy red-apart (tier Admin, priority 20)`.
pub(super) fn heading(policy: &Policy) -> String {
    let Policy { kind, name, .. } = policy;
    match (kind.as_str(), &policy.tier, policy.priority) {
        ("TrafficTier", ..) => format!("{kind} {name}, at its end"),
        ("TrafficPolicy", _, Some(order)) => format!("{kind} {name} (order {order})"),
        ("ClusterTrafficPolicy", Some(tier), Some(order)) => {
            format!("{kind} {name} (tier {tier}, order {order})")
        }
        (_, Some(tier), Some(priority)) => format!("{kind} {name} (tier {tier}, priority {priority})"),
        _ => format!("{kind} {name}"),
    }
}

/// A rule in a line, and its colour.
pub(super) fn rule_line(direction: &str, policy: &Policy, rule: &Rule) -> (String, &'static str) {
    let name = if rule.name.is_empty() { String::new() } else { format!(" ({})", rule.name) };
    let action = if policy.tier.is_some() { format!("{} ", rule.action) } else { String::new() };
    let (word, code) = match (rule.effect.as_str(), rule.action.as_str()) {
        ("decides", "Deny") => ("DECIDES: denied", RED),
        ("decides", _) => ("DECIDES: allowed", GREEN),
        ("matches", _) => ("matches too", GREEN),
        ("passes", _) => ("matches, and skips the rest of its tier", YELLOW),
        ("not_asked", _) => ("not asked", DIM),
        _ => ("does not match", ""),
    };
    (format!("{direction}[{}]{name} {action}{}: {word}", rule.rule, rule.text), code)
}
