#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use serde_json::{Value, json};

use super::*;

fn converted(namespace: &str, spec: Value) -> Policy {
    let spec = serde_json::from_value(spec).unwrap();
    policy(Some(&spec), ObjectKey::new(namespace, "one"))
}

fn with_egress(rule: Value) -> Rule {
    let policy = converted("", json!({"egress": [rule]}));
    assert_eq!(policy.fault, None);
    policy.egress.first().unwrap().clone()
}

#[test]
fn a_whole_policy_is_read() {
    let policy = converted(
        "",
        json!({
            "tier": "security", "order": 7,
            "subject": {"podSelector": {"matchLabels": {"app": "web"}}, "serviceAccounts": ["b", "a", "b"]},
            "ingress": [{"name": "front", "action": "Pass", "protocols": [{"tcp": {}}, {"destinationNamedPort": "http"}]}],
            "egress": [
                {"action": "Deny", "to": [
                    {"pods": {"namespaceSelector": {"matchLabels": {"team": "a"}}, "serviceAccounts": ["x"]}},
                    {"networks": [{"cidr": "10.0.0.1/8", "except": ["10.1.0.0/16"]}, {"cidr": "fd00::/8"}]},
                    {"networkSets": {"names": ["partners"]}},
                    {"networkSets": {"selector": {"matchLabels": {"kind": "bad"}}}},
                ]},
                {"action": "Accept", "log": true, "to": [{"service": {"namespace": "data", "name": "db"}}]},
            ],
        }),
    );
    assert_eq!((policy.tier.as_deref(), policy.order.get(), policy.fault), (Some("security"), 7, None));
    assert_eq!(policy.subject.accounts, ["a".into(), "b".into()]);
    let [ingress] = policy.ingress.as_slice() else { panic!("{:?}", policy.ingress) };
    assert_eq!((ingress.action, &ingress.peers, ingress.ports.len()), (Action::Pass, &None, 4));
    let [deny, accept] = policy.egress.as_slice() else { panic!("{:?}", policy.egress) };
    let block = |cidr: &str, except: &[&str]| {
        let except = except.iter().map(|text| text.parse().unwrap()).collect();
        Peer::Network(IpBlock { cidr: cidr.parse().unwrap(), except })
    };
    let peers = deny.peers.as_ref().unwrap();
    assert!(matches!(&peers[0], Peer::Pods(pods) if pods.accounts == ["x".into()]));
    assert_eq!(peers[1..3], [block("10.0.0.0/8", &["10.1.0.0/16"]), block("fd00::/8", &[])]);
    assert_eq!(peers[3], Peer::NetworkSet("partners".into()));
    assert!(matches!(&peers[4], Peer::NetworkSets(selector) if selector.to_string() == "kind=bad"));
    assert_eq!(accept.peers, Some(vec![Peer::Service(ObjectKey::new("data", "db"))]));
    assert!(accept.log && !deny.log);
    assert_eq!(converted("", json!({})).order.get(), LAST_ORDER);
    assert!(with_egress(json!({"action": "Pass", "log": true})).fault.is_some());
}

#[test]
fn a_namespaces_policy_means_its_own_namespace() {
    let policy = converted(
        "shop",
        json!({"egress": [{"action": "Accept", "to": [{"pods": {}}, {"service": {"name": "db"}}]}]}),
    );
    let peers = policy.egress[0].peers.as_ref().unwrap();
    let Peer::Pods(pods) = &peers[0] else { panic!("{peers:?}") };
    assert_eq!(pods.namespaces.to_string(), "kubernetes.io/metadata.name=shop");
    assert_eq!(peers[1], Peer::Service(ObjectKey::new("shop", "db")));
}

#[test]
fn domain_names_are_for_rules_that_accept() {
    let rule =
        |action: &str| with_egress(json!({"action": action, "to": [{"domainNames": ["*.example.com"]}]}));
    let domain = Peer::Domain(sheetbend_model::types::DomainPattern::new("*.example.com").unwrap());
    assert_eq!(rule("Accept").peers, Some(vec![domain]));
    assert_eq!((rule("Deny").peers, rule("Pass").action), (None, Action::Deny));
}

