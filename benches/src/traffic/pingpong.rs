//! One byte there, its complement back.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{PATIENCE, port};

/// How many transactions pass between two looks at the clock.
const BATCH: u32 = 64;

pub(crate) struct Client {
    stream: TcpStream,
    next: u8,
}

impl Client {
    pub(super) fn open(server: IpAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(server, port::TCP_PINGPONG), PATIENCE)
            .context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, next: 0 })
    }

    pub(super) fn rate(&mut self, duration: Duration) -> anyhow::Result<f64> {
        let start = Instant::now();
        let mut done = 0u32;
        while start.elapsed() < duration {
            for _ in 0..BATCH {
                self.transaction()?;
            }
            done += BATCH;
        }
        Ok(f64::from(done) / start.elapsed().as_secs_f64())
    }

    fn transaction(&mut self) -> anyhow::Result<()> {
        self.next = self.next.wrapping_add(1);
        self.stream.write_all(&[self.next])?;
        let mut answer = [0];
        self.stream.read_exact(&mut answer).context("no answer")?;
        if answer[0] != !self.next {
            bail!("sent {}, expected {}, got {}", self.next, !self.next, answer[0]);
        }
        Ok(())
    }
}

/// Answers until the other end closes.
pub(super) fn respond(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&[!byte[0]]).is_ok() {}
}
