//! The annotation that says whether a policy, or the policies of a namespace, are enforced.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sheetbend_testkit::api_server::ApiServer;

use super::cluster_policies::lead;
use super::until;

fn annotated(mut object: Value, word: &str) -> Value {
    object["metadata"]["annotations"] = json!({"sheetbend.dev/enforcement": word});
    object
}

#[tokio::test]
async fn a_word_that_nobody_knows_is_named_on_the_object() {
    let server = ApiServer::start();
    let namespace = |name: &str, word| annotated(json!({"metadata": {"name": name}}), word);
    let policy = |name: &str, word| {
        let metadata = json!({"namespace": "shop", "name": name, "uid": format!("uid-{name}")});
        annotated(json!({"metadata": metadata, "spec": {"podSelector": {}, "ingress": [{}]}}), word)
    };
    server.put("namespaces", namespace("shop", "audit"));
    server.put("namespaces", namespace("vault", "staged"));
    server.put("networkpolicies", policy("right", "staged"));
    server.put("networkpolicies", policy("wrong", "audit"));
    let tiered = json!({"apiVersion": "sheetbend.dev/v1alpha1", "kind": "ClusterTrafficPolicy",
        "metadata": {"name": "threats", "generation": 1}, "spec": {"egress": [{"action": "Deny"}]}});
    server.put("clustertrafficpolicies", annotated(tiered, "Staged"));

    let (_leads, task) = lead(&server, "one").await;
    let said = || {
        let events = server.objects("events").into_iter();
        let events =
            events.filter(|event| event["reason"] == "TreatedAsEnforced" && event["type"] == "Warning");
        let words = events.map(|event| {
            let regarding = &event["regarding"];
            format!(
                "{} {}: {}",
                regarding["kind"].as_str().unwrap_or_default(),
                regarding["name"].as_str().unwrap_or_default(),
                event["note"].as_str().unwrap_or_default()
            )
        });
        words.collect::<BTreeSet<String>>()
    };
    let annotation = "annotation sheetbend.dev/enforcement";
    let wanted = [
        format!(
            "ClusterTrafficPolicy threats: {annotation}: \"Staged\" is none of staged, enforced; the policy is enforced"
        ),
        format!(
            "Namespace vault: {annotation}: \"staged\" is none of audit, enforced; policies are enforced for its pods"
        ),
        format!(
            "NetworkPolicy wrong: {annotation}: \"audit\" is none of staged, enforced; the policy is enforced"
        ),
    ];
    let found = until("three Events", || Some(said()).filter(|said| said.len() == 3)).await;
    assert_eq!(found, BTreeSet::from(wanted));
    // It is followed as it is written.
    let accepted = || {
        let object = server.object("clustertrafficpolicies", "", "threats")?;
        let condition = object["status"]["conditions"].as_array()?.first()?.clone();
        let is_said = condition["status"] == "True" && condition["reason"] == "TreatedAsEnforced";
        is_said.then_some(())
    };
    until("the condition says so", accepted).await;
    task.abort();
}
