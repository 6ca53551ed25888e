//! The name server's side: tells this node's agent what it is about to say, and lets the answers go.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sheetbend_dns::{Responder, Told};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, info};

use super::wire::{Answer, FromAgent};

/// Between two looks for an agent.
const LOOK: Duration = Duration::from_secs(1);
/// What was said while no agent was there is kept for it, so many answers at most.
const MISSED: usize = 1_024;

/// Tells whoever listens at `socket`, for as long as the process lives. Without an agent answers leave at once, and it is
/// told of them when it is back: what its pods asked for meanwhile is closed to them until then.
pub(crate) async fn run(socket: PathBuf, responder: Arc<Responder>) {
    let Some(mut told) = responder.told() else { return };
    let mut missed: VecDeque<(Answer, Instant)> = VecDeque::new();
    loop {
        if let Ok(stream) = UnixStream::connect(&socket).await {
            info!(socket = %socket.display(), "telling the agent of names that policies ask about");
            let mut waiting = BTreeMap::new();
            let ended = converse(stream, &responder, &mut told, &mut missed, &mut waiting).await;
            debug!(?ended, "the agent has gone");
            for (answer, at, _heard) in waiting.into_values() {
                miss(&mut missed, answer, at);
            }
        }
        // The agent is gone or there never was one: the names that were asked about still are.
        let wait = tokio::time::sleep(LOOK);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                () = &mut wait => break,
                next = told.recv() => match next {
                    Some(next) => {
                        miss(&mut missed, read(&next, 0), Instant::now());
                    }
                    None => return,
                },
            }
        }
    }
}

fn miss(missed: &mut VecDeque<(Answer, Instant)>, answer: Answer, at: Instant) {
    if missed.len() == MISSED {
        missed.pop_front();
    }
    missed.push_back((answer, at));
}

fn read(told: &Told, number: u64) -> Answer {
    Answer { number, names: told.names.clone(), addresses: told.addresses.clone(), ttl: told.ttl }
}

/// An answer that the agent has been told of, when, and who waits for it. An agent that cannot write the kernel says nothing
/// of them, so that no more than [`MISSED`] are kept.
type Waiting = BTreeMap<u64, (Answer, Instant, oneshot::Sender<()>)>;

/// Until the agent ends; what it has not heard then is in `waiting`.
async fn converse(
    mut stream: UnixStream,
    responder: &Responder,
    told: &mut mpsc::Receiver<Told>,
    missed: &mut VecDeque<(Answer, Instant)>,
    waiting: &mut Waiting,
) -> anyhow::Result<()> {
    let (from, mut to) = stream.split();
    let mut lines = BufReader::new(from).lines();
    let mut number = 0_u64;
    while let Some((answer, at)) = missed.pop_front() {
        let age = u32::try_from(at.elapsed().as_secs()).unwrap_or(u32::MAX);
        let ttl = answer.ttl.saturating_sub(age);
        // Nobody waits for these.
        send(&mut to, &Answer { number: 0, ttl, ..answer }).await?;
    }
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                match serde_json::from_str(&line)? {
                    FromAgent::Patterns(patterns) => responder.tell_of(patterns),
                    FromAgent::Done(number) => {
                        if let Some((_, _, heard)) = waiting.remove(&number) {
                            // Who waited may have given up.
                            let _ = heard.send(());
                        }
                    }
                }
            }
            Some(next) = told.recv() => {
                number += 1;
                let answer = read(&next, number);
                waiting.insert(number, (answer.clone(), Instant::now(), next.heard));
                if waiting.len() > MISSED {
                    waiting.pop_first();
                }
                send(&mut to, &answer).await?;
            }
        }
    }
}

async fn send(to: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    Ok(())
}
