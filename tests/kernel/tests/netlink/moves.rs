//! A new pod's programs are filters first and links soon after: no packet notices, and kill -9 leaves nothing behind.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::AgentNode;

pub(crate) const TESTS: &[crate::Test] = &[
    ("moves::no_packet_is_lost_while_a_pod_moves", no_packet_is_lost_while_a_pod_moves),
    ("moves::killed_at_every_step", killed_at_every_step),
];

const POINTS: [&str; 3] = ["move-from-pod", "move-to-pod", "move-done"];
/// The agent waits 2 s after the last ADD.
const PATIENCE: Duration = Duration::from_secs(15);

/// Names of devices of pods, and whether each has filters of ours.
fn devices(node: &AgentNode) -> Result<Vec<(String, u32, bool)>> {
    let links = node.netns.run(|| Ok(sheetbend_apply::netlink::pod_links()?))?;
    let filtered = node.netns.run(|| Ok(sheetbend_apply::netlink::filtered_devices("test")?))?;
    let device = |(name, link): (String, sheetbend_apply::netlink::PodLink)| {
        (name, link.host_ifindex, filtered.contains(&link.host_ifindex))
    };
    Ok(links.into_iter().map(device).collect())
}

/// Whether the device has both links of ours.
fn is_linked(node: &AgentNode, ifindex: u32) -> bool {
    let links = node.path("bpf/sheetbend/test/links");
    ["from_pod", "to_pod"].iter().all(|hook| links.join(format!("{ifindex}-{hook}")).exists())
}

fn wait_until_moved(node: &AgentNode) -> Result<()> {
    let start = Instant::now();
    loop {
        let devices = devices(node)?;
        ensure!(!devices.is_empty(), "no pod is left");
        if devices.iter().all(|(_, ifindex, filtered)| !filtered && is_linked(node, *ifindex)) {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "not moved: {devices:?}\n{}", node.log()?);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn add(node: &AgentNode, container: &str, pod: &Path) -> Result<Vec<IpAddr>> {
    let answer = node.cni("ADD", container, pod, &Value::Null)?;
    ensure!(answer.ok, "{answer:?}\n{}", node.log()?);
    let ips = answer.json["ips"].as_array().cloned().unwrap_or_default();
    let text = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    ips.iter().map(|ip| text(ip).context("an address")).collect()
}

/// Sends a datagram every half millisecond from one pod to another that sends it back, until `until` says so. Returns
/// (sent, answered).
fn exchange(from: &UdpSocket, to: &UdpSocket, until: &dyn Fn() -> bool) -> Result<(u64, u64)> {
    let (mut sent, mut answered, mut buffer) = (0u64, 0u64, [0u8; 8]);
    while !until() {
        from.send(&sent.to_be_bytes())?;
        sent += 1;
        let there = to.recv_from(&mut buffer);
        if let Ok((length, client)) = there {
            to.send_to(&buffer[..length], client)?;
            answered += u64::from(from.recv(&mut buffer).is_ok());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok((sent, answered))
}

fn sockets(client: &Netns, server: &Netns, addr: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    let wildcard = SocketAddr::new(if addr.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() }, 0);
    let bind = |netns: &Netns| -> Result<UdpSocket> {
        let socket = netns.run(|| Ok(UdpSocket::bind(wildcard)?))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    };
    let (from, to) = (bind(client)?, bind(server)?);
    from.connect(SocketAddr::new(addr, to.local_addr()?.port()))?;
    Ok((from, to))
}

fn no_packet_is_lost_while_a_pod_moves() -> Result<()> {
    let mut node = AgentNode::new(&["10.244.1.0/24", "fd00:1::/64"])?;
    node.start_ready(None)?;
    let (client, server) = (Netns::new()?, Netns::new()?);
    add(&node, "c1", &client.path())?;
    let addresses = add(&node, "c2", &server.path())?;
    ensure!(devices(&node)?.iter().all(|(_, _, filtered)| *filtered), "{:?}", devices(&node)?);
    ensure!(addresses.len() == 2, "{addresses:?}");
    let moved = std::sync::atomic::AtomicBool::new(false);
    let until = || moved.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| -> Result<()> {
        // From another pod, and from the node, whose stack sends through the device's own queue.
        let from = [&client, &node.netns];
        let flows: Vec<_> = addresses
            .iter()
            .flat_map(|addr| from.map(|from| (from, addr)))
            .map(|(from, addr)| {
                let (from, to) = sockets(from, &server, *addr)?;
                Ok(scope.spawn(move || exchange(&from, &to, &until)))
            })
            .collect::<Result<_>>()?;
        let waited = wait_until_moved(&node);
        std::thread::sleep(Duration::from_millis(100));
        moved.store(true, std::sync::atomic::Ordering::Relaxed);
        for flow in flows {
            let (sent, answered) = flow.join().map_err(|_| anyhow::anyhow!("a flow died"))??;
            println!("{sent} sent, {answered} answered");
            ensure!(sent > 100 && sent == answered, "{answered} of {sent} were answered");
        }
        waited
    })
}

fn killed_at_every_step() -> Result<()> {
    let mut node = AgentNode::new(&["10.244.1.0/24", "fd00:1::/64"])?;
    for point in POINTS {
        let (client, server) = (Netns::new()?, Netns::new()?);
        node.start_ready(Some(point)).context(point)?;
        add(&node, "c1", &client.path())?;
        let addresses = add(&node, "c2", &server.path())?;
        let start = Instant::now();
        while !node.has_died()? {
            ensure!(start.elapsed() < PATIENCE, "{point}: the agent lives");
            std::thread::sleep(Duration::from_millis(5));
        }
        node.kill()?;
        let reach = || -> Result<()> {
            for addr in &addresses {
                let (from, to) = sockets(&client, &server, *addr)?;
                let once = std::cell::Cell::new(0);
                let (sent, answered) = exchange(&from, &to, &|| once.replace(once.get() + 1) > 20)?;
                ensure!(sent == answered, "{point}: {answered} of {sent} to {addr} were answered");
            }
            Ok(())
        };
        reach().context("while the agent is away")?;
        node.start_ready(None).context(point)?;
        reach().context("after the start")?;
        wait_until_moved(&node).context(point)?;
        reach().context("after the move")?;
        ensure!(node.consistent()?.len() == 2, "{point}");
        for container in ["c1", "c2"] {
            ensure!(node.cni("DEL", container, &client.path(), &Value::Null)?.ok, "{point}: DEL");
        }
        ensure!(node.consistent()?.is_empty(), "{point}");
        node.kill()?;
    }
    Ok(())
}
