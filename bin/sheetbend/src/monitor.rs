//! `sheetbend monitor`: the first tool when something does not get through.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use sheetbend_model::events::{EventEnd, PacketEvent, PacketVerdict};
use sheetbend_shell::exit;

/// `sheetbend monitor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sheetbend monitor --drops                 every drop on this node, with the policy and rule that decided it
  sheetbend monitor --pod shop/web-0        one pod's drops and new flows
  sheetbend monitor --lab demo --drops      every node of a lab")]
pub(crate) struct Args {
    /// Only what this pod sends or receives (NAMESPACE/NAME).
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only drops and refusals, and what passed by audit alone.
    #[arg(long)]
    drops: bool,
    /// The agent's event socket; may be given several times.
    #[arg(long, value_name = "SOCKET", default_value = "/run/sheetbend/events.sock", conflicts_with = "lab")]
    socket: Vec<PathBuf>,
    /// Every node of this lab instead.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    lab: Option<String>,
    /// One JSON object per line.
    #[arg(short, long, value_name = "FORM", value_parser = ["text", "json"], default_value = "text")]
    output: String,
    /// End after so many events.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
}

/// Prints events until interrupted.
pub(crate) fn run(args: &Args) -> ExitCode {
    let sockets = match &args.lab {
        None => args.socket.clone(),
        Some(name) => match crate::lab::event_sockets((!name.is_empty()).then_some(name.as_str())) {
            Ok(sockets) => sockets,
            Err(error) => {
                eprintln!("sheetbend monitor: {error:#}");
                return ExitCode::from(exit::NO_LAB);
            }
        },
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sheetbend monitor: no runtime: {error}");
            return ExitCode::from(exit::INTERNAL);
        }
    };
    runtime.block_on(stream(args, &sockets))
}

async fn stream(args: &Args, sockets: &[PathBuf]) -> ExitCode {
    let (sender, mut events) = tokio::sync::mpsc::channel(1024);
    for socket in sockets {
        let subscription = match sheetbend_observe::subscribe(socket).await {
            Ok(subscription) => subscription,
            Err(error) => {
                eprintln!(
                    "sheetbend monitor: no agent answers at {}: {error}; is it running, and is this its node?",
                    socket.display()
                );
                return ExitCode::from(exit::NO_OBJECT);
            }
        };
        tokio::spawn(forward(subscription, sender.clone()));
    }
    drop(sender);
    let mut printed = 0;
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = tokio::signal::ctrl_c() => return ExitCode::from(exit::INTERRUPTED),
        };
        let Some(event) = event else { return ExitCode::SUCCESS };
        if !wanted(args, &event) {
            continue;
        }
        if print(args, &event).is_err() {
            return ExitCode::SUCCESS; // the reader of our output has gone
        }
        printed += 1;
        if args.count == Some(printed) {
            return ExitCode::SUCCESS;
        }
    }
}

fn wanted(args: &Args, event: &PacketEvent) -> bool {
    let is = |end: &EventEnd| end.name.as_deref() == args.pod.as_deref();
    (!args.drops || event.verdict != PacketVerdict::Forwarded)
        && (args.pod.is_none() || is(&event.source) || is(&event.destination))
}

fn print(args: &Args, event: &PacketEvent) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.output == "json" {
        let line = serde_json::to_string(event).map_err(std::io::Error::other)?;
        return writeln!(out, "{line}");
    }
    let colour = std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal();
    writeln!(out, "{}", line(event, colour))
}

/// One event as a line for people.
pub(crate) fn line(event: &PacketEvent, colour: bool) -> String {
    let (word, code) = match event.verdict {
        PacketVerdict::Forwarded => ("forwarded", "32"),
        PacketVerdict::Audited => ("audited", "33"),
        PacketVerdict::Dropped => ("dropped", "31"),
        PacketVerdict::Refused => ("refused", "33"),
    };
    let verdict = if colour { format!("\x1b[{code}m{word:<9}\x1b[0m") } else { format!("{word:<9}") };
    let via = event.frontend.as_ref().map(|f| format!(" via {}", end(f))).unwrap_or_default();
    let why = match &event.decided_by {
        Some(by) => match by.rule {
            Some(rule) => format!(" by {} {}[{rule}]", by.policy, by.direction),
            None => {
                let policies: Vec<String> = by.selected_by.iter().map(ToString::to_string).collect();
                format!(" by default deny of {} ({})", policies.join(", "), by.direction)
            }
        },
        None => String::new(),
    };
    format!(
        "{} {} {verdict} {} {} → {}{via} {}{why}",
        event.node,
        event.hook,
        event.protocol,
        end(&event.source),
        end(&event.destination),
        event.reason
    )
}

fn end(end: &EventEnd) -> String {
    let address = match (end.address, end.port) {
        (address, 0) => address.to_string(),
        (std::net::IpAddr::V4(address), port) => format!("{address}:{port}"),
        (std::net::IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    };
    match &end.name {
        Some(name) => format!("{name} ({address})"),
        None => address,
    }
}

async fn forward(
    mut subscription: sheetbend_observe::Subscription,
    sender: tokio::sync::mpsc::Sender<PacketEvent>,
) {
    while let Some(event) = subscription.next().await {
        if sender.send(event).await.is_err() {
            return;
        }
    }
}
