//! Addresses that a domain name shares with others.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{ClusterPeer, Snapshot};
use sheetbend_model::types::{Direction, DomainPattern};

use super::{Code, Finding, finding};

/// Rules by domain names whose addresses other learnt names have too: what the kernel lets pass to the one it lets pass to
/// the other. Only names that some policy asks about are learnt, so that others are not found; without an agent none are.
pub(super) fn shared(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    for policy in snapshot.cluster_policies.values() {
        for rule in &policy.egress {
            for peer in rule.peers.iter().flatten() {
                let ClusterPeer::Domain(pattern) = peer else { continue };
                let at = (Direction::Egress, rule.index);
                let texts = snapshot.learnt_names.iter().filter(|(name, _)| pattern.matches(name));
                let texts = texts.flat_map(|(name, own)| others(snapshot, pattern, name, own));
                findings.extend(texts.map(|text| finding(&policy.key(), Code::SharedAddress, at, text)));
            }
        }
    }
}

/// A text for each name that `pattern` is not for and that has an address of `name`.
fn others(snapshot: &Snapshot, pattern: &DomainPattern, name: &str, own: &BTreeSet<IpAddr>) -> Vec<String> {
    let others = snapshot.learnt_names.iter().filter(|(other, _)| !pattern.matches(other));
    let text = |(other, addresses): (&Arc<str>, &Arc<BTreeSet<IpAddr>>)| {
        let addr = addresses.intersection(own).next()?;
        Some(format!(
            "{name} shares {addr} with {other}, so that pods reach {other} there too, on the ports of the rule; a proxy that \
             reads names can tell them apart, addresses cannot"
        ))
    };
    others.filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use sheetbend_model::state::{Action, ClusterNetworkPolicy, ClusterRule, PodsByLabels, Priority, Tier};

    use super::*;

    #[test]
    fn a_name_that_shares_an_address_is_named() {
        let rule = ClusterRule {
            index: 3,
            name: "".into(),
            action: Action::Accept,
            peers: Some(vec![ClusterPeer::Domain(DomainPattern::new("*.example.com").unwrap())]),
            ports: Vec::new(),
            log: false,
            fault: None,
        };
        let policy = ClusterNetworkPolicy {
            name: "names".into(),
            tier: Tier::Admin,
            priority: Priority::default(),
            subject: PodsByLabels::default(),
            ingress: Vec::new(),
            egress: vec![rule],
            fault: None,
        };
        let mut snapshot = Snapshot::default();
        snapshot.cluster_policies.insert(policy.name.clone(), Arc::new(policy));
        let mut learn = |name: &str, addresses: &[&str]| {
            let addresses = addresses.iter().map(|addr| addr.parse().unwrap()).collect();
            snapshot.learnt_names.insert(name.into(), Arc::new(addresses));
        };
        learn("a.example.com", &["192.0.2.1"]);
        learn("b.example.com", &["192.0.2.1"]);
        learn("other.test", &["192.0.2.1", "192.0.2.2"]);
        let mut findings = Vec::new();
        shared(&snapshot, &mut findings);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert_eq!(findings[0].rule, Some((Direction::Egress, 3)));
        assert!(findings[0].message.starts_with("a.example.com shares 192.0.2.1 with other.test"));
    }
}
