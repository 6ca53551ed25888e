//! `sheetbend policy why`: the verdict on a packet, and the rules that lead to it.

mod document;
mod group;
mod picture;
mod print;
mod resolve;
mod target;
mod unserved;
pub(crate) mod wire;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::ValueEnum;
use sheetbend_compile::resolved;
use sheetbend_shell::exit;

pub(crate) use document::explain;
pub(crate) use target::{Destination, Target, protocol_of};
use wire::Why;

use super::offline;
use crate::ask::{Answer, Failure, Whom, ask};

/// `sheetbend policy why`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who sends: NAMESPACE/NAME of a pod, node/NAME, an address, or world.
    #[arg(value_name = "SRC")]
    source: Target,
    /// Who receives: as SRC, or svc/NAMESPACE/NAME; IPv6 addresses in brackets. PORT is a number, or the name that it
    /// has on the pod or Service. PROTO is TCP (default), UDP, SCTP or ICMP, which has no port: DST/ICMP.
    #[arg(value_name = "DST:PORT[/PROTO]")]
    destination: Destination,
    /// Ask these manifests instead of an agent: a file or a directory; may be given several times.
    #[arg(short = 'f', long = "filename", value_name = "PATH", conflicts_with_all = ["socket", "lab"])]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    whom: Whom,
    /// Form of the answer.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// End with 1 if the verdict is another.
    #[arg(long, value_name = "VERDICT", value_enum)]
    expect: Option<Verdict>,
}

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Each policy and rule, for people.
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// A picture in Graphviz' language.
    Dot,
    /// A picture.
    Svg,
}

/// `--expect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verdict {
    /// Every path is allowed.
    Allow,
    /// Every path is denied.
    Deny,
}

/// Explains, and says how the command ends.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let why = if args.filename.is_empty() { live(args)? } else { from_files(args)? };
    let own_fault = |error: &dyn std::fmt::Display| (exit::INTERNAL, error.to_string());
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&why).map_err(|error| own_fault(&error))? + "\n",
        Output::Yaml => serde_saphyr::to_string(&why).map_err(|error| own_fault(&error))?,
        Output::Dot => picture::dot(&why),
        Output::Svg => picture::svg(&why),
        Output::Text => {
            let colour = std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal();
            let mut text = Vec::new();
            let written = print::Printer { out: &mut text, colour }.why(&why);
            written.map_err(|error| own_fault(&error))?;
            String::from_utf8_lossy(&text).into_owned()
        }
    };
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // The reader of our output has gone.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.map_err(|error| own_fault(&error))?,
    }
    if !why.paths.iter().all(|path| path.egress.agrees && path.ingress.agrees) {
        let text = "the policies, read one by one, do not come to the verdict of the tables; the verdict is what holds, \
                    the rules above are not: please report this with the output";
        return Err((exit::INTERNAL, text.to_owned()));
    }
    let matches = match args.expect {
        None => true,
        Some(Verdict::Allow) => why.verdict == "allow",
        Some(Verdict::Deny) => why.verdict == "deny",
    };
    Ok(if matches { exit::OK } else { exit::MISMATCH })
}

fn from_files(args: &Args) -> Result<Why, Failure> {
    let offline = offline::read(&args.filename)?;
    let ranges: Vec<_> =
        offline.snapshot.service_cidrs.values().flat_map(|of| of.cidrs.iter().copied()).collect();
    let snapshot = resolved(&offline.snapshot);
    let mut why = explain(&snapshot, &ranges, &args.source, &args.destination)?;
    why.notes.extend(offline.notes);
    Ok(why)
}

fn live(args: &Args) -> Result<Why, Failure> {
    let Destination { target, port, protocol } = &args.destination;
    let mut document = format!("/policy/why?source={}&destination={target}", args.source);
    if let Some(port) = port {
        document += &format!("&port={port}");
    }
    document += &protocol.map_or("&protocol=ICMP".to_owned(), |protocol| format!("&protocol={protocol}"));
    // Every agent knows all pods, and that of the sender's node the domain names too that it was told of.
    let (mut refused, mut first): (_, Option<Why>) = (None, None);
    for answer in ask::<Reply>(&args.whom, &document)? {
        match answer {
            Answer::Found(Reply::Explained(why)) if why.at_source => return Ok(*why),
            Answer::Found(Reply::Explained(why)) => first = first.or(Some(*why)),
            Answer::Found(Reply::Refused(failure)) => refused = Some(failure),
            Answer::Unknown(_) | Answer::Error(_) => {}
        }
    }
    first.ok_or_else(|| refused.unwrap_or((exit::NO_OBJECT, "no agent answers".to_owned())))
}

/// What an agent answers.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    /// The explanation.
    Explained(Box<Why>),
    /// An exit code and why there is none.
    Refused(Failure),
}
