//! Many connections for long: 50,000 held, a million that come and go, an agent that dies, a flood of SYNs.

use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use serde_json::json;
use sheetbend_ebpf_abi::{CtEntry, CtKey, ServiceFlowKey, ServiceFlowValue};

use crate::cli::{Bench, say};
use crate::netns::Netns;
use crate::report::{Row, Target};
use crate::topology::agent::{NodeSpec, Ours, service_object, slice_object};
use crate::topology::fabric::{Fabric, fabric};
use crate::topology::kube_proxy::cluster_ip;
use crate::topology::process::cpu_ticks;
use crate::traffic::{ConnectClient, Responder, Session, Tool, flood, holder::Holder};

const SECTION: &str = "Endurance";
const NAME: &str = "endure";
/// Third byte of the nodes' addresses.
const NET: u8 = 61;
/// Pods that hold connections, and pods that answer them: a process has 20,000 files at most.
const PROCESSES: usize = 3;
const PORT: u16 = 7_020;
const NODE_PORT: u16 = 30_080;
/// How long the agent is away.
const AWAY: Duration = Duration::from_secs(2);

/// How much of everything.
#[derive(Clone, Copy)]
struct Amount {
    held: usize,
    passing: usize,
    flood: Duration,
}

/// One node with its pods, and another that floods it.
struct Scene {
    agents: Ours,
    outside: Netns,
    /// The node's address.
    node: SocketAddrV4,
    /// Pods for connections that are held.
    clients: Vec<Netns>,
    /// A pod for others.
    client: Netns,
    /// Answer.
    _servers: Vec<Holder>,
}

/// All of it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Endurance …");
    let amount = if bench.quick {
        Amount { held: 3_000, passing: 20_000, flood: Duration::from_secs(2) }
    } else {
        Amount { held: 50_000, passing: 1_000_000, flood: Duration::from_secs(10) }
    };
    let mut rows = Vec::new();
    let done = Scene::build(bench).and_then(|mut scene| scene.run(amount, &mut rows));
    if let Err(error) = done {
        rows.push(Row::missing(SECTION, "the rest", &error));
    }
    rows
}

impl Scene {
    fn build(bench: &Bench) -> anyhow::Result<Self> {
        let Fabric { nodes: [netns, outside], addresses: [addresses, others] } = fabric(NAME, NET)?;
        // Where SYNs from nowhere seem to come from.
        netns.ip(&format!("route add 198.18.0.0/15 via {}", others[0]))?;
        outside.ip("route add blackhole 198.18.0.0/15")?;
        let IpAddr::V4(node) = addresses[0] else { bail!("{} is no IPv4 address", addresses[0]) };
        let spec =
            NodeSpec { netns, addresses, pod_cidrs: [format!("10.{NET}.0.0/24"), format!("fd{NET}:0::/64")] };
        let (agents, _took) = Ours::watching(&bench.binaries, NAME, &spec, |_| ())?;
        let mut servers = Vec::new();
        let mut answering = Vec::new();
        for number in 0..PROCESSES {
            let pod = agents.pod(0, &format!("server{number}"))?;
            servers.push(Holder::answer(&pod.netns, PORT)?);
            answering.push(pod.addresses[0].to_string());
        }
        let ports = [json!({"name": "held", "protocol": "TCP", "port": PORT, "nodePort": NODE_PORT})];
        let mut service = service_object("held", [cluster_ip(false, 1), cluster_ip(true, 1)], &ports);
        service["spec"]["type"] = json!("NodePort");
        agents.write("service-held.json", &service)?;
        let ports = [json!({"name": "held", "protocol": "TCP", "port": PORT})];
        agents.write("slice-held.json", &slice_object("held", "IPv4", &answering, &ports))?;
        let passing = agents.pod(0, "passing")?;
        for address in passing.addresses {
            Responder::start(&passing.netns, address)?;
        }
        agents.service("passing", [cluster_ip(false, 0), cluster_ip(true, 0)], &passing)?;
        let clients = (0..PROCESSES).map(|number| Ok(agents.pod(0, &format!("client{number}"))?.netns));
        let clients = clients.collect::<anyhow::Result<Vec<_>>>()?;
        let client = agents.pod(0, "client")?.netns;
        let node = SocketAddrV4::new(node, NODE_PORT);
        Ok(Self { agents, outside, node, clients, client, _servers: servers })
    }

