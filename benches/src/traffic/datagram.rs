//! UDP: one datagram and its answer, and a stream with a window.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{PATIENCE, port};

const BATCH: u32 = 64;
/// Datagrams under way before the receiver confirms; well within a default receive buffer of 208 KiB.
const WINDOW: u64 = 32;
/// Payload that fits every path measured, VXLAN over IPv6 included: 1,500 − 70 − 40 − 8, rounded down.
const PAYLOAD: usize = 1_368;

pub(crate) struct Client {
    socket: UdpSocket,
    next: u8,
}

impl Client {
    pub(super) fn open(server: IpAddr) -> anyhow::Result<Self> {
        Ok(Self { socket: connect(server, port::UDP_PINGPONG)?, next: 0 })
    }

    pub(super) fn rate(&mut self, duration: Duration) -> anyhow::Result<f64> {
        let start = Instant::now();
        let mut done = 0u32;
        while start.elapsed() < duration {
            for _ in 0..BATCH {
                self.next = self.next.wrapping_add(1);
                self.socket.send(&[self.next])?;
                let mut answer = [0];
                self.socket.recv(&mut answer).context("no answer")?;
                if answer[0] != !self.next {
                    bail!("sent {}, expected {}, got {}", self.next, !self.next, answer[0]);
                }
            }
            done += BATCH;
        }
        Ok(f64::from(done) / start.elapsed().as_secs_f64())
    }
}

pub(crate) struct StreamClient {
    socket: UdpSocket,
    next: u64,
}

impl StreamClient {
    pub(super) fn open(server: IpAddr) -> anyhow::Result<Self> {
        Ok(Self { socket: connect(server, port::UDP_STREAM)?, next: 0 })
    }

    pub(super) fn rate(&mut self, duration: Duration) -> anyhow::Result<f64> {
        let start = Instant::now();
        let first = self.next;
        let mut datagram = [0x5b; PAYLOAD];
        while start.elapsed() < duration {
            for _ in 0..WINDOW {
                datagram[..8].copy_from_slice(&self.next.to_be_bytes());
                self.socket.send(&datagram)?;
                self.next += 1;
            }
            let mut answer = [0; 8];
            self.socket.recv(&mut answer).context("a datagram was lost: no confirmation")?;
            if u64::from_be_bytes(answer) != self.next {
                bail!("sent up to {}, the receiver has {}", self.next, u64::from_be_bytes(answer));
            }
        }
        Ok(((self.next - first) * PAYLOAD as u64) as f64 / start.elapsed().as_secs_f64())
    }
}

fn connect(server: IpAddr, port: u16) -> anyhow::Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((server, port))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Answers each datagram with its complement.
pub(super) fn serve(socket: &UdpSocket) {
    let mut byte = [0];
    while let Ok((length, client)) = socket.recv_from(&mut byte) {
        if length == 1 && socket.send_to(&[!byte[0]], client).is_err() {
            return;
        }
    }
}

/// Confirms every window of each sender. A datagram missing or out of order stops the confirmations, so that the
/// sender's measurement fails.
pub(super) fn serve_stream(socket: &UdpSocket) {
    let mut datagram = [0; PAYLOAD];
    let mut expected: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    while let Ok((length, client)) = socket.recv_from(&mut datagram) {
        let Some(stamp) = datagram.first_chunk() else { continue };
        let number = expected.entry(client).or_default();
        if length != PAYLOAD || u64::from_be_bytes(*stamp) != *number {
            continue;
        }
        *number += 1;
        if number.is_multiple_of(WINDOW) && socket.send_to(&number.to_be_bytes(), client).is_err() {
            return;
        }
    }
}
