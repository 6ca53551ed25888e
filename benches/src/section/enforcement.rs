//! From a policy in the API to the last packet that passes against it, alone and while others arrive.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant};
use std::{array, sync::Arc};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::memory::Pods;
use crate::cli::{Bench, say};
use crate::kernel::flows::Xorshift;
use crate::netns::Netns;
use crate::objects::{self, Amount};
use crate::report::Row;
use crate::stats::percentile;
use crate::topology::agent::{NAMESPACE, NodeSpec, Ours};
use crate::topology::cluster_api::ClusterApi;
use crate::topology::fabric::{Fabric, fabric};
use crate::topology::routed::Pod;

/// Third byte of the nodes' addresses.
const NET: u8 = 60;
const AMOUNT: Amount =
    Amount { net: NET, nodes: 90, pods: 10_000, services: 0, endpoints: 0, policies: 1_000 };
/// Pods of the node that arriving policies select.
const LOCAL: u32 = 20;
/// Between two arriving policies: 100 a second.
const APART: Duration = Duration::from_millis(10);
/// So many that arrived are kept; the oldest goes when another comes.
const KEPT: usize = 500;
const PORT: u16 = 7010;
/// Between two datagrams, at least: what the result is good to.
const STEP: Duration = Duration::from_micros(100);
/// Nothing has passed for so long: the policy holds.
const SILENCE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(10);

/// One agent on an API server, two pods of it, and the datagrams between them.
struct Scene {
    agents: Ours,
    client: Pod,
    server: Pod,
    /// By family, the number of the last datagram that arrived.
    arrived: [Arc<AtomicU64>; 2],
    /// Kept alive.
    _others: Pods,
}

/// Rows for both families.
pub(super) fn rows(bench: &Bench, section: &str) -> Vec<Row> {
    let trials = if bench.quick { 20 } else { 150 };
    let missing = |error: &anyhow::Error| vec![Row::missing(section, "how soon a policy holds", error)];
    let scene = match Scene::build(bench) {
        Ok(scene) => scene,
        Err(error) => return missing(&error),
    };
    let mut rows = Vec::new();
    for (family, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        for arriving in [false, true] {
            say(&format!(
                "  how soon a policy holds: {name}{}",
                if arriving { ", others arrive" } else { "" }
            ));
            match scene.times(family, trials, arriving) {
                Ok(times) => rows.extend(read(section, &times, arriving).map(|row| row.family(name))),
                Err(error) => rows.extend(missing(&error)),
            }
        }
    }
    rows
}

fn read(section: &str, times: &[f64], arriving: bool) -> [Row; 2] {
    let beside = if arriving { "100 policies a second arrive" } else { "nothing else changes" };
    [("p50", 50.0), ("p99", 99.0)].map(|(name, percent)| {
        let title = format!("policy in the API → the last packet that passes, {beside}, {name}");
        let note = format!("{} policies; 1,000 policies and 10,000 pods in the cluster", times.len());
        Row::value(section, title, percentile(times, percent).unwrap_or_default(), "ms").note(note)
    })
}

impl Scene {
    fn build(bench: &Bench) -> anyhow::Result<Self> {
        let Fabric { nodes: [netns, _other], addresses: [addresses, _] } = fabric("enforce", NET)?;
        let spec = NodeSpec { netns, addresses, pod_cidrs: objects::pod_cidrs(0) };
        let fill = |api: &ClusterApi| objects::each(AMOUNT, |object| api.put(object));
        let (agents, _took) = Ours::watching(&bench.binaries, "enforce", &spec, fill)?;
        let pods = Pods::attach(&agents, AMOUNT, LOCAL)?;
        let (client, server) = (agents.pod(0, "client")?, agents.pod(0, "server")?);
        let arrived: [Arc<AtomicU64>; 2] = array::from_fn(|_| Arc::default());
        for (address, last) in server.addresses.into_iter().zip(&arrived) {
            listen(&server.netns, address, Arc::clone(last))?;
        }
        Ok(Self { agents, client, server, arrived, _others: pods })
    }

