//! The supervisor's ear: `control.sock`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;

use super::lab::Lab;
use crate::lab::command::NodeAction;
use crate::lab::failure::{Failure, NO_OBJECT, Outcome, USAGE};
use crate::lab::wire::{LabStatus, Reply, Request};

/// Answers until the process ends.
pub(super) fn serve(lab: &Arc<Lab>, listener: UnixListener) {
    let lab = lab.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lab = lab.clone();
            std::thread::spawn(move || {
                // A client that left needs no answer.
                let _ = converse(&lab, stream);
            });
        }
    });
}

fn converse(lab: &Arc<Lab>, mut stream: UnixStream) -> anyhow::Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line).context("not a request")?;
    lab.journal.detail(&format!("asked: {}", line.trim()));
    let down = request == Request::Down;
    let outcome = carry_out(lab, request, &mut stream);
    let reply = match outcome {
        Ok(status) => Reply::Done { status: Box::new(status) },
        Err(Failure { code, error }) => Reply::Failed { code, message: format!("{error:#}") },
    };
    let sent = say(&mut stream, &reply);
    if down {
        lab.end();
    }
    sent
}

fn carry_out(lab: &Arc<Lab>, request: Request, stream: &mut UnixStream) -> Outcome<LabStatus> {
    match request {
        Request::Watch => watch(lab, stream)?,
        Request::Reload { grace_period } => lab.reload(grace_period.map(Duration::from_secs))?,
        Request::Node { node, action } => act(lab, &node, action)?,
        Request::Status | Request::Down => {}
    }
    Ok(lab.status())
}

/// Passes the journal on until the lab is up or has failed.
fn watch(lab: &Arc<Lab>, stream: &mut UnixStream) -> Outcome {
    let journal = lab.journal.watch();
    loop {
        if let Some(result) = lab.result() {
            return result.map_err(|(code, message)| Failure::new(code, message));
        }
        if let Ok(text) = journal.recv_timeout(Duration::from_millis(20)) {
            say(stream, &Reply::Progress { text })?;
        }
    }
}

fn act(lab: &Lab, name: &str, action: NodeAction) -> Outcome {
    let Some(node) = lab.nodes().iter().find(|node| node.name == name) else {
        let known: Vec<&str> = lab.nodes().iter().map(|node| node.name.as_str()).collect();
        return Err(Failure::new(NO_OBJECT, format!("no node {name:?}; the lab has {}", known.join(", "))));
    };
    let done = match action {
        NodeAction::Stop => node.stop(Signal::SIGTERM),
        NodeAction::Kill => node.stop(Signal::SIGKILL),
        NodeAction::Start => node.start().and_then(|()| node.wait_ready()),
    };
    done.map_err(|error| Failure { code: USAGE, error })
}

fn say(stream: &mut UnixStream, reply: &Reply) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    Ok(stream.write_all(&line)?)
}
