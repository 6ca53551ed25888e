//! Flows of pod 0, hot or drawn uniformly, and the packets they are made of.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use sheetbend_ebpf_abi::Hook;

use super::packet::{self, ACK, SYN, SYN_ACK};
use super::program::Program;
use super::world::{FROM_POD, Node, PEER_MAC, PORT, UPLINK_MAC, World, frontend, local_pod, remote_pod};

/// `TC_ACT_REDIRECT`: the fast path took it.
const REDIRECT: u32 = 7;
/// First source port of flows.
const FIRST_PORT: u16 = 1024;

/// What flows go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Towards {
    /// ClusterIPs of that many Services.
    Services(u32),
    /// That many pods of the other node, by address.
    Pods(u32),
}

/// Whether every flow has the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// One destination.
    Hot,
    /// Destinations drawn uniformly.
    Random,
}

/// What is measured of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its first packet.
    New,
    /// A later packet, after a reply.
    Established,
}

/// The client pod of one world and family.
pub(crate) struct Flows {
    from_pod: Program,
    from_uplink: Program,
    pod: u32,
    uplink: u32,
    v6: bool,
    random: Xorshift,
    port: u16,
    established: Vec<Vec<u8>>,
}

impl Flows {
    pub(crate) fn new(node: &Node, world: &World, v6: bool) -> anyhow::Result<Self> {
        Ok(Self {
            from_pod: world.program(Hook::FromPod)?,
            from_uplink: world.program(Hook::FromUplink)?,
            pod: node.pod,
            uplink: node.uplink,
            v6,
            random: Xorshift(0x5bd1_e995_9d2c_5681),
            port: FIRST_PORT,
            established: Vec::new(),
        })
    }

    /// ns of one run on the first packet of a new flow.
    pub(crate) fn first(&mut self, towards: Towards, keys: Keys) -> anyhow::Result<f64> {
        let (source, destination) = self.draw(towards, keys);
        let outcome = self.from_pod.run(&packet::tcp(FROM_POD, source, destination, SYN), self.pod)?;
        expect(outcome.code, "the first packet of a flow", source, destination)?;
        Ok(outcome.nanoseconds)
    }

    /// ns of one run on a packet of one of the flows that [`Flows::establish`] made.
    pub(crate) fn later(&mut self) -> anyhow::Result<f64> {
        let index = self.random.below(self.established.len() as u32) as usize;
        let packet = self.established.get(index).context("no flow is established")?;
        let outcome = self.from_pod.run(packet, self.pod)?;
        if outcome.code != REDIRECT {
            bail!("a packet of an established flow got verdict {}, not the fast path", outcome.code);
        }
        Ok(outcome.nanoseconds)
    }

    /// Makes `count` flows, each with its reply, and forgets earlier ones.
    pub(crate) fn establish(&mut self, towards: Towards, keys: Keys, count: u32) -> anyhow::Result<()> {
        self.established.clear();
        for _ in 0..count {
            let (source, destination) = self.draw(towards, keys);
            let first = packet::tcp(FROM_POD, source, destination, SYN);
            let (code, sent) = self.from_pod.output(&first, self.pod)?;
            expect(code, "the first packet of a flow", source, destination)?;
            let backend = packet::tcp_destination(&sent).context("the program left no TCP packet")?;
            let reply = packet::tcp([PEER_MAC, UPLINK_MAC], backend, source, SYN_ACK);
            let code = self.from_uplink.run(&reply, self.uplink)?.code;
            expect(code, "the reply", backend, source)?;
            self.established.push(packet::tcp(FROM_POD, source, destination, ACK));
            self.later_of(self.established.len() - 1)?;
        }
        Ok(())
    }

    /// The third packet of a handshake; whatever the programs do only once per flow is done then.
    fn later_of(&self, index: usize) -> anyhow::Result<()> {
        let outcome = self.from_pod.run(&self.established[index], self.pod)?;
        if outcome.code == REDIRECT {
            Ok(())
        } else {
            bail!("verdict {} on an established flow", outcome.code)
        }
    }

    fn draw(&mut self, towards: Towards, keys: Keys) -> (SocketAddr, SocketAddr) {
        self.port = if self.port == u16::MAX { FIRST_PORT } else { self.port + 1 };
        let (Towards::Services(count) | Towards::Pods(count)) = towards;
        let number = match keys {
            Keys::Hot => 0,
            Keys::Random => self.random.below(count),
        };
        let destination = match towards {
            Towards::Services(_) => frontend(self.v6, number),
            Towards::Pods(_) => SocketAddr::new(remote_pod(self.v6, number), PORT),
        };
        let client: IpAddr = local_pod(self.v6, 0);
        (SocketAddr::new(client, self.port), destination)
    }
}

fn expect(code: u32, what: &str, source: SocketAddr, destination: SocketAddr) -> anyhow::Result<()> {
    if code == REDIRECT {
        return Ok(());
    }
    bail!("{what} {source} → {destination} got verdict {code}, not the fast path ({REDIRECT})")
}

/// Xorshift64 (Marsaglia 2003): the same keys in every run.
pub(crate) struct Xorshift(pub(crate) u64);

impl Xorshift {
    /// Uniform in `0..bound`, as nearly as 64 bits allow; `bound` > 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::Xorshift;

    #[test]
    fn draws_cover_the_range_and_stay_inside() {
        let mut random = Xorshift(1);
        let mut seen = [0; 10];
        for _ in 0..10_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }
}
