//! The explanation as a picture: Graphviz' language, or SVG drawn here.

use std::fmt::Write as _;

use super::group::{Group, end, groups, short, subject};
use super::print::{heading, rule_line};
use super::wire::{Path, Side, Why};

/// So many characters a line has before it goes on in the next.
const WIDTH: usize = 96;
/// Width of a character and height of a line, pixels, at this size of a monospaced font.
const FONT: (f64, f64, u32) = (7.3, 16.0, 12);
const MARGIN: f64 = 12.0;
const GAP: f64 = 34.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Dim,
    Good,
    Bad,
    Odd,
}

impl Tone {
    fn colour(self) -> &'static str {
        match self {
            Tone::Plain => "#24292f",
            Tone::Dim => "#8c959f",
            Tone::Good => "#1a7f37",
            Tone::Bad => "#cf222e",
            Tone::Odd => "#9a6700",
        }
    }

    fn of(allows: bool) -> Self {
        if allows { Tone::Good } else { Tone::Bad }
    }
}

/// A box with text, and whether packets leave it.
struct Card {
    tone: Tone,
    lines: Vec<(Tone, String)>,
    passes: bool,
}

impl Card {
    fn new(tone: Tone, title: &str, passes: bool) -> Self {
        let mut card = Self { tone, lines: Vec::new(), passes };
        card.add(tone, 0, title);
        card
    }

