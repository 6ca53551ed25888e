#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::ObjectKey;

use super::follow::trimmed;
use super::store::{Change, KINDS, Store};
use crate::file::{Kind, Object, ObjectId};

fn pod(name: &str, labels: &Value) -> Object {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": labels},
        "spec": {"nodeName": "a", "containers": [{"name": "c"}]},
    }))
    .unwrap();
    trimmed(pod)
}

fn policy(spec: &Value) -> Object {
    let policy: NetworkPolicy =
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}))
            .unwrap();
    policy.into()
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

#[test]
fn what_a_whole_list_does_not_name_is_gone_and_nothing_sooner() {
    let mut store = Store::new(KINDS, Snapshot::default());
    let labels = json!({"app": "web"});
    store.take(Change::Put(pod("kept", &labels)));
    store.take(Change::Put(pod("lost", &labels)));
    store.take(Change::Begin(Kind::Pod));
    store.take(Change::Listed(pod("kept", &labels)));
    assert!(store.snapshot().pods.contains_key(&key("lost")), "the list is not whole yet");
    // A list that breaks off and begins anew.
    store.take(Change::Begin(Kind::Pod));
    store.take(Change::Listed(pod("kept", &labels)));
    store.take(Change::Listed(pod("new", &labels)));
    store.take(Change::End(Kind::Pod));
    let names: Vec<String> = store.snapshot().pods.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/kept", "shop/new"]);
    assert!(!store.is_synced());
    KINDS.iter().copied().for_each(|kind| {
        store.take(Change::Begin(kind));
        store.take(Change::End(kind));
    });
    assert!(store.is_synced());
    assert!(store.snapshot().pods.is_empty());
}

#[test]
fn the_same_content_shares_memory() {
    let mut store = Store::new(KINDS, Snapshot::default());
    for name in ["a", "b", "c"] {
        store.take(Change::Put(pod(name, &json!({"app": "web"}))));
    }
    let labels = |name| &store.snapshot().pods[&key(name)].labels;
    assert!(std::sync::Arc::ptr_eq(labels("a"), labels("c")));
    let before = store.snapshot().clone();
    store.take(Change::Put(pod("a", &json!({"app": "web"}))));
    assert!(before.pods.ptr_eq(&store.snapshot().pods), "nothing changed, so nothing is written");
}

#[test]
fn a_found_pod_never_wins_over_a_watched_one() {
    let mut store = Store::new(KINDS, Snapshot::default());
    store.take(Change::Put(pod("a", &json!({"version": "new"}))));
    store.take(Change::Found(pod("a", &json!({"version": "old"}))));
    store.take(Change::Found(pod("b", &json!({}))));
    assert_eq!(store.snapshot().pods[&key("a")].labels["version"].as_ref(), "new");
    assert!(store.snapshot().pods.contains_key(&key("b")));
}

#[test]
fn a_broken_policy_isolates_and_allows_nothing() {
    let cases = [
        // (spec, selects every pod, ingress, egress)
        (
            json!({"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"from": [{}]}, {}]}),
            false,
            true,
            false,
        ),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}, "ingress": [{}]}),
            true,
            true,
            false,
        ),
        (json!({"podSelector": {}, "policyTypes": ["Ingres"], "ingress": [{}]}), true, true, true),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0/8"}}]}]}),
            true,
            false,
            true,
        ),
    ];
    for (spec, every_pod, ingress, egress) in cases {
        let mut store = Store::new(KINDS, Snapshot::default());
        let object = policy(&spec);
        let id = object.id();
        store.take(Change::Put(object));
        assert!(store.problems().contains_key(&id), "{spec}");
        let held = &store.snapshot().policies[&key("p")];
        assert_eq!(held.pod_selector == Default::default(), every_pod, "{spec}");
        assert_eq!(held.ingress, ingress.then(Vec::new), "{spec}");
        assert_eq!(held.egress, egress.then(Vec::new), "{spec}");
        store.take(Change::Put(policy(&json!({"podSelector": {}, "ingress": [{}]}))));
        assert!(store.problems().is_empty(), "put right");
        assert_eq!(store.snapshot().policies[&key("p")].ingress.as_ref().map(Vec::len), Some(1));
        store.take(Change::Gone(ObjectId::new(Kind::NetworkPolicy, "shop", "p")));
        assert!(store.snapshot().policies.is_empty());
    }
}

#[test]
fn what_add_published_counts_until_the_kubelet_says_more() {
    let mut store = Store::new(KINDS, Snapshot::default());
    let annotated = |status: Value| -> Object {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "shop",
                "annotations": {"sheetbend.dev/pod-ips": "10.244.1.7,fd00::7", "other": "x"}},
            "spec": {"containers": []}, "status": status,
        }))
        .unwrap();
        trimmed(pod)
    };
    store.take(Change::Put(annotated(json!({"phase": "Pending"}))));
    let addresses = |store: &Store| Vec::from(store.snapshot().pods[&key("a")].addresses);
    assert_eq!(
        addresses(&store),
        ["10.244.1.7".parse().unwrap(), "fd00::7".parse::<std::net::IpAddr>().unwrap()]
    );
    store.take(Change::Put(annotated(json!({"phase": "Running", "podIPs": [{"ip": "10.244.1.8"}]}))));
    assert_eq!(addresses(&store), ["10.244.1.8".parse::<std::net::IpAddr>().unwrap()]);
}
