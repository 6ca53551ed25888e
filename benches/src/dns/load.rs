//! Queries: as many as are answered, or at a pace. Every answer is checked.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::servers::{address, label};
use crate::netns::Netns;

/// Sockets, each with a port of its own, so that SO_REUSEPORT spreads them.
const SOCKETS: usize = 16;
/// Queries under way on each.
const WINDOW: usize = 8;
const SERVER: &str = "127.0.0.1:53";
/// How long an answer may take before the run is void.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks for random ones of some Services.
pub(crate) struct Client {
    sockets: Vec<UdpSocket>,
    services: u32,
    random: u64,
}

impl Client {
    /// Sockets inside `netns`.
    pub(crate) fn open(netns: &Netns, services: u32) -> anyhow::Result<Self> {
        let sockets = netns.enter(|| -> std::io::Result<Vec<UdpSocket>> {
            (0..SOCKETS)
                .map(|_| {
                    let socket = UdpSocket::bind("127.0.0.1:0")?;
                    socket.connect(SERVER)?;
                    socket.set_read_timeout(Some(PATIENCE))?;
                    Ok(socket)
                })
                .collect()
        })??;
        Ok(Self { sockets, services, random: 0x5b5b_5b5b })
    }

    /// Answers per second, with [`WINDOW`] queries under way on each socket.
    pub(crate) fn rate(&mut self, duration: Duration) -> anyhow::Result<f64> {
        let start = Instant::now();
        let mut under_way: Vec<Vec<(u16, u32)>> = vec![Vec::new(); self.sockets.len()];
        let (mut done, mut id) = (0u32, 0u16);
        loop {
            let over = start.elapsed() >= duration;
            for (socket, waiting) in self.sockets.iter().zip(&mut under_way) {
                while !over && waiting.len() < WINDOW {
                    let service = draw(&mut self.random, self.services);
                    id = id.wrapping_add(1);
                    socket.send(&query(id, service))?;
                    waiting.push((id, service));
                }
            }
            if under_way.iter().all(Vec::is_empty) {
                return Ok(f64::from(done) / start.elapsed().as_secs_f64());
            }
            for (socket, waiting) in self.sockets.iter().zip(&mut under_way) {
                // Half of the window, so that the server always has something to do.
                for _ in 0..waiting.len().div_ceil(2) {
                    take(socket, waiting)?;
                    done += 1;
                }
            }
        }
    }

    /// Times from query to answer at `rate` queries per second, one socket after the other. Milliseconds.
    pub(crate) fn latencies(&mut self, rate: f64, duration: Duration) -> anyhow::Result<Vec<f64>> {
        let start = Instant::now();
        let mut times = Vec::new();
        while start.elapsed() < duration {
            let due = start + Duration::from_secs_f64(times.len() as f64 / rate);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let service = draw(&mut self.random, self.services);
            let (id, socket) = (times.len() as u16, &self.sockets[times.len() % SOCKETS]);
            let sent = Instant::now();
            socket.send(&query(id, service))?;
            take(socket, &mut vec![(id, service)])?;
            times.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        Ok(times)
    }
}

/// xorshift64: the order is the same for all servers.
fn draw(random: &mut u64, services: u32) -> u32 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (*random % u64::from(services)) as u32
}

/// Whether somebody answers for Service 0.
pub(crate) fn answers(netns: &Netns) -> anyhow::Result<bool> {
    netns.enter(|| -> anyhow::Result<bool> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(SERVER)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let _refused = socket.send(&query(1, 0));
        Ok(take(&socket, &mut vec![(1, 0)]).is_ok())
    })?
}

/// Takes an answer off `socket` and what it answers off `waiting`.
fn take(socket: &UdpSocket, waiting: &mut Vec<(u16, u32)>) -> anyhow::Result<()> {
    let mut buffer = [0; 1500];
    let len = socket.recv(&mut buffer).context("no answer")?;
    let answer = &buffer[..len];
    let id = u16::from_be_bytes([answer[0], answer[1]]);
    let place = waiting.iter().position(|(other, _)| *other == id).context("an answer to nothing")?;
    let (_, service) = waiting.swap_remove(place);
    // NOERROR, one answer; its address ends the answer section, which starts behind the question.
    let wanted = address(service).octets();
    if len < 12 || answer[3] & 0x0f != 0 || answer[7] == 0 || !answer.windows(4).any(|bytes| bytes == wanted)
    {
        bail!("a wrong answer for {}", label(service));
    }
    Ok(())
}

/// `<service>.bench.svc.cluster.local A` (RFC 1035 §4).
fn query(id: u16, service: u32) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [label(service).as_str(), "bench", "svc", "cluster", "local", ""] {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 1, 0, 1]);
    bytes
}
