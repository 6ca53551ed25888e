//! What a policy says in vain, whatever the node.

use ipnet::IpNet;
use sheetbend_model::plan::Condition;
use sheetbend_model::state::{ClusterNetworkPolicy, ClusterPeer, IpBlock, NetworkPolicy, Peer};

use super::blocks::is_usable;

/// Why no address matches a network of a ClusterNetworkPolicy, if none does.
pub(crate) fn unusable_network(network: &IpNet) -> Option<String> {
    (!is_usable(network)).then(|| {
        format!(
            "network {network} is an IPv4 block written as IPv6, which no address matches; write it as IPv4"
        )
    })
}

/// Why addresses that `peer` names match nobody, if some do.
pub(crate) fn unusable_peer(peer: &ClusterPeer) -> Vec<String> {
    match peer {
        ClusterPeer::Network(network) => unusable_network(network).into_iter().collect(),
        ClusterPeer::Block(block) => unusable_block("network", block).into_iter().collect(),
        ClusterPeer::Blocks(blocks) => blocks
            .cidrs
            .iter()
            .filter_map(unusable_network)
            .map(|text| format!("{}: {text}", blocks.of))
            .collect(),
        ClusterPeer::Pods(_) | ClusterPeer::Nodes(_) | ClusterPeer::Domain(_) => Vec::new(),
    }
}

/// Networks of `policy` that the API takes and no address matches.
pub fn unusable_networks(policy: &ClusterNetworkPolicy) -> Vec<Condition> {
    let peers = policy.ingress.iter().chain(&policy.egress).flat_map(|rule| rule.peers.iter().flatten());
    let (kind, object) = policy.written_as();
    let condition = |message: String| Condition {
        kind,
        object: object.clone(),
        reason: "UnusableBlock",
        message: message.into(),
    };
    peers.flat_map(unusable_peer).map(condition).collect()
}

/// Blocks of `policy` that the API takes and no address matches.
pub fn unusable_blocks(policy: &NetworkPolicy) -> Vec<Condition> {
    let rules = policy.ingress.iter().chain(&policy.egress).flatten();
    let blocks = rules.flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
        Peer::Block(block) => Some(block),
        Peer::Pods { .. } => None,
    });
    let faults = blocks.filter_map(|block| unusable_block("ipBlock", block));
    let condition = |message: String| Condition {
        kind: "NetworkPolicy",
        object: policy.key.clone(),
        reason: "UnusableBlock",
        message: message.into(),
    };
    faults.map(condition).collect()
}

/// Why no address matches `block`, if none does; `field` is what the user calls it.
fn unusable_block(field: &str, block: &IpBlock) -> Option<String> {
    let cidr = block.cidr;
    if !is_usable(&cidr) {
        return Some(format!(
            "{field} {cidr} is an IPv4 block written as IPv6, which no address matches; write it as IPv4"
        ));
    }
    // Each exception is a part of the block, but together they may be all of it.
    let left_out = IpNet::aggregate(&block.except);
    left_out
        .iter()
        .any(|except| except.contains(&cidr))
        .then(|| format!("{field} {cidr}: its exceptions leave no address; remove one of them, or the block"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use sheetbend_model::state::{
        Action, ClusterRule, LabelSelector, PodsByLabels, PolicyRule, Priority, Tier,
    };
    use sheetbend_model::types::ObjectKey;

    use super::*;

    fn faults(cidr: &str, except: &[&str]) -> Vec<String> {
        let except = except.iter().map(|text| text.parse().unwrap()).collect();
        let peers = vec![Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except })];
        let policy = NetworkPolicy {
            key: ObjectKey::new("shop", "web"),
            pod_selector: LabelSelector::default(),
            ingress: None,
            egress: Some(vec![PolicyRule { peers, ports: Vec::new() }]),
        };
        unusable_blocks(&policy).iter().map(|condition| condition.message.to_string()).collect()
    }

    #[test]
    fn a_network_that_no_address_matches_is_named() {
        let networks = ["10.0.0.0/8", "::ffff:10.0.0.0/104", "::/0"];
        let peers = networks.iter().map(|text| ClusterPeer::Network(text.parse().unwrap()));
        let rule = ClusterRule {
            index: 0,
            name: "".into(),
            action: Action::Deny,
            peers: Some(peers.collect()),
            ports: Vec::new(),
            log: false,
            fault: None,
        };
        let policy = ClusterNetworkPolicy {
            name: "p".into(),
            tier: Tier::Admin,
            priority: Priority::default(),
            subject: PodsByLabels::default(),
            ingress: Vec::new(),
            egress: vec![rule],
            fault: None,
        };
        let found = unusable_networks(&policy);
        assert_eq!(
            (found.len(), found[0].reason, found[0].kind),
            (1, "UnusableBlock", "ClusterNetworkPolicy")
        );
        assert!(found[0].message.starts_with("network ::ffff:10.0.0.0/104 "), "{}", found[0].message);
    }

    #[test]
    fn a_block_that_no_address_matches_is_named() {
        assert!(faults("10.0.0.0/8", &[]).is_empty());
        assert!(faults("::/0", &["::ffff:0:0/96"]).is_empty());
        assert!(faults("10.0.0.0/8", &["10.0.0.0/9", "10.128.0.0/10"]).is_empty());
        assert!(faults("::ffff:10.0.0.0/104", &[])[0].contains("write it as IPv4"));
        for (cidr, except) in [
            ("10.0.0.0/8", vec!["10.0.0.0/9", "10.128.0.0/10", "10.192.0.0/10"]),
            ("fd00::/8", vec!["fd80::/9", "fd00::/9"]),
        ] {
            assert!(faults(cidr, &except)[0].contains("leave no address"), "{cidr}");
        }
    }
}
