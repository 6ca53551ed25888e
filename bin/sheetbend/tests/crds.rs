//! The schemas of our resources keep all that we read: an API server drops what a schema does not name.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sheetbend_intake::resources::{NetworkSetSpec, TrafficPolicySpec, TrafficTierSpec};

const TRAFFIC: &str = include_str!("../../../deploy/kubernetes/base/crds-traffic.yaml");

/// Kind → schema of `spec`.
fn schemas() -> BTreeMap<String, Value> {
    let documents = TRAFFIC.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).unwrap());
    documents
        .map(|crd| {
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            (crd["spec"]["names"]["kind"].as_str().unwrap().to_owned(), schema.clone())
        })
        .collect()
}

/// The places of `value` that `schema` does not name.
fn dropped(place: &str, schema: &Value, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let place = format!("{place}.{name}");
                let known = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
                match known {
                    Some(known) => dropped(&place, known, value, found),
                    None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
                    None => found.push(place),
                }
            }
        }
        Value::Array(elements) => {
            elements.iter().for_each(|element| dropped(place, &schema["items"], element, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn selector() -> Value {
    json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]})
}

/// A spec with every field that the types have.
fn whole(is_cluster: bool) -> Value {
    let pods = json!({"namespaceSelector": selector(), "podSelector": selector(), "serviceAccounts": ["a"]});
    let port = json!({"destinationPort": {"number": 1, "range": {"start": 1, "end": 2}}});
    let peer = |direction: &str| {
        let mut peer = json!({"pods": pods, "networks": [{"cidr": "::/0", "except": ["::/1"]}],
            "networkSets": {"names": ["a"], "selector": selector()}, "domainNames": ["a"]});
        if direction == "to" {
            peer["service"] = json!({"namespace": "a", "name": "b"});
        }
        peer
    };
    let rule = |direction: &str| {
        json!([{"name": "a", "action": "Deny", "log": true, direction: [peer(direction)], "protocols": [
            {"tcp": port, "udp": port, "sctp": port, "destinationNamedPort": "a", "icmp": {"type": 8}}]}])
    };
    let mut spec = json!({"order": 1, "subject": {"podSelector": selector(), "serviceAccounts": ["a"]},
        "ingress": rule("from"), "egress": rule("to")});
    if is_cluster {
        spec["tier"] = json!("a");
        spec["subject"]["namespaceSelector"] = selector();
        spec["subject"]["nodes"] = selector();
    }
    spec
}

#[test]
fn a_schema_names_every_field_that_is_read() {
    let schemas = schemas();
    let read = |spec: Value| serde_json::from_value::<TrafficPolicySpec>(spec).unwrap();
    let tier = json!({"order": 1, "stage": "a", "defaultAction": "b"});
    let tier = serde_json::from_value::<TrafficTierSpec>(tier).unwrap();
    let set = serde_json::from_value::<NetworkSetSpec>(json!({"networks": ["::/0"]})).unwrap();
    for (kind, spec) in [
        // Written again by the types, so that a field that they do not have is none here.
        ("ClusterTrafficPolicy", serde_json::to_value(read(whole(true))).unwrap()),
        ("TrafficPolicy", serde_json::to_value(read(whole(false))).unwrap()),
        ("TrafficTier", serde_json::to_value(tier).unwrap()),
        ("NetworkSet", serde_json::to_value(set).unwrap()),
    ] {
        if kind.ends_with("TrafficPolicy") {
            assert_eq!(spec, whole(kind.starts_with("Cluster")), "the types of {kind} lack a field");
        }
        let mut found = Vec::new();
        dropped("spec", &schemas[kind], &spec, &mut found);
        assert!(found.is_empty(), "{kind}: an API server drops {found:?}");
    }
}
