#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use serde_json::{Value, json};

use super::*;

fn converted(spec: Value) -> ClusterNetworkPolicy {
    let object = json!({"metadata": {"name": "one"}, "spec": spec});
    policy(&serde_json::from_value(object).unwrap())
}

fn with_egress(rule: Value) -> ClusterRule {
    let spec = json!({"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}, "egress": [rule]});
    let policy = converted(spec);
    assert_eq!(policy.fault, None);
    policy.egress.first().unwrap().clone()
}

#[test]
fn a_whole_policy_is_read() {
    let policy = converted(json!({
        "tier": "Baseline", "priority": 1000,
        "subject": {"pods": {"podSelector": {"matchLabels": {"app": "web"}}}},
        "ingress": [{"name": "front", "action": "Pass", "from": [{"namespaces": {"matchLabels": {"team": "a"}}}],
            "protocols": [{"destinationNamedPort": "http"}, {"udp": {"destinationPort": {"number": 53}}}]}],
        "egress": [{"action": "Deny", "to": [{"nodes": {}}, {"networks": ["10.0.0.1/8", "fd00::/8"]}],
            "protocols": [{"tcp": {"destinationPort": {"range": {"start": 8000, "end": 8100}}}}]}],
    }));
    assert_eq!((policy.tier, policy.priority.get(), policy.fault), (Tier::Baseline, 1000, None));
    assert_eq!(policy.subject.pods.to_string(), "app=web");
    let [ingress] = policy.ingress.as_slice() else { panic!("{:?}", policy.ingress) };
    assert_eq!((ingress.action, &*ingress.name, ingress.ports.len()), (Action::Pass, "front", 4));
    let [egress] = policy.egress.as_slice() else { panic!("{:?}", policy.egress) };
    let network = |text: &str| ClusterPeer::Network(text.parse().unwrap());
    let nodes = ClusterPeer::Nodes(LabelSelector::default());
    assert_eq!(egress.peers, Some(vec![nodes, network("10.0.0.0/8"), network("fd00::/8")]));
}

/// network-policy-api, on peers without a known field: for Accept rules "treat the rule as matching no traffic", for
/// Deny and Pass rules "treat the rule as a 'Deny all' rule".
#[test]
fn what_is_not_understood_fails_closed() {
    let unknown = [
        json!({"to": [{"namespaces": {}}, {"planets": {}}]}),
        json!({"to": [{"namespaces": {}}, {"domainNames": ["*"]}]}),
        json!({"to": [{"domainNames": []}]}),
        json!({"to": [{"domainNames": ["example.com"], "nodes": {}}]}),
        json!({"to": [{"domainNames": ["example.com"]}], "protocols": [{"destinationNamedPort": "http"}]}),
        json!({"to": [{"namespaces": {}, "nodes": {}}]}),
        json!({"to": [{"namespaces": {"matchExpressions": [{"key": "team", "operator": "Like", "values": ["a"]}]}}]}),
        json!({"to": [{"nodes": {"matchExpressions": [{"key": "zone", "operator": "In"}]}}]}),
        json!({"to": [{"pods": {"podSelector": {
            "matchExpressions": [{"key": "app", "operator": "Exists", "values": ["web"]}]}}}]}),
        json!({"to": []}),
        json!({"to": [{"networks": ["10.0.0.0/33"]}]}),
        json!({"to": [{"networks": ["10.0.0.0/8"]}], "protocols": [{"destinationNamedPort": "http"}]}),
        json!({"to": [{"namespaces": {}}], "protocols": []}),
        json!({"to": [{"namespaces": {}}], "protocols": [{"quic": {}}]}),
        json!({"to": [{"namespaces": {}}], "protocols": [{"tcp": {}}]}),
        json!({"to": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 70000}}}]}),
        json!({"to": [{"namespaces": {}}],
            "protocols": [{"tcp": {"destinationPort": {"range": {"start": 9, "end": 8}}}}]}),
    ];
    for rule in unknown {
        for (written, action, peers) in [
            ("Accept", Action::Accept, Some(Vec::new())),
            ("Deny", Action::Deny, None),
            ("Pass", Action::Deny, None),
            ("Log", Action::Deny, None),
        ] {
            let mut rule = rule.clone();
            rule["action"] = written.into();
            let read = with_egress(rule.clone());
            assert_eq!((read.action, &read.peers, read.ports.len()), (action, &peers, 0), "{rule}");
            assert!(read.fault.is_some(), "{rule}");
        }
    }
}

/// network-policy-api, `domainNames`: "only supported for Accept rules".
#[test]
fn domain_names_are_for_rules_that_accept() {
    let rule = |action: &str| {
        with_egress(json!({"action": action, "to": [{"domainNames": ["Example.com.", "*.example.com"]}]}))
    };
    let domain = |text: &str| ClusterPeer::Domain(DomainPattern::new(text).unwrap());
    let accept = rule("Accept");
    assert_eq!(
        (accept.peers, accept.fault),
        (Some(vec![domain("example.com"), domain("*.example.com")]), None)
    );
    for action in ["Deny", "Pass"] {
        let closed = rule(action);
        assert_eq!((closed.action, closed.peers), (Action::Deny, None));
        assert!(closed.fault.unwrap().contains("for rules that Accept"));
    }
}

#[test]
fn ingress_has_no_peers_by_address() {
    let peers =
        [json!({"nodes": {}}), json!({"networks": ["10.0.0.0/8"]}), json!({"domainNames": ["example.com"]})];
    for peer in peers {
        let policy = converted(json!({"tier": "Admin", "priority": 0, "subject": {"namespaces": {}},
            "ingress": [{"action": "Accept", "from": [peer]}]}));
        assert_eq!(policy.ingress.first().unwrap().peers, Some(Vec::new()));
    }
}

#[test]
fn a_policy_for_nobody_knows_whom_only_denies() {
    let rules = json!([
        {"action": "Accept", "from": [{"namespaces": {}}]},
        {"action": "Pass", "from": [{"namespaces": {}}]},
        {"action": "Deny", "from": [{"namespaces": {}}]},
    ]);
    for spec in [
        json!({"tier": "Edge", "priority": 3, "subject": {"namespaces": {}}, "ingress": rules}),
        json!({"tier": "Baseline", "priority": 1001, "subject": {"namespaces": {}}, "ingress": rules}),
        json!({"tier": "Baseline", "priority": 3, "subject": {}, "ingress": rules}),
        json!({"tier": "Admin", "priority": 3, "ingress": rules, "subject": {
            "namespaces": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": []}]}}}),
    ] {
        let policy = converted(spec);
        assert!(policy.fault.is_some());
        let [accept, pass, deny] = policy.ingress.as_slice() else { panic!("{policy:?}") };
        assert_eq!(accept.peers, Some(Vec::new()));
        assert_eq!((pass.action, deny.action), (Action::Deny, Action::Deny));
        assert_eq!(pass.peers.as_ref().unwrap().len(), 1, "it denies what it would have passed on");
    }
}