    /// ms of so many policies, one after the other.
    fn times(&self, family: usize, trials: usize, arriving: bool) -> anyhow::Result<Vec<f64>> {
        let api = self.agents.api().context("its objects are files")?;
        let over = AtomicBool::new(false);
        scope(|scope| {
            if arriving {
                scope.spawn(|| arrive(api, &over));
            }
            let times = self.client.netns.enter(|| self.trials(api, family, trials));
            over.store(true, Ordering::Relaxed);
            times?
        })
    }

    fn trials(&self, api: &ClusterApi, family: usize, trials: usize) -> anyhow::Result<Vec<f64>> {
        let to = SocketAddr::new(self.server.addresses[family], PORT);
        let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse()?;
        let mut sender = Sender { socket: UdpSocket::bind((any, 0))?, to, next: 1 };
        let mut random = Xorshift(5);
        let deny = self.deny();
        (0..trials)
            .map(|_| {
                sender.until_one_passes(&self.arrived[family])?;
                // Not in step with the policies that arrive.
                sleep(Duration::from_micros(random.below(30_000).into()));
                let took = sender.until_none_passes(&self.arrived[family], || api.put(deny.clone()));
                api.delete(&deny);
                Ok(took?.as_secs_f64() * 1e3)
            })
            .collect()
    }

    /// Lets nothing into the server.
    fn deny(&self) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "deny", "namespace": NAMESPACE},
            "spec": {
                "podSelector": {"matchLabels": {"app": self.server.netns.name()}}, "policyTypes": ["Ingress"],
            },
        })
    }
}

/// Sends numbered datagrams.
struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
    next: u64,
}

impl Sender {
    fn send(&mut self) -> anyhow::Result<()> {
        self.socket.send_to(&self.next.to_be_bytes(), self.to)?;
        self.next += 1;
        sleep(STEP);
        Ok(())
    }

    fn until_one_passes(&mut self, arrived: &AtomicU64) -> anyhow::Result<()> {
        let (start, first) = (Instant::now(), self.next);
        while arrived.load(Ordering::Relaxed) < first {
            self.send()?;
            ensure!(start.elapsed() < PATIENCE, "the server is closed for {PATIENCE:?} without any policy");
        }
        Ok(())
    }

    /// From before `forbid` to the sending of the first datagram after the last that arrived.
    fn until_none_passes(&mut self, arrived: &AtomicU64, forbid: impl FnOnce()) -> anyhow::Result<Duration> {
        let first = self.next;
        let start = Instant::now();
        forbid();
        let mut sent = Vec::new();
        loop {
            sent.push(start.elapsed());
            self.send()?;
            let passed =
                arrived.load(Ordering::Relaxed).checked_sub(first).map_or(0, |last| last as usize + 1);
            if let Some(stopped) = sent.get(passed)
                && start.elapsed().saturating_sub(*stopped) > SILENCE
            {
                return Ok(*stopped);
            }
            if start.elapsed() > PATIENCE {
                bail!("packets pass {PATIENCE:?} after the policy that forbids them");
            }
        }
    }
}

fn listen(server: &Netns, address: IpAddr, last: Arc<AtomicU64>) -> anyhow::Result<()> {
    let socket = server.enter(|| UdpSocket::bind((address, PORT)))??;
    spawn(move || {
        let mut number = [0; 8];
        while socket.recv(&mut number).is_ok() {
            last.store(u64::from_be_bytes(number), Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Policies for pods of the node come at an even pace, and go again.
fn arrive(api: &ClusterApi, over: &AtomicBool) {
    let mut kept: Vec<Value> = Vec::new();
    let start = Instant::now();
    for number in 0u32.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let app = objects::app(number % LOCAL * AMOUNT.nodes);
        let policy =
            objects::between_apps(&format!("arriving-{number}"), app, number * 7, 9_000 + number % 100);
        api.put(policy.clone());
        kept.push(policy);
        if kept.len() > KEPT {
            api.delete(&kept.remove(0));
        }
        sleep((APART * (number + 1)).saturating_sub(start.elapsed()));
    }
    for policy in &kept {
        api.delete(policy);
    }
}
