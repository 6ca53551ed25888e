//! What clients lose when a process is killed, and when one succeeds another: 2,000 queries/s, each numbered.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sheetbend_kernel_tests::netlink::Netns;

use crate::server::World;

/// Queries per second.
const RATE: u32 = 2_000;
/// Client sockets, each with a port of its own, so that the kernel spreads them over all sockets of the server.
const CLIENTS: usize = 50;
/// How long the last answers are waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// A query without answer.
#[derive(Debug)]
struct Lost {
    sent: Instant,
}

/// What happened to all queries.
struct Outcome {
    sent: usize,
    lost: Vec<Lost>,
}

/// web.shop.svc.cluster.local A, number `id` (RFC 1035 §4).
fn query(id: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in ["web", "shop", "svc", "cluster", "local", ""] {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 1, 0, 1]);
    bytes
}

/// Sends at [`RATE`] from inside `netns` until `done`, never a query twice.
fn load(netns: &Netns, done: &AtomicBool) -> Result<Outcome> {
    netns.run(|| {
        let clients: Vec<UdpSocket> = (0..CLIENTS)
            .map(|_| {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.connect("127.0.0.1:53")?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .collect::<std::io::Result<_>>()?;
        let mut sent: Vec<Option<Instant>> = Vec::new();
        let start = Instant::now();
        let mut last = None;
        loop {
            let wanted = if done.load(Ordering::Relaxed) {
                let end = *last.get_or_insert_with(Instant::now);
                if end.elapsed() > PATIENCE || sent.iter().all(Option::is_none) {
                    break;
                }
                sent.len()
            } else {
                (start.elapsed().as_secs_f64() * f64::from(RATE)) as usize
            };
            while sent.len() < wanted {
                let number = sent.len();
                // A killed server's port answers with ICMP, which the next call reports: the query is lost then.
                let _ = clients[number % CLIENTS].send(&query((number / CLIENTS) as u16));
                sent.push(Some(Instant::now()));
            }
            collect(&clients, &mut sent);
            thread::sleep(Duration::from_micros(200));
        }
        let lost = sent.iter().flatten().map(|sent| Lost { sent: *sent }).collect();
        Ok(Outcome { sent: sent.len(), lost })
    })
}

fn collect(clients: &[UdpSocket], sent: &mut [Option<Instant>]) {
    let mut buffer = [0; 512];
    for (index, client) in clients.iter().enumerate() {
        while let Ok(len) = client.recv(&mut buffer) {
            // An answer with one record, to the query that carries its number.
            if len > 12 && buffer[3] & 0x0f == 0 && buffer[7] == 1 {
                let number = usize::from(u16::from_be_bytes([buffer[0], buffer[1]])) * CLIENTS + index;
                if let Some(place) = sent.get_mut(number) {
                    *place = None;
                }
            }
        }
    }
}

/// Runs `work` under load.
fn under_load(world: &mut World, work: impl FnOnce(&mut World) -> Result<()>) -> Result<Outcome> {
    let done = AtomicBool::new(false);
    let netns = Arc::clone(&world.netns);
    thread::scope(|scope| {
        let loading = scope.spawn(|| load(&netns, &done));
        thread::sleep(Duration::from_millis(500));
        let worked = work(world);
        thread::sleep(Duration::from_millis(500));
        done.store(true, Ordering::Relaxed);
        let outcome = loading.join().map_err(|_| anyhow::anyhow!("the load died"))?;
        worked?;
        outcome
    })
}

/// Two processes share the queries. Whatever one had in its hands dies with it, and nothing else.
pub(crate) fn kill_9_costs_what_is_in_flight() -> Result<()> {
    let mut world = World::new()?;
    let (mut first, mut second) = (world.start(&[])?, world.start(&[])?);
    let control = under_load(&mut world, |_| {
        thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    ensure!(control.lost.is_empty(), "without a kill {} of {} are lost", control.lost.len(), control.sent);
    let mut kills = Vec::new();
    let outcome = under_load(&mut world, |world| {
        for _ in 0..10 {
            let begun = Instant::now();
            world.kill(first)?;
            kills.push((begun, Instant::now()));
            thread::sleep(Duration::from_millis(137));
            first = world.start(&[])?;
            std::mem::swap(&mut first, &mut second);
        }
        Ok(())
    })?;
    for Lost { sent } in &outcome.lost {
        // In flight: it had been sent before the process was gone, and no earlier than an answer takes.
        let kill =
            kills.iter().find(|(begun, gone)| *sent <= *gone && *sent + Duration::from_millis(50) >= *begun);
        kill.with_context(|| {
            format!("a query is lost that was in nobody's hands ({} lost)", outcome.lost.len())
        })?;
    }
    println!("{} queries, {} kills, {} lost in flight", outcome.sent, kills.len(), outcome.lost.len());
    Ok(())
}

/// The successor joins before its predecessor leaves.
pub(crate) fn an_upgrade_costs_no_answer() -> Result<()> {
    let mut world = World::new()?;
    let mut old = world.start(&["dns.drain=0"])?;
    let outcome = under_load(&mut world, |world| {
        for _ in 0..10 {
            let new = world.start(&["dns.drain=0"])?;
            world.end(old)?;
            old = new;
        }
        Ok(())
    })?;
    ensure!(outcome.lost.is_empty(), "{} of {} queries are lost", outcome.lost.len(), outcome.sent);
    println!("{} queries, 10 upgrades, none lost", outcome.sent);
    Ok(())
}
