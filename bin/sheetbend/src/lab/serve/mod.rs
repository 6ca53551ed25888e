//! What runs in a pod: every declared port answered on both families with who answered and whom it saw.

mod socket;
mod tcp;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sheetbend_model::types::{Family, Protocol};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::netns::Netns;

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `namespace/name`, or `world`.
    pub(crate) pod: Arc<str>,
    /// Its node, or `world`.
    pub(crate) node: Arc<str>,
}

/// One answer, a JSON object on a line (`contract.md`, "Pods").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// `namespace/name` of the pod that answers.
    pub(crate) pod: String,
    /// Its node.
    pub(crate) node: String,
    /// The client's address, as the pod sees it.
    pub(crate) client: IpAddr,
    /// The client's port, as the pod sees it.
    pub(crate) client_port: u16,
    /// The address and port that the client reached, as the pod sees them.
    pub(crate) local: SocketAddr,
    /// `TCP` or `UDP`.
    pub(crate) protocol: String,
}

impl Answer {
    fn line(identity: &Identity, client: SocketAddr, local: SocketAddr, protocol: Protocol) -> Vec<u8> {
        let answer = Answer {
            pod: identity.pod.to_string(),
            node: identity.node.to_string(),
            client: client.ip().to_canonical(),
            client_port: client.port(),
            local: SocketAddr::new(local.ip().to_canonical(), local.port()),
            protocol: protocol.to_string(),
        };
        let mut line = serde_json::to_vec(&answer).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The sockets of one pod; closed when dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Serves `ports` in `netns` on both families. Ports whose protocol the kernel has no sockets for (SCTP) are left
/// out. Fails when another socket of the namespace has the port.
pub(crate) fn serve(
    runtime: &Handle,
    netns: &Netns,
    identity: &Identity,
    ports: &[(Protocol, u16)],
) -> anyhow::Result<Serving> {
    let mut serving = Serving { tasks: Vec::new() };
    for bound in netns.run(|| bind_all(ports))?? {
        let _context = runtime.enter();
        let identity = identity.clone();
        serving.tasks.push(match bound {
            Bound::Tcp(listener) => {
                runtime.spawn(tcp::accept(tokio::net::TcpListener::from_std(listener)?, identity))
            }
            Bound::Udp(socket) => {
                runtime.spawn(udp::answer(tokio::net::UdpSocket::from_std(socket)?, identity))
            }
        });
    }
    Ok(serving)
}

enum Bound {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

fn bind_all(ports: &[(Protocol, u16)]) -> anyhow::Result<Vec<Bound>> {
    let mut bound = Vec::new();
    for (protocol, port) in ports {
        for family in Family::ALL {
            let place = || {
                format!(
                    "cannot serve port {port}/{protocol} on {family}; does another pod of the node have it?"
                )
            };
            match protocol {
                Protocol::Tcp => {
                    bound.push(Bound::Tcp(socket::tcp_listener(family, *port).with_context(place)?))
                }
                Protocol::Udp => bound.push(Bound::Udp(socket::udp(family, *port).with_context(place)?)),
                Protocol::Sctp => {}
            }
        }
    }
    Ok(bound)
}

#[cfg(test)]
mod tests;
