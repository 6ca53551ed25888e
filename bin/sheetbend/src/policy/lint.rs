//! `sheetbend policy lint`: what is wrong with policies.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sheetbend_compile::lint::{Level, lint};
use sheetbend_model::state::Snapshot;
use sheetbend_model::state::traffic::written_as;
use sheetbend_shell::exit;

use super::offline::{self, Places};
use crate::ask::{Answer, Failure, Whom, ask};

/// `sheetbend policy lint`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Look at these manifests instead of an agent's cluster: a file or a directory; may be given several times.
    #[arg(short = 'f', long = "filename", value_name = "PATH", conflicts_with_all = ["socket", "lab"])]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    whom: Whom,
    /// What is shown and ends with 1: this and what is worse.
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Least::Warning)]
    level: Least,
    /// Form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// `--level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Least {
    /// Of no harm; may be meant.
    Info,
    /// Probably not what was meant.
    Warning,
    /// Cannot be what was meant.
    Error,
}

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A line for each finding.
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// The document `/policy/lint`, and what `-o json` and `-o yaml` print.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    /// By policy.
    findings: Vec<Finding>,
}

/// One thing found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    /// `SBP001`.
    code: String,
    /// The same as a word.
    name: String,
    /// `info`, `warning` or `error`.
    level: String,
    /// NetworkPolicy, ClusterNetworkPolicy, ClusterTrafficPolicy or TrafficPolicy.
    kind: String,
    /// `namespace/name`, or the name.
    policy: String,
    /// `ingress` or `egress`, where it is a rule's.
    direction: Option<String>,
    /// Index of the rule, from 0.
    rule: Option<u32>,
    /// What, why, how to fix.
    message: String,
    /// File and line of the policy, where it comes from a file.
    place: Option<String>,
}

impl Findings {
    /// All that is found in `snapshot`.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        Self::placed(snapshot, &Places::default())
    }

    fn placed(snapshot: &Snapshot, places: &Places) -> Self {
        let findings = lint(snapshot).into_iter().map(|found| Finding {
            code: found.code.id().to_owned(),
            name: found.code.name().to_owned(),
            level: found.code.level().to_string(),
            kind: written_as(&found.policy).0.to_owned(),
            policy: written_as(&found.policy).1.to_string(),
            direction: found.rule.map(|(direction, _)| direction.to_string()),
            rule: found.rule.map(|(_, rule)| rule),
            message: found.message,
            place: places.get(&written_as(&found.policy)).cloned(),
        });
        Self { findings: findings.collect() }
    }

    fn keep(&mut self, least: Least) {
        let worst = match least {
            Least::Info => Level::Info,
            Least::Warning => Level::Warning,
            Least::Error => Level::Error,
        };
        let levels = [Level::Info, Level::Warning, Level::Error].into_iter().filter(|level| *level >= worst);
        let levels: Vec<String> = levels.map(|level| level.to_string()).collect();
        self.findings.retain(|finding| levels.contains(&finding.level));
    }
}

/// Prints what is found, and says how the command ends.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let mut found = if args.filename.is_empty() { live(args)? } else { from_files(args)? };
    let all = found.findings.len();
    found.keep(args.level);
    let own_fault = |error: &dyn std::fmt::Display| (exit::INTERNAL, error.to_string());
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&found).map_err(|error| own_fault(&error))? + "\n",
        Output::Yaml => serde_saphyr::to_string(&found).map_err(|error| own_fault(&error))?,
        Output::Text => {
            let colour = std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal();
            lines(&found, all, colour)
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader of our output has gone.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.map_err(|error| own_fault(&error))?,
    }
    Ok(if found.findings.is_empty() { exit::OK } else { exit::MISMATCH })
}

fn lines(found: &Findings, all: usize, colour: bool) -> String {
    let mut text = String::new();
    for finding in &found.findings {
        let Finding { code, name, level, kind, policy, direction, rule, message, place } = finding;
        let paint = match level.as_str() {
            "error" => "31",
            "warning" => "33",
            _ => "2",
        };
        let level = if colour { format!("\x1b[{paint}m{level}\x1b[0m") } else { level.clone() };
        let place = place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let at = match (direction, rule) {
            (Some(direction), Some(rule)) => format!(" {direction}[{rule}]"),
            _ => String::new(),
        };
        text += &format!("{place}{level} {code} ({name}): {kind} {policy}{at}: {message}\n");
    }
    let shown = found.findings.len();
    let below = all - shown;
    let more =
        if below > 0 { format!("; {below} of lesser level not shown (--level info)") } else { String::new() };
    text += &match shown {
        0 => format!("nothing found{more}\n"),
        1 => format!("1 finding{more}\n"),
        shown => format!("{shown} findings{more}\n"),
    };
    text
}

fn from_files(args: &Args) -> Result<Findings, Failure> {
    let offline = offline::read(&args.filename)?;
    offline.notes.iter().for_each(|note| eprintln!("note: {note}"));
    Ok(Findings::placed(&offline.snapshot, &offline.places))
}

fn live(args: &Args) -> Result<Findings, Failure> {
    // Every agent knows all policies; the first that answers is as good as another.
    let answers = ask::<Findings>(&args.whom, "/policy/lint")?;
    let found = answers.into_iter().find_map(|answer| match answer {
        Answer::Found(found) => Some(found),
        Answer::Unknown(_) | Answer::Error(_) => None,
    });
    found.ok_or((exit::NO_OBJECT, "no agent answers".to_owned()))
}
