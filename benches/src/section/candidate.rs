//! One contender with its Services in place.

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::cli::Bench;
use crate::kernel::flows::Xorshift;
use crate::netns::Netns;
use crate::topology::cluster_api::{ClusterApi, Load};
use crate::topology::kube_proxy::{self, Mode, Peer, cluster_ip};
use crate::topology::ours::{self, Cluster};
use crate::topology::process::mib;
use crate::traffic::{ConnectClient, port};

/// kube-proxy is waited for so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// Random destinations are drawn from so many Services at most; each is used in turn.
const DRAWN: u32 = 20_000;

/// Who serves ClusterIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    Ours,
    Nftables,
    Iptables,
}

impl Contender {
    /// As the tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => ours::NAME,
            Self::Nftables => kube_proxy::SERVICE,
            Self::Iptables => Mode::Iptables.name(),
        }
    }
}

/// What must stay alive.
enum Alive {
    Ours(Box<Cluster>),
    Peer(Box<Peer>),
}

/// A contender that serves so many Services.
pub(super) struct Candidate {
    pub(super) contender: Contender,
    pub(super) services: u32,
    /// From the start of its process until everything is served, s.
    pub(super) took: f64,
    /// Its process' peak memory by then, MiB.
    pub(super) peak: f64,
    /// New connections to one Service, IPv4 then IPv6.
    pub(super) hot: [ConnectClient; 2],
    /// New connections to Services drawn at random.
    pub(super) random: [ConnectClient; 2],
    client: Netns,
    alive: Alive,
}

impl Candidate {
    /// Starts it beside an API server that has everything already. `index` is another number for each load.
    pub(super) fn build(bench: &Bench, contender: Contender, index: u8, load: Load) -> anyhow::Result<Self> {
        let (alive, client, took, pid) = match contender {
            Contender::Ours => {
                let name = format!("svc{index}");
                let (cluster, took) = Cluster::with_services(&bench.binaries, &name, 40 + index, load)?;
                let (client, pid) = (cluster.direct().client, cluster.agents.pid(0));
                (Alive::Ours(Box::new(cluster)), client, took, pid)
            }
            Contender::Nftables => Self::peer(&format!("nft{index}"), 45 + index, Mode::Nftables, load)?,
            Contender::Iptables => Self::peer(&format!("ipt{index}"), 50 + index, Mode::Iptables, load)?,
        };
        let mut random = Xorshift(11);
        let drawn: Vec<u32> = (0..DRAWN).map(|_| random.below(load.services)).collect();
        let spread = |v6, drawn: &[u32]| {
            ConnectClient::spread(&client, drawn.iter().map(|index| cluster_ip(v6, *index)).collect())
        };
        Ok(Self {
            contender,
            services: load.services,
            took,
            peak: mib(pid, "VmHWM")?,
            hot: [false, true].map(|v6| spread(v6, &[0])),
            random: [false, true].map(|v6| spread(v6, &drawn)),
            client,
            alive,
        })
    }

    fn peer(name: &str, net: u8, mode: Mode, load: Load) -> anyhow::Result<(Alive, Netns, f64, u32)> {
        let mut peer = Peer::build(name, net, mode, load)?;
        let start = Instant::now();
        peer.start()?;
        peer.wait(load.services - 1, PATIENCE)?;
        let took = start.elapsed().as_secs_f64();
        let (client, pid) = (peer.direct().client, peer.pid().context("kube-proxy runs")?);
        Ok((Alive::Peer(Box::new(peer)), client, took, pid))
    }

    fn api(&self) -> anyhow::Result<&ClusterApi> {
        match &self.alive {
            Alive::Ours(cluster) => cluster.agents.api().context("its objects are files"),
            Alive::Peer(peer) => Ok(peer.api()),
        }
    }

    /// The moving Service gets an endpoint; how long until it answers, ms. Afterwards it has none.
    pub(super) fn one_endpoint_more(&self) -> anyhow::Result<f64> {
        let server = match &self.alive {
            Alive::Ours(cluster) => cluster.direct().servers[0],
            Alive::Peer(peer) => peer.direct().servers[0],
        };
        let api = self.api()?;
        let start = Instant::now();
        api.move_endpoint(Some(server));
        self.until(true)?;
        let took = start.elapsed();
        api.move_endpoint(None);
        self.until(false)?;
        Ok(took.as_secs_f64() * 1e3)
    }

    /// Waits until the moving Service answers, or no longer does.
    fn until(&self, wanted: bool) -> anyhow::Result<()> {
        let to = SocketAddr::new(cluster_ip(false, self.services), port::TCP_CONNECT);
        self.client.enter(|| {
            let end = Instant::now() + PATIENCE;
            while TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok() != wanted {
                if Instant::now() > end {
                    bail!("{}: {to} answers: {}", self.contender.name(), !wanted);
                }
                sleep(Duration::from_micros(200));
            }
            Ok(())
        })?
    }
}
