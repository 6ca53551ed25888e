//! What a pod may receive and send is limited as its annotations say, from the same and from another node.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Place};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[("a_pods_traffic_is_limited_as_it_asks", limits)];

const PORT: u16 = 7100;
/// Bits a second of `testdata/limited.yaml`.
const INGRESS: f64 = 40e6;
const EGRESS: f64 = 20e6;
/// Until the tokens of the pause before are spent.
const SETTLE: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(2);

/// Bits a second of a stream that sends as fast as it may.
fn rate(from: &Place, to: &Place, ip: IpAddr) -> Result<f64> {
    let listener = to.run(|| Ok(TcpListener::bind((ip, PORT))?))?;
    let mut stream = from.connect(SocketAddr::new(ip, PORT), Duration::from_secs(3))?;
    let (received, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (mut sink, _) = listener.accept()?;
    let count = Arc::clone(&received);
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(size @ 1..) = sink.read(&mut buffer) {
            count.fetch_add(size as u64, Ordering::Relaxed);
        }
    });
    let stop = Arc::clone(&over);
    let writer = std::thread::spawn(move || {
        let chunk = vec![7; 1 << 14];
        while !stop.load(Ordering::Relaxed) && stream.write_all(&chunk).is_ok() {}
    });
    std::thread::sleep(SETTLE);
    let (before, began) = (received.load(Ordering::Relaxed), Instant::now());
    std::thread::sleep(MEASURE);
    let (bytes, took) = (received.load(Ordering::Relaxed) - before, began.elapsed());
    over.store(true, Ordering::Relaxed);
    let died = |_| anyhow::anyhow!("a thread died");
    writer.join().map_err(died)?;
    reader.join().map_err(died)?;
    Ok(bytes as f64 * 8.0 / took.as_secs_f64())
}

/// The bound above is the promise; the one below only says that it is the limit that is seen, on however busy a machine.
fn limits(lab: &Lab) -> Result<()> {
    let manifests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/limited.yaml");
    let manifests = manifests.to_str().context("a path in UTF-8")?;
    lab.sheetbend(&["lab", "apply", "-f", manifests])?;
    let client = lab.pod("client")?;
    let measured = ["limited-near", "limited-far"].into_iter().try_for_each(|name| {
        let limited = lab.pod(name)?;
        for (own, other) in limited.addresses()?.into_iter().zip(client.addresses()?) {
            for (what, limit, seen) in [
                ("receives", INGRESS, rate(&client, &limited, own)?),
                ("sends", EGRESS, rate(&limited, &client, other)?),
            ] {
                eprintln!("{name} {what} {:.1} of {:.0} Mbit/s ({own})", seen / 1e6, limit / 1e6);
                ensure!(seen <= limit * 1.05, "{name} {what} {seen} bit/s of {limit} ({own})");
                ensure!(seen >= limit * 0.5, "{name} {what} only {seen} bit/s of {limit} ({own})");
            }
        }
        Ok(())
    });
    lab.sheetbend(&["lab", "delete", "-f", manifests])?;
    measured
}
