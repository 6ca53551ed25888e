//! Bytes one way, in blocks that carry their number; the receiver says how many came right.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{PATIENCE, fix_buffers, port};

const BLOCK: usize = 128 << 10;
/// A stamp lies at the start of every page of a block.
const PAGE: usize = 4 << 10;

pub(crate) struct Client {
    stream: TcpStream,
    block: Vec<u8>,
    next: u64,
}

impl Client {
    pub(super) fn open(server: IpAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(server, port::TCP_STREAM), PATIENCE)
            .context("connecting")?;
        stream.set_nodelay(true)?;
        fix_buffers(&stream)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, block: vec![0x5b; BLOCK], next: 1 })
    }

    pub(super) fn rate(&mut self, duration: Duration) -> anyhow::Result<f64> {
        let start = Instant::now();
        let first = self.next;
        while start.elapsed() < duration {
            stamp(&mut self.block, self.next);
            self.stream.write_all(&self.block)?;
            self.next += 1;
        }
        stamp(&mut self.block, u64::MAX); // "how many?"
        self.stream.write_all(&self.block)?;
        let mut answer = [0; 8];
        self.stream.read_exact(&mut answer).context("the receiver did not confirm")?;
        let sent = self.next - first;
        if u64::from_be_bytes(answer) != sent {
            bail!("sent {sent} blocks, the receiver verified {}", u64::from_be_bytes(answer));
        }
        Ok(((sent + 1) * BLOCK as u64) as f64 / start.elapsed().as_secs_f64())
    }
}

fn stamp(block: &mut [u8], number: u64) {
    for page in block.chunks_mut(PAGE) {
        page[..8].copy_from_slice(&number.to_be_bytes());
    }
}

fn stamped(block: &[u8], number: u64) -> bool {
    block.chunks(PAGE).all(|page| page[..8] == number.to_be_bytes())
}

/// Receives and verifies until the other end closes.
pub(super) fn respond(mut stream: TcpStream) {
    let mut block = vec![0; BLOCK];
    let (mut next, mut right) = (1, 0u64);
    while stream.read_exact(&mut block).is_ok() {
        if stamped(&block, u64::MAX) {
            if stream.write_all(&right.to_be_bytes()).is_err() {
                return;
            }
            right = 0;
        } else {
            right += u64::from(stamped(&block, next));
            next += 1;
        }
    }
}