    fn run(&mut self, amount: Amount, rows: &mut Vec<Row>) -> anyhow::Result<()> {
        let held_at = SocketAddr::new(cluster_ip(false, 1), PORT);
        let passing_at = cluster_ip(false, 0);
        let mut live = wait(|| Session::open(Tool::TcpRoundTrip, &self.client, passing_at))?;
        wait(|| Holder::open(&self.clients[0], held_at, 1).and_then(|(mut one, _)| dead(&mut one, 0)))?;

        let start = Instant::now();
        let mut holders = Vec::new();
        let mut failed = 0;
        for client in &self.clients {
            let (holder, more) = Holder::open(client, held_at, amount.held / PROCESSES)?;
            holders.push(holder);
            failed += more;
        }
        let held = amount.held / PROCESSES * PROCESSES;
        let took = start.elapsed().as_secs_f64();
        rows.push(
            none(format!("{held} connections opened through a ClusterIP and held: failed"), failed)
                .note(format!("{:.0} a second; {}", held as f64 / took, fill()?)),
        );

        let (ticks, start) = (cpu_ticks(self.agents.pid(0))?, Instant::now());
        let failed = self.come_and_go(passing_at, amount.passing)?;
        let took = start.elapsed().as_secs_f64();
        let rate = amount.passing as f64 / took;
        // The agent that ended had spent more; the one that runs spends what it takes to start, too.
        let cpu = cpu_ticks(self.agents.pid(0))?.abs_diff(ticks) as f64 / took;
        let title = format!("{} others opened and closed, agent killed meanwhile: failed", amount.passing);
        rows.push(
            none(title, failed).note(format!("{rate:.0} a second; agent {cpu:.1} % of a core; {}", fill()?)),
        );
        rows.push(none("held connections that do not answer after that", all_dead(&mut holders)?));

        rows.extend(self.flooded(amount, &mut live)?);
        let title = "held connections that do not answer after the flood";
        rows.push(none(title, all_dead(&mut holders)?));
        Ok(())
    }

    /// Connections one after the other; the agent is killed meanwhile. How many failed.
    fn come_and_go(&mut self, to: IpAddr, count: usize) -> anyhow::Result<usize> {
        let client = &self.client;
        let agents = &mut self.agents;
        scope(|scope| {
            let going = scope.spawn(move || -> anyhow::Result<usize> {
                let mut connect = ConnectClient::spread(client, vec![to]);
                let (mut done, mut failed) = (0, 0);
                while done < count {
                    let burst = connect.rate(Duration::from_millis(500));
                    failed += usize::from(burst.is_err());
                    done += connect.take_times().len() + usize::from(burst.is_err());
                    ensure!(failed < 100, "{burst:?}");
                }
                Ok(failed)
            });
            sleep(Duration::from_secs(1));
            let killed = agents.kill(0, AWAY);
            let failed = going.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
            killed?;
            failed
        })
    }

    /// SYNs under addresses of nobody to the node port, beside a connection that goes on.
    fn flooded(&self, amount: Amount, live: &mut Session) -> anyhow::Result<Vec<Row>> {
        let quiet = 1e6 / live.rate(Duration::from_secs(1))?;
        let ticks = cpu_ticks(self.agents.pid(0))?;
        let (outside, node) = (&self.outside, self.node);
        let (sent, beside) = scope(|scope| {
            let flood = scope.spawn(move || flood::syns(outside, node, amount.flood));
            sleep(amount.flood / 4);
            let beside = live.rate(amount.flood / 2);
            let sent = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?;
            Ok::<_, anyhow::Error>((sent?, beside?))
        })?;
        let seconds = amount.flood.as_secs_f64();
        let cpu = (cpu_ticks(self.agents.pid(0))? - ticks) as f64 / seconds;
        let rate = sent as f64 / seconds;
        Ok(vec![
            Row::value(SECTION, "SYNs from nowhere to a node port", rate, "/s")
                .note(format!("for {seconds:.0} s; agent {cpu:.1} % of a core; {}", fill()?)),
            Row::value(SECTION, "round trip of a connection beside them", 1e6 / beside, "µs")
                .beside("without the flood", quiet),
        ])
    }
}

/// What must not happen.
fn none(what: impl Into<String>, count: usize) -> Row {
    Row::value(SECTION, what, count as f64, "").target(Target::AtMost(0.0))
}

fn all_dead(holders: &mut [Holder]) -> anyhow::Result<usize> {
    holders.iter_mut().map(Holder::dead).sum()
}

fn dead(holder: &mut Holder, most: usize) -> anyhow::Result<()> {
    let dead = holder.dead()?;
    ensure!(dead <= most, "{dead} connections do not answer");
    Ok(())
}

/// Until it works: the agent needs a moment for what was just written.
fn wait<T>(mut attempt: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match attempt() {
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)),
            done => return done,
        }
    }
}

/// Entries of the tables of flows, and their sizes.
fn fill() -> anyhow::Result<String> {
    let maps = Path::new("/sys/fs/bpf/sheetbend").join(format!("{NAME}-n1"));
    let mut texts = Vec::new();
    for layout in fs::read_dir(&maps).with_context(|| format!("reading {}", maps.display()))? {
        let layout = layout?.path();
        for (name, is_ct) in [("CT", true), ("CT_NEW", true), ("SERVICE_FLOWS", false)] {
            if let Ok(map) = MapData::from_pin(layout.join(name)) {
                let room = map.info()?.max_entries();
                let entries = if is_ct {
                    count::<{ size_of::<CtKey>() }, { size_of::<CtEntry>() }>(map)?
                } else {
                    count::<{ size_of::<ServiceFlowKey>() }, { size_of::<ServiceFlowValue>() }>(map)?
                };
                texts.push(format!("{name} {entries} of {room}"));
            }
        }
    }
    Ok(texts.join(", "))
}

fn count<const KEY: usize, const VALUE: usize>(map: MapData) -> anyhow::Result<usize> {
    let map = HashMap::<_, [u8; KEY], [u8; VALUE]>::try_from(Map::LruHashMap(map))?;
    // An entry that goes meanwhile begins the walk again: nobody counts for ever.
    Ok(map.keys().take(4 << 20).filter(Result::is_ok).count())
}