#[test]
fn what_is_not_understood_fails_closed() {
    let pods = json!([{"pods": {}}]);
    let unknown = [
        json!({"to": [{"pods": {}}, {"planets": {}}]}),
        json!({"to": [{"domainNames": ["example"]}]}),
        json!({"to": [{"domainNames": ["example.com"], "pods": {}}]}),
        json!({"to": [{"pods": {}, "networkSets": {"names": ["a"]}}]}),
        json!({"to": []}),
        json!({"from": pods}),
        json!({"to": [{"networks": [{"cidr": "10.0.0.0/33"}]}]}),
        json!({"to": [{"networks": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}]}]}),
        json!({"to": [{"networks": [{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]}]}),
        json!({"to": [{"networks": []}]}),
        json!({"to": [{"networkSets": {}}]}),
        json!({"to": [{"networkSets": {"names": []}}]}),
        json!({"to": [{"pods": {"serviceAccounts": []}}]}),
        json!({"to": [{"pods": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}}]}),
        json!({"to": [{"service": {"name": "db"}}]}),
        json!({"to": [{"service": {"name": "db", "namespace": "data"}}], "protocols": [{"tcp": {}}]}),
        json!({"to": [{"networkSets": {"names": ["a"]}}], "protocols": [{"destinationNamedPort": "http"}]}),
        json!({"to": pods, "protocols": []}),
        json!({"to": pods, "protocols": [{"quic": {}}]}),
        json!({"to": pods, "protocols": [{"icmp": {"type": 8}}]}),
        json!({"to": pods, "protocols": [{"tcp": {"destinationPort": {"number": 0}}}]}),
        json!({"to": pods, "protocols": [{"udp": {"destinationPort": {"range": {"start": 9, "end": 8}}}}]}),
    ];
    for rule in unknown {
        for (action, closed, peers) in [
            ("Accept", Action::Accept, Some(Vec::new())),
            ("Deny", Action::Deny, None),
            ("Pass", Action::Deny, None),
            ("Log", Action::Deny, None),
        ] {
            let mut rule = rule.clone();
            rule["action"] = action.into();
            let found = with_egress(rule.clone());
            assert!(found.fault.is_some(), "{rule}");
            assert_eq!((found.action, found.peers, found.ports), (closed, peers, Vec::new()), "{rule}");
        }
    }
}

#[test]
fn a_policy_without_a_known_place_only_takes_away() {
    let rules =
        json!([{"action": "Accept"}, {"action": "Pass"}, {"action": "Deny", "protocols": [{"tcp": {}}]}]);
    for (namespace, spec) in [
        ("", json!({"order": -1, "egress": rules})),
        ("", json!({"subject": {"serviceAccounts": []}, "egress": rules})),
        ("shop", json!({"tier": "security", "egress": rules})),
        ("shop", json!({"subject": {"namespaceSelector": {}}, "egress": rules})),
    ] {
        let policy = converted(namespace, spec);
        assert!(policy.fault.is_some() && policy.order.get() == 0);
        let actions: Vec<Action> = policy.egress.iter().map(|rule| rule.action).collect();
        assert_eq!(actions, [Action::Accept, Action::Deny, Action::Deny]);
        assert_eq!(policy.egress[0].peers, Some(Vec::new()));
        assert_eq!(policy.egress[2].ports.len(), 1);
    }
}

#[test]
fn a_policy_for_nodes_is_for_no_pod() {
    let egress = json!([{"action": "Deny"}]);
    let of = |subject: Value| converted("", json!({"subject": subject, "egress": egress})).subject;
    assert_eq!(of(json!({"nodes": {}})), nobody());
    assert_eq!(of(json!({"nodes": {}, "podSelector": {}})), PodsByLabels::default());
}

#[test]
fn tiers_and_sets_say_what_is_wrong_with_them() {
    let of = |spec: Value| {
        tier(&serde_json::from_value(json!({"metadata": {"name": "t"}, "spec": spec})).unwrap())
    };
    let good = of(json!({"order": 5, "stage": "AfterNetworkPolicies", "defaultAction": "Pass"}));
    assert_eq!((good.order, good.stage, good.denies), (5, Stage::AfterNetworkPolicies, false));
    assert_eq!(good.fault, None);
    for spec in [
        json!({"order": 5, "stage": "Later", "defaultAction": "Pass"}),
        json!({"order": 5, "stage": "AfterNetworkPolicies"}),
        json!({"order": 10001, "stage": "AfterNetworkPolicies", "defaultAction": "Pass"}),
    ] {
        assert!(of(spec).fault.is_some());
    }
    let of = |networks: Value| {
        let object = json!({"metadata": {"name": "s"}, "spec": {"networks": networks}});
        network_set(&serde_json::from_value(object).unwrap())
    };
    let good = of(json!(["fd00::/8", "10.1.0.1/16", "10.1.0.0/16"]));
    assert_eq!(
        good.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.1.0.0/16", "fd00::/8"]
    );
    assert!(of(json!(["10.0.0.0/8", "10.0.0.0/33"])).fault.is_some());
}
