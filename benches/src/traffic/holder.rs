//! Processes that hold thousands of connections: this program again, one for each pod, for a process has 20,000 files at
//! most.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::netns::Netns;
use crate::sandbox::INSIDE;

/// Set in a process that holds connections: the port at which it answers, or address, port and number of connections to open.
const ROLE: &str = "SHEETBEND_BENCH_HOLDER";
/// Handshakes of one process under way at once.
const AT_ONCE: usize = 256;
/// How long a connection, or an answer on one, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that holds connections, or answers them. It ends with this value.
pub(crate) struct Holder {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Holder {
    /// Answers every byte at `port` of `server` with its complement.
    pub(crate) fn answer(server: &Netns, port: u16) -> anyhow::Result<Self> {
        let (holder, _) = Self::start(server, &port.to_string())?;
        Ok(holder)
    }

    /// Opens `count` connections from `client` to `to`, and keeps them. Returns how many could not be opened too.
    pub(crate) fn open(client: &Netns, to: SocketAddr, count: usize) -> anyhow::Result<(Self, usize)> {
        Self::start(client, &format!("{to} {count}"))
    }

    fn start(netns: &Netns, role: &str) -> anyhow::Result<(Self, usize)> {
        let mut command = Command::new("/proc/self/exe");
        command.env(INSIDE, "1").env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = netns.enter(|| command.spawn())?.context("starting a process for connections")?;
        let answers = BufReader::new(process.stdout.take().context("its output")?);
        let orders = process.stdin.take();
        let mut holder = Self { process, orders, answers };
        let failed = holder.number()?;
        Ok((holder, failed))
    }

    /// Sends a byte on every connection; how many do not answer.
    pub(crate) fn dead(&mut self) -> anyhow::Result<usize> {
        self.orders.as_mut().context("its input")?.write_all(b"\n")?;
        self.number()
    }

    fn number(&mut self) -> anyhow::Result<usize> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("a process for connections ended: {line:?}"))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        drop(self.orders.take());
        let _status = self.process.wait();
    }
}

/// If this process is one that holds connections: does so, until its input ends.
pub(crate) fn run() -> Option<anyhow::Result<ExitCode>> {
    let role = std::env::var(ROLE).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Some(runtime.map_err(Into::into).and_then(|runtime| {
        runtime.block_on(play(&role))?;
        Ok(ExitCode::SUCCESS)
    }))
}

async fn play(role: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        [port] => answer(port.parse()?).await,
        [to, count] => hold(to.parse()?, count.parse()?).await,
        _ => bail!("{ROLE}={role}"),
    }
}

async fn answer(port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    say(0)?;
    let accepting = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(byte) = stream.read_u8().await {
                    if stream.write_u8(!byte).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    // Until the input ends.
    let mut orders = orders();
    while orders.recv().await.is_some() {}
    accepting.abort();
    Ok(())
}

async fn hold(to: SocketAddr, count: usize) -> anyhow::Result<()> {
    let mut held = Vec::with_capacity(count);
    let mut under_way = JoinSet::new();
    for _ in 0..count {
        if under_way.len() >= AT_ONCE {
            held.extend(opened(under_way.join_next().await));
        }
        under_way.spawn(async move { timeout(PATIENCE, TcpStream::connect(to)).await });
    }
    while let Some(done) = under_way.join_next().await {
        held.extend(opened(Some(done)));
    }
    say(count - held.len())?;
    let mut orders = orders();
    while orders.recv().await.is_some() {
        let mut dead = count - held.len();
        for stream in &mut held {
            dead += usize::from(!matches!(timeout(PATIENCE, ask(stream)).await, Ok(Ok(()))));
        }
        say(dead)?;
    }
    Ok(())
}

/// The lines of this process' input, as they come.
fn orders() -> mpsc::UnboundedReceiver<()> {
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || sender.send(()).is_err() {
                break;
            }
        }
    });
    orders
}

type Attempt = Result<std::io::Result<TcpStream>, tokio::time::error::Elapsed>;

fn opened(done: Option<Result<Attempt, tokio::task::JoinError>>) -> Option<TcpStream> {
    done?.ok()?.ok()?.ok()
}

async fn ask(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_u8(0x5b).await?;
    let answer = stream.read_u8().await?;
    ensure!(answer == !0x5b, "expected {}, got {answer}", !0x5bu8);
    Ok(())
}

fn say(number: usize) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{number}")?;
    Ok(out.flush()?)
}
