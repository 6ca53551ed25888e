//! More flows than the tables have room for: they grow, and nothing that runs may notice.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{ANSWER, ECHO, FLOW_ENTRIES, Lab};
use crate::restart::under_load;

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[("flow_tables_grow_under_load", flow_tables_grow_under_load)];

/// Flows of each family to each destination: first some that make the first table grow, then more than that one had room
/// for. Each time the rest of the table is enough for what comes until it has grown.
const FLOWS: [u64; 2] = [120, 200];
/// Longest growth that is waited for: programs are loaded twice, in a debug build and on a busy machine.
const GROWTH: Duration = Duration::from_secs(150);

/// (entries, size, growing) of a table on node-1.
fn table(lab: &Lab, name: &str) -> Result<(u64, u64, bool)> {
    let status = lab.status("node-1")?;
    let table = &status["flowTables"][name];
    let number = |field: &str| table[field].as_u64().with_context(|| format!("{name}: {status}"));
    Ok((number("entries")?, number("size")?, table["growing"] == true))
}

/// Waits until `is` holds of a table; (entries, size).
fn wait(lab: &Lab, name: &str, is: impl Fn(u64, u64, bool) -> bool) -> Result<(u64, u64)> {
    let end = Instant::now() + GROWTH;
    let mut last = String::new();
    while Instant::now() < end {
        match table(lab, name) {
            Ok((entries, size, growing)) if is(entries, size, growing) => return Ok((entries, size)),
            other => last = format!("{other:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("{name} after {} s: {last}", GROWTH.as_secs())
}

/// Opens flows from `from`, one datagram and its answer each.
fn open(from: IpAddr, to: SocketAddr, flows: u64) -> Result<()> {
    for number in 0..flows {
        let socket = UdpSocket::bind((from, 0))?;
        socket.set_read_timeout(Some(ANSWER))?;
        socket.connect(to)?;
        socket.send(&number.to_be_bytes())?;
        let mut answer = [0; 8];
        socket.recv(&mut answer).with_context(|| format!("flow {number} to {to}"))?;
        ensure!(answer == number.to_be_bytes(), "another answer to flow {number} to {to}");
    }
    Ok(())
}

/// Opens so many flows to each destination in each family.
fn open_all(lab: &Lab, flows: u64) -> Result<()> {
    let client = lab.pod("client")?;
    let addresses = client.addresses()?;
    for pod in ["near", "far"] {
        for (from, to) in addresses.into_iter().zip(lab.pod(pod)?.addresses()?) {
            client.run(|| open(from, SocketAddr::new(to, ECHO), flows))?;
        }
    }
    Ok(())
}

/// Streams and numbered datagrams go on, and new flows come, while tables grow and the agent is killed meanwhile.
fn flow_tables_grow_under_load(lab: &Lab) -> Result<()> {
    under_load(lab, || {
        let [first, second] = FLOWS;
        open_all(lab, first)?;
        wait(lab, "CT", |_, _, growing| growing).context("it does not grow")?;
        lab.sheetbend(&["lab", "node", "node-1", "kill"])?;
        lab.sheetbend(&["lab", "node", "node-1", "start"])?;
        let (entries, _) = wait(lab, "CT", |_, size, growing| size > FLOW_ENTRIES && !growing)?;
        ensure!(entries >= 4 * first, "{entries} of {} flows are left", 4 * first);
        open_all(lab, second)?;
        let (entries, _) = wait(lab, "CT", |_, size, growing| size > 2 * FLOW_ENTRIES && !growing)?;
        // A datagram's flow is remembered for 180 s.
        let opened = 4 * (first + second);
        ensure!(opened > FLOW_ENTRIES && entries >= opened, "{entries} of {opened} flows are left");
        Ok(())
    })
}
