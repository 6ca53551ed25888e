//! An agent is stopped, started, killed and started: nothing that runs may notice.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::lab::{ECHO, Lab, Place, round_trip};

/// What this file tests.
pub(crate) const TESTS: &[crate::Test] = &[
    ("restart_loses_nothing", restart_loses_nothing),
    ("upgrade_to_other_programs_loses_nothing", upgrade_loses_nothing),
    ("new_flows_are_judged_without_agent", new_flows_are_judged_without_agent),
];

/// Time between two datagrams of one flow: six flows make 3,000 datagrams a second each way.
const PACE: Duration = Duration::from_millis(2);
/// TCP streams to each destination and family: 54 in all.
const STREAMS: usize = 9;

/// Same node, other node and Service, in both families.
fn destinations(lab: &Lab) -> Result<Vec<SocketAddr>> {
    let mut all = Vec::new();
    for pod in ["near", "far"] {
        all.extend(lab.pod(pod)?.addresses()?.map(|ip| SocketAddr::new(ip, ECHO)));
    }
    let service: [IpAddr; 2] = ["10.96.0.50".parse()?, "fd00:10:96::50".parse()?];
    all.extend(service.map(|ip| SocketAddr::new(ip, 80)));
    Ok(all)
}

/// Sends numbered datagrams until told to end; (sent, numbers without an answer).
pub(crate) fn datagrams(socket: UdpSocket, end: Arc<AtomicBool>) -> Result<(usize, Vec<usize>)> {
    setsockopt(&socket, RcvBufForce, &(8 << 20))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let receiver = socket.try_clone()?;
    let answers = thread::spawn(move || {
        let (mut seen, mut buffer) = (Vec::new(), [0; 8]);
        while receiver.recv(&mut buffer).is_ok() {
            seen.push(u64::from_be_bytes(buffer) as usize);
        }
        seen
    });
    let began = Instant::now();
    let mut sent = 0;
    while !end.load(Ordering::Relaxed) {
        socket.send(&(sent as u64).to_be_bytes()).with_context(|| format!("datagram {sent}"))?;
        sent += 1;
        thread::sleep((PACE * u32::try_from(sent)?).saturating_sub(began.elapsed()));
    }
    let mut answered = vec![false; sent];
    for number in answers.join().map_err(|_| anyhow!("the receiver died"))? {
        *answered.get_mut(number).context("an answer to nothing")? = true;
    }
    Ok((sent, (0..sent).filter(|number| !answered[*number]).collect()))
}

/// Asks over one connection until told to end; the number of answers. An error is a lost connection.
pub(crate) fn requests(
    client: &Place,
    to: SocketAddr,
    end: Arc<AtomicBool>,
) -> Result<JoinHandle<Result<usize>>> {
    let mut stream = client.connect(to, Duration::from_secs(3)).with_context(|| format!("stream to {to}"))?;
    Ok(thread::spawn(move || {
        let mut answered = 0;
        while !end.load(Ordering::Relaxed) {
            let context = || format!("stream to {to} after {answered} answers");
            round_trip(&mut stream, answered as u64).with_context(context)?;
            answered += 1;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(answered)
    }))
}

/// Traffic to every destination while `meanwhile` happens: nothing missing, nothing reset.
pub(crate) fn under_load(lab: &Lab, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let client = lab.pod("client")?;
    let [ipv4, ipv6] = client.addresses()?;
    let dropped = lab.drops()?;
    let end = Arc::new(AtomicBool::new(false));
    let (mut flows, mut streams) = (Vec::new(), Vec::new());
    for to in destinations(lab)? {
        let socket = client.udp(if to.is_ipv4() { ipv4 } else { ipv6 }, to)?;
        let ended = Arc::clone(&end);
        flows.push((to, thread::spawn(move || datagrams(socket, ended))));
        for _ in 0..STREAMS {
            streams.push(requests(&client, to, Arc::clone(&end))?);
        }
    }
    thread::sleep(Duration::from_millis(500));
    let happened = meanwhile();
    thread::sleep(Duration::from_millis(500));
    end.store(true, Ordering::Relaxed);
    let (mut total, mut asked, mut missing) = (0, 0, Vec::new());
    for (to, flow) in flows {
        let (sent, lost) = flow.join().map_err(|_| anyhow!("a sender died"))??;
        total += sent;
        if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
            missing.push(format!("{to}: {} of {sent}, from {first} to {last}", lost.len()));
        }
    }
    for stream in streams {
        asked += stream.join().map_err(|_| anyhow!("a stream died"))??;
    }
    happened?;
    let now = lab.drops()?;
    ensure!(now == dropped, "packets were dropped: {dropped} → {now}");
    ensure!(missing.is_empty(), "datagrams without an answer: {}", missing.join("; "));
    ensure!(total > 1_000 && asked > 500, "hardly any traffic: {total} datagrams, {asked} requests");
    Ok(())
}

/// Stop, start, `kill -9` and start, on the client's node and on the server's.
fn restart_loses_nothing(lab: &Lab) -> Result<()> {
    let control = || {
        thread::sleep(Duration::from_secs(2));
        Ok(())
    };
    under_load(lab, control).context("without a restart")?;
    under_load(lab, || {
        for node in ["node-1", "node-2"] {
            for action in ["stop", "start", "kill", "start"] {
                lab.sheetbend(&["lab", "node", node, action])?;
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    })
}

/// Agents of another version bring other programs, on the client's node and on the server's, and the first come back.
fn upgrade_loses_nothing(lab: &Lab) -> Result<()> {
    const NODES: [&str; 2] = ["node-1", "node-2"];
    let versions = || NODES.iter().map(|node| lab.programs(node)).collect::<Result<Vec<String>>>();
    let before = versions()?;
    let mut upgraded = Vec::new();
    under_load(lab, || {
        for other in [true, false] {
            lab.set_object(other)?;
            for node in NODES {
                lab.sheetbend(&["lab", "node", node, if other { "stop" } else { "kill" }])?;
                lab.sheetbend(&["lab", "node", node, "start"])?;
                thread::sleep(Duration::from_millis(200));
            }
            upgraded.push(versions()?);
        }
        Ok(())
    })?;
    let [other, again] = &upgraded[..] else { bail!("two upgrades") };
    ensure!(other.iter().zip(&before).all(|(other, before)| other != before), "{before:?} → {other:?}");
    ensure!(*again == before, "{before:?} → {again:?}");
    Ok(())
}

/// While no agent runs, what is allowed is opened as ever and what is denied is still denied.
fn new_flows_are_judged_without_agent(lab: &Lab) -> Result<()> {
    for node in ["node-1", "node-2"] {
        lab.sheetbend(&["lab", "node", node, "kill"])?;
    }
    let judged = judged(lab);
    for node in ["node-1", "node-2"] {
        lab.sheetbend(&["lab", "node", node, "start"])?;
    }
    judged
}

fn judged(lab: &Lab) -> Result<()> {
    let client = lab.pod("client")?;
    for to in destinations(lab)? {
        let mut stream =
            client.connect(to, Duration::from_secs(3)).with_context(|| format!("new flow to {to}"))?;
        round_trip(&mut stream, 7)?;
    }
    for ip in lab.pod("walled")?.addresses()? {
        let denied = client.connect(SocketAddr::new(ip, ECHO), Duration::from_millis(1500));
        ensure!(denied.is_err(), "{ip} denies all, and was reached");
    }
    Ok(())
}