    fn add(&mut self, tone: Tone, indent: usize, text: &str) {
        let (mut line, mut indent_now) = (String::new(), indent);
        for word in text.split(' ') {
            if !line.is_empty() && indent_now + line.chars().count() + 1 + word.chars().count() > WIDTH {
                self.lines.push((tone, format!("{}{line}", " ".repeat(indent_now))));
                (line, indent_now) = (String::new(), indent + 4);
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.lines.push((tone, format!("{}{line}", " ".repeat(indent_now))));
    }
}

/// Sender, egress, ingress, receiver.
fn cards(group: &Group<'_>) -> Vec<Card> {
    let path = group.first;
    let mut source = Card::new(Tone::Plain, &end(&path.source), true);
    for other in &group.others {
        source.add(Tone::Dim, 2, &format!("the same: {}", short(path, other)));
    }
    let (egress, ingress) = (side(path, &path.egress), side(path, &path.ingress));
    let carries = path.port.map_or(path.protocol.clone(), |port| format!("{port}/{}", path.protocol));
    let mut receiver = Card::new(Tone::Plain, &format!("{}, {carries}", end(&path.destination)), true);
    if let Some(service) = &path.service {
        receiver.add(Tone::Dim, 2, &format!("behind Service {service}"));
    }
    vec![source, egress, ingress, receiver]
}

fn side(path: &Path, side: &Side) -> Card {
    let who = subject(path, side);
    let who = who.pod.clone().unwrap_or_else(|| end(who));
    let allows = side.verdict == "allow";
    let mut card =
        Card::new(Tone::of(allows), &format!("{} of {who}: {}", side.direction, side.message), allows);
    for policy in &side.consulted {
        card.add(Tone::Plain, 2, &heading(policy));
        if policy.rules.is_empty() {
            card.add(Tone::Plain, 4, &format!("no rules for {}: it allows nothing", side.direction));
        }
        for rule in &policy.rules {
            let tone = match (rule.effect.as_str(), rule.action.as_str()) {
                ("decides", "Deny") => Tone::Bad,
                ("decides" | "matches", _) => Tone::Good,
                ("passes", _) => Tone::Odd,
                ("not_asked", _) => Tone::Dim,
                _ => Tone::Plain,
            };
            card.add(tone, 4, &rule_line(&side.direction, policy, rule).0);
        }
    }
    if let Some(nearest) = &side.nearest {
        let text = format!(
            "nearest: {} {}[{}] would allow it, but for",
            nearest.policy, side.direction, nearest.rule
        );
        card.add(Tone::Odd, 2, &text);
        nearest.misses.iter().for_each(|miss| card.add(Tone::Odd, 4, &miss.message));
    }
    card
}

/// Graphviz' language: `dot -Tpng`.
pub(super) fn dot(why: &Why) -> String {
    let mut out = String::new();
    let title = format!("{} → {}: {}", why.source, why.destination, why.verdict);
    // Writing to a String does not fail.
    let _ = writeln!(out, "digraph why {{\n  label={}; labelloc=t; fontname=monospace;", quoted(&title));
    let _ = writeln!(out, "  node [shape=box fontname=monospace fontsize=11];");
    for (number, group) in groups(&why.paths).iter().enumerate() {
        let cards = cards(group);
        for (index, card) in cards.iter().enumerate() {
            let text: String = card.lines.iter().map(|(_, line)| format!("{}\\l", escaped(line))).collect();
            let _ = writeln!(out, "  p{number}_{index} [label=\"{text}\" color=\"{}\"];", card.tone.colour());
        }
        let mut open = true;
        for (index, card) in cards.iter().take(cards.len() - 1).enumerate() {
            open &= card.passes;
            let style = if open { "solid" } else { "dashed" };
            let colour = Tone::of(open).colour();
            let next = index + 1;
            let _ =
                writeln!(out, "  p{number}_{index} -> p{number}_{next} [style={style} color=\"{colour}\"];");
        }
    }
    out.push_str("}\n");
    out
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// SVG 1.1, columns side by side.
pub(super) fn svg(why: &Why) -> String {
    let columns: Vec<Vec<Card>> = groups(&why.paths).iter().map(cards).collect();
    let width_of = |column: &Vec<Card>| {
        let longest = column.iter().flat_map(|card| &card.lines).map(|(_, line)| line.chars().count()).max();
        longest.unwrap_or(0) as f64 * FONT.0 + 2.0 * MARGIN
    };
    let height_of = |card: &Card| card.lines.len() as f64 * FONT.1 + MARGIN;
    let title = format!("{} → {}: {}", why.source, why.destination, why.verdict);
    let mut body = String::new();
    let (mut x, mut bottom) = (MARGIN, 0.0f64);
    for column in &columns {
        let (width, mut y, mut open) = (width_of(column), 3.0 * MARGIN + FONT.1, true);
        for (index, card) in column.iter().enumerate() {
            if index > 0 {
                arrow(&mut body, x + 40.0, y - GAP, open);
            }
            let height = height_of(card);
            boxed(&mut body, card, (x, y, width, height));
            open &= card.passes;
            y += height + GAP;
        }
        bottom = bottom.max(y - GAP);
        x += width + GAP;
    }
    let width = x.max(title.chars().count() as f64 * (FONT.0 + 1.3) + 2.0 * MARGIN);
    let height = bottom.max(3.0 * MARGIN) + MARGIN;
    let (size, colour) = (FONT.2, Tone::Plain.colour());
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"monospace\" font-size=\"{size}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"{:.0}\" font-size=\"14\" font-weight=\"bold\" fill=\"{colour}\">{}</text>\n{body}</svg>\n",
        MARGIN + FONT.1,
        markup(&title)
    )
}

fn boxed(body: &mut String, card: &Card, (x, y, width, height): (f64, f64, f64, f64)) {
    let _ = writeln!(
        body,
        "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"4\" fill=\"#f6f8fa\" stroke=\"{}\"/>",
        card.tone.colour()
    );
    for (number, (tone, line)) in card.lines.iter().enumerate() {
        let y = y + FONT.1 * (number as f64 + 1.0);
        let _ = writeln!(
            body,
            "<text x=\"{:.0}\" y=\"{y:.0}\" fill=\"{}\" xml:space=\"preserve\">{}</text>",
            x + MARGIN,
            tone.colour(),
            markup(line)
        );
    }
}

/// From one box to the next; broken where nothing passes any more.
fn arrow(body: &mut String, x: f64, y: f64, open: bool) {
    let (colour, dashes) =
        if open { (Tone::Good.colour(), "") } else { (Tone::Bad.colour(), " stroke-dasharray=\"4 4\"") };
    let (tip, end) = (y + GAP, y + GAP - 7.0);
    let _ = writeln!(
        body,
        "<line x1=\"{x:.0}\" y1=\"{y:.0}\" x2=\"{x:.0}\" y2=\"{end:.0}\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>\n\
         <polygon points=\"{:.0},{end:.0} {:.0},{end:.0} {x:.0},{tip:.0}\" fill=\"{colour}\"/>",
        x - 5.0,
        x + 5.0
    );
}

fn markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
