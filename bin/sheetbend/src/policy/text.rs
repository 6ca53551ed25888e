//! Rules of policies in a line.

use sheetbend_model::state::{
    ClusterPeer, ClusterRule, IpBlock, Peer, PodsByLabels, PolicyPort, PolicyRule, PortMatch,
};
use sheetbend_model::types::Direction;

/// A rule of a NetworkPolicy: `from pods app=web of its namespace, on http/TCP`.
pub(super) fn network_rule(direction: Direction, rule: &PolicyRule) -> String {
    let peers: Vec<String> = rule
        .peers
        .iter()
        .map(|peer| match peer {
            Peer::Block(of) => block(of),
            Peer::Pods { namespaces: None, pods } => {
                format!("pods {} of its namespace", pods.clone().unwrap_or_default())
            }
            Peer::Pods { namespaces: Some(namespaces), pods: None } => {
                format!("pods of namespaces {namespaces}")
            }
            Peer::Pods { namespaces: Some(namespaces), pods: Some(pods) } => {
                format!("pods {pods} of namespaces {namespaces}")
            }
        })
        .collect();
    line(direction, (!rule.peers.is_empty()).then_some(peers), &rule.ports)
}

/// A rule of a policy whose rules have an order, without its action.
pub(super) fn cluster_rule(direction: Direction, rule: &ClusterRule) -> String {
    let peers = rule.peers.as_ref().map(|peers| {
        let text = |peer: &ClusterPeer| match peer {
            ClusterPeer::Pods(PodsByLabels { namespaces, pods, accounts }) if accounts.is_empty() => {
                format!("pods {pods} of namespaces {namespaces}")
            }
            ClusterPeer::Pods(PodsByLabels { namespaces, pods, accounts }) => {
                format!(
                    "pods {pods} of namespaces {namespaces} with ServiceAccount {}",
                    accounts.join(" or ")
                )
            }
            ClusterPeer::Nodes(selector) => format!("nodes {selector}"),
            ClusterPeer::Network(network) => network.to_string(),
            ClusterPeer::Domain(pattern) => pattern.to_string(),
            ClusterPeer::Block(of) => block(of),
            ClusterPeer::Blocks(blocks) => blocks.of.to_string(),
        };
        peers.iter().map(text).collect()
    });
    line(direction, peers, &rule.ports)
}

fn block(block: &IpBlock) -> String {
    if block.except.is_empty() {
        return block.cidr.to_string();
    }
    let except: Vec<String> = block.except.iter().map(ToString::to_string).collect();
    format!("{} except {}", block.cidr, except.join(" and "))
}

fn line(direction: Direction, peers: Option<Vec<String>>, ports: &[PolicyPort]) -> String {
    let way = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let peers = match peers {
        None => "everybody".to_owned(),
        Some(peers) if peers.is_empty() => "nobody".to_owned(),
        Some(peers) => peers.join(" or "),
    };
    if ports.is_empty() {
        return format!("{way} {peers}");
    }
    let ports: Vec<String> = ports.iter().map(port).collect();
    format!("{way} {peers}, on {}", ports.join(" "))
}

fn port(port: &PolicyPort) -> String {
    match &port.port {
        PortMatch::All => port.protocol.to_string(),
        PortMatch::Range(range) if range.first() == range.last() => {
            format!("{}/{}", range.first(), port.protocol)
        }
        PortMatch::Range(range) => format!("{}-{}/{}", range.first(), range.last(), port.protocol),
        PortMatch::Named(name) => format!("{name}/{}", port.protocol),
    }
}
