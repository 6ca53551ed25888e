//! TCP, UDP and HTTP load from inside one pod, which counts everything that goes wrong.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::pods::Place;

const HTTP: u16 = 8080;
const UDP: u16 = 8081;
/// Between two datagrams of a flow. The machine runs both nodes and their kubelets too: what makes its processes late
/// fills their sockets, and measures them instead of the network.
const DATAGRAM: Duration = Duration::from_millis(20);
/// Between two requests on a connection that stays, and of the connections to one address.
const STREAM: Duration = Duration::from_millis(100);
const STREAMS: usize = 4;
/// Between two requests with a connection each, to one address.
const REQUEST: Duration = Duration::from_millis(20);
/// A SYN that is lost comes again after a second: this is sooner, so that a lost one is not forgiven.
const CONNECT: Duration = Duration::from_millis(950);
const ANSWER: Duration = Duration::from_secs(10);

/// What happened under load.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) took: Duration,
    pub(super) datagrams: usize,
    /// Numbers without an answer.
    pub(super) missing: usize,
    pub(super) streams: usize,
    pub(super) answers: usize,
    /// Connections from before that broke, each with why.
    pub(super) broken: Vec<String>,
    pub(super) requests: usize,
    pub(super) failed: Vec<String>,
}

/// Load that runs until it is told to end.
pub(super) struct Load {
    began: Instant,
    end: Arc<AtomicBool>,
    datagrams: Vec<JoinHandle<Result<(usize, usize)>>>,
    streams: Vec<JoinHandle<(usize, Option<String>)>>,
    requests: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    /// Begins, from `place` to every address. Every stream is connected when this returns.
    pub(super) fn start(place: &Place, to: &[IpAddr]) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let mut load = Self {
            began: Instant::now(),
            end: Arc::clone(&end),
            datagrams: Vec::new(),
            streams: Vec::new(),
            requests: Vec::new(),
        };
        for ip in to {
            let http = SocketAddr::new(*ip, HTTP);
            let socket = place.run(|| {
                let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.connect(SocketAddr::new(*ip, UDP))?;
                Ok(socket)
            })?;
            let ended = Arc::clone(&end);
            load.datagrams.push(thread::spawn(move || datagrams(&socket, &ended)));
            for _ in 0..STREAMS {
                let stream = place.run(|| connect(http)).with_context(|| format!("a stream to {http}"))?;
                let ended = Arc::clone(&end);
                load.streams.push(thread::spawn(move || stay(stream, http, &ended)));
            }
            let (ended, place) = (Arc::clone(&end), place.try_clone()?);
            load.requests.push(thread::spawn(move || {
                let done = place.run(|| Ok(requests(http, &ended)));
                done.unwrap_or_else(|error| (0, vec![format!("{error:#}")]))
            }));
        }
        Ok(load)
    }

    /// Ends it, and counts.
    pub(super) fn end(self) -> Result<Outcome> {
        let died = |_| anyhow!("a thread of the load died");
        let mut outcome = Outcome { took: self.began.elapsed(), ..Outcome::default() };
        self.end.store(true, Ordering::Relaxed);
        for flow in self.datagrams {
            let (sent, missing) = flow.join().map_err(died)??;
            outcome.datagrams += sent;
            outcome.missing += missing;
        }
        for stream in self.streams {
            let (answers, broken) = stream.join().map_err(died)?;
            outcome.streams += 1;
            outcome.answers += answers;
            outcome.broken.extend(broken);
        }
        for requests in self.requests {
            let (answered, failed) = requests.join().map_err(died)?;
            outcome.requests += answered + failed.len();
            outcome.failed.extend(failed);
        }
        Ok(outcome)
    }
}

/// Numbered datagrams; (sent, without an answer two seconds after the last).
fn datagrams(socket: &UdpSocket, end: &AtomicBool) -> Result<(usize, usize)> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let receiver = socket.try_clone()?;
    let answers = thread::spawn(move || {
        let (mut seen, mut buffer) = (Vec::<usize>::new(), [0; 64]);
        while let Ok(size) = receiver.recv(&mut buffer) {
            let number =
                std::str::from_utf8(&buffer[..size]).ok().and_then(|text| text.trim().parse::<usize>().ok());
            seen.extend(number);
        }
        seen
    });
    let began = Instant::now();
    let mut sent = 0_usize;
    while !end.load(Ordering::Relaxed) {
        socket.send(format!("echo {sent}").as_bytes()).with_context(|| format!("datagram {sent}"))?;
        sent += 1;
        thread::sleep((DATAGRAM * u32::try_from(sent)?).saturating_sub(began.elapsed()));
    }
    let mut answered = vec![false; sent];
    for number in answers.join().map_err(|_| anyhow!("the receiver died"))? {
        *answered.get_mut(number).context("an answer to nothing")? = true;
    }
    Ok((sent, answered.iter().filter(|answered| !**answered).count()))
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, CONNECT)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks over one connection until told to end; why it broke, if it did.
fn stay(mut stream: TcpStream, to: SocketAddr, end: &AtomicBool) -> (usize, Option<String>) {
    let mut answers = 0;
    while !end.load(Ordering::Relaxed) {
        if let Err(error) = ask(&mut stream, to, true) {
            return (answers, Some(format!("stream to {to} after {answers} answers: {error:#}")));
        }
        answers += 1;
        thread::sleep(STREAM);
    }
    (answers, None)
}

/// One connection after another; (answered, why not).
fn requests(to: SocketAddr, end: &AtomicBool) -> (usize, Vec<String>) {
    let (mut answered, mut failed) = (0, Vec::new());
    while !end.load(Ordering::Relaxed) {
        let began = Instant::now();
        match connect(to).and_then(|mut stream| ask(&mut stream, to, false)) {
            Ok(()) => answered += 1,
            Err(error) => failed.push(format!("request to {to}: {error:#}")),
        }
        thread::sleep(REQUEST.saturating_sub(began.elapsed()));
    }
    (answered, failed)
}

/// One GET, and the whole of its answer.
fn ask(stream: &mut TcpStream, to: SocketAddr, keep: bool) -> Result<()> {
    let connection = if keep { "keep-alive" } else { "close" };
    write!(stream, "GET /echo?msg=sheet-bend HTTP/1.1\r\nHost: {to}\r\nConnection: {connection}\r\n\r\n")?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while !is_whole(&answer)? {
        let size = stream.read(&mut buffer)?;
        if size == 0 {
            bail!("closed after {} bytes", answer.len());
        }
        answer.extend_from_slice(&buffer[..size]);
    }
    ensure!(answer.ends_with(b"sheet-bend"), "another answer: {}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Whether head and body of an HTTP answer are there.
fn is_whole(answer: &[u8]) -> Result<bool> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let head = std::str::from_utf8(&answer[..end])?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{}", head.lines().next().unwrap_or_default());
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    let length: usize = length.context("no Content-Length")?.trim().parse()?;
    Ok(answer.len() >= end + 4 + length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::is_whole;

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..answer.len() {
            assert!(!is_whole(&answer[..end]).unwrap(), "{end}");
        }
        assert!(is_whole(answer).unwrap());
        assert!(is_whole(b"HTTP/1.1 503 Unavailable\r\n\r\n").is_err());
    }
}
