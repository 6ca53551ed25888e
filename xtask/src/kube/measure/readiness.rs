//! How soon a pod is known on the farthest node: from the end of ADD to the first packet that a policy there lets in.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::pods::{Cluster, NAMESPACE, Place, idle, server};
use super::report::{Row, percentiles};
use crate::progress::Step;

const SECTION: &str = "A new pod is known on another node";
const UDP: u16 = 8081;
/// Pods, ten a second.
const PODS: usize = 60;
const PACE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);

/// New pods on the last node ask a server on the first, whose policy lets only their label in.
pub(super) fn measure(cluster: &Cluster, step: &mut Step) -> Result<Vec<Row>> {
    let nodes = cluster.record.settings.node_names();
    let (near, far) = (nodes.last().context("a node")?, nodes.first().context("a node")?);
    cluster.apply(&server("far", far))?;
    cluster.apply(&server("near", near))?;
    cluster.wait_ready("app=server")?;
    cluster.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "new", "namespace": NAMESPACE},
        "spec": {
            "podSelector": {"matchLabels": {"pod": "far"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}],
        },
    }))?;
    let (here, there) = (cluster.addresses("near")?[0], cluster.addresses("far")?[0]);
    let times = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let mut running = Vec::new();
        for number in 0..PODS {
            step.note(&format!("pod {} of {PODS}", number + 1));
            let began = Instant::now();
            let name = format!("new-{number}");
            cluster.apply(&idle(&name, near))?;
            running.push(scope.spawn(move || {
                let place = cluster.place(near, &name)?;
                first_answers(&place, here, there).with_context(|| name)
            }));
            std::thread::sleep(PACE.saturating_sub(began.elapsed()));
        }
        let died = |_| anyhow::anyhow!("a thread died");
        running.into_iter().map(|one| one.join().map_err(died)?).collect()
    })?;
    let at = percentiles(times);
    let note = format!("p50 {:.0} ms, longest {:.0} ms, {PODS} pods", at(0.5), at(1.0));
    Ok(vec![Row::new(SECTION, "end of ADD → let in there, p99", format!("{:.0} ms", at(0.99)), note)])
}

/// From the first answer of `here`, which any pod gets, to that of `there`.
fn first_answers(place: &Place, here: IpAddr, there: IpAddr) -> Result<Duration> {
    place.run(|| {
        let end = Instant::now() + PATIENCE;
        let mut seen = [None; 2];
        let mut sockets = Vec::new();
        while Instant::now() < end {
            if sockets.is_empty() {
                // Until ADD opens the link there is no route to send by.
                let open = |ip| -> std::io::Result<UdpSocket> {
                    let socket = UdpSocket::bind("0.0.0.0:0")?;
                    socket.connect(SocketAddr::new(ip, UDP))?;
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                };
                if let (Ok(first), Ok(second)) = (open(here), open(there)) {
                    sockets = vec![first, second];
                }
            }
            for (socket, seen) in sockets.iter().zip(&mut seen) {
                // A refusal to send shows in the missing answer.
                let _ = socket.send(b"echo x");
                if socket.recv(&mut [0; 64]).is_ok() && seen.is_none() {
                    *seen = Some(Instant::now());
                }
            }
            if let [Some(here), Some(there)] = seen {
                return Ok(there.saturating_duration_since(here));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("answers within {PATIENCE:?}: {:?}", seen.map(|seen| seen.is_some()))
    })
}
