//! `sheetbend policy diff`: what a change of policies opens and closes, before it is applied.

mod change;
mod document;
mod print;
mod replay;
mod wire;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use sheetbend_compile::diff::diff;
use sheetbend_intake::last_good;
use sheetbend_model::state::Snapshot;
use sheetbend_shell::exit;

use super::flows::RecordedFlow;
use super::offline;
use crate::ask::{Answer, Failure, Whom, ask};
use change::Deletion;

/// `sheetbend policy diff`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct Args {
    /// Manifests that would be applied: a file or a directory; may be given several times. Policies of every kind,
    /// TrafficTiers, NetworkSets, Tenants and Namespaces count, other kinds are named and left out.
    #[arg(short = 'f', long = "filename", value_name = "PATH", group = "change")]
    filename: Vec<PathBuf>,
    /// An object that would be deleted, after -f: KIND/NAMESPACE/NAME, or KIND/NAME; may be given several times.
    #[arg(long, value_name = "OBJECT", group = "change")]
    delete: Vec<Deletion>,
    /// As if the policies that are staged (annotation sheetbend.dev/enforcement) were enforced, those of -f too.
    #[arg(long, group = "change")]
    staged: bool,
    /// The cluster as these manifests describe it, instead of an agent's: a file or a directory; may be given several
    /// times.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["socket", "lab"])]
    objects: Vec<PathBuf>,
    #[command(flatten)]
    whom: Whom,
    /// Form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// How many ends of traffic are shown as text; 0 = all. JSON and YAML have all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// What closes and opens, by workload, for people.
    Text,
    /// The same with the names of all pods.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Compares, and says how the command ends.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let (before, mut notes) = if args.objects.is_empty() {
        (live(&args.whom)?, Vec::new())
    } else {
        let offline = offline::read(&args.objects)?;
        (offline.snapshot, offline.notes)
    };
    let after = change::changed(&before, &args.filename, &args.delete, &mut notes)?;
    let after = if args.staged { after.with_staged() } else { after };
    notes.extend(change::still_staged(&before, &after));
    let mut progress = Progress::begin();
    let found = diff(&before, &after, &mut |done, total| progress.tell(done, total));
    progress.end();
    let mut differences = document::differences(&after, &found, notes);
    if args.objects.is_empty() {
        let flows = recorded(&args.whom, &mut differences.notes);
        differences.flows = Some(replay::replay(&after, &found, &flows));
    }
    let own_fault = |error: &dyn std::fmt::Display| (exit::INTERNAL, error.to_string());
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&differences).map_err(|error| own_fault(&error))? + "\n",
        Output::Yaml => serde_saphyr::to_string(&differences).map_err(|error| own_fault(&error))?,
        Output::Text | Output::Wide => {
            let colour = std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal();
            let limit = if args.limit == 0 { usize::MAX } else { args.limit };
            print::Printer { colour, wide: args.output == Output::Wide, limit }.text(&differences)
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader of our output has gone.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.map_err(|error| own_fault(&error))?,
    }
    Ok(if differences.changes.is_empty() { exit::OK } else { exit::MISMATCH })
}

/// The cluster that an agent knows. Every agent knows all of it; the first that answers is as good as another.
fn live(whom: &Whom) -> Result<Snapshot, Failure> {
    for answer in ask::<String>(whom, "/snapshot")? {
        if let Answer::Found(text) = answer {
            let read = last_good::read_text(&text);
            return read.map_err(|error| (exit::INTERNAL, format!("what the agent knows: {error}")));
        }
    }
    Err((exit::NO_OBJECT, "no agent answers".to_owned()))
}

/// What all agents recorded. Without an answer there is nothing to replay, and the rest of the answer is as good.
fn recorded(whom: &Whom, notes: &mut Vec<String>) -> Vec<RecordedFlow> {
    let answers = ask::<Vec<RecordedFlow>>(whom, "/flows").unwrap_or_else(|(_, text)| {
        notes.push(format!("no flows are replayed: {text}"));
        Vec::new()
    });
    let found = answers.into_iter().filter_map(|answer| match answer {
        Answer::Found(flows) => Some(flows),
        Answer::Unknown(_) | Answer::Error(_) => None,
    });
    found.flatten().collect()
}

/// How far a comparison is, told to who waits longer than a second at a terminal.
struct Progress {
    told: Instant,
    shows: bool,
    shown: bool,
}

impl Progress {
    fn begin() -> Self {
        Self { told: Instant::now(), shows: std::io::stderr().is_terminal(), shown: false }
    }

    fn tell(&mut self, done: u64, total: u64) {
        if self.shows && self.told.elapsed() >= Duration::from_secs(1) {
            self.told = Instant::now();
            self.shown = true;
            eprint!("\rcompared {} % of {total} pairs", (done * 100).checked_div(total).unwrap_or(100));
        }
    }

    fn end(&self) {
        if self.shown {
            eprint!("\r{:60}\r", "");
        }
    }
}
