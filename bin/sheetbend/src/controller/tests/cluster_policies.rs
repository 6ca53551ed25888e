//! The condition on ClusterNetworkPolicies.

use serde_json::{Value, json};
use sheetbend_shell::config::{ClusterPoolConfig, Config};
use sheetbend_testkit::api_server::ApiServer;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::act;
use super::{client_of, until};

const POLICIES: &str = "clusternetworkpolicies";

/// For every pod; `egress` are the peers of its one rule.
fn policy(name: &str, priority: u32, egress: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name, "generation": 1},
        "spec": {"tier": "Admin", "priority": priority, "subject": {"namespaces": {}},
            "egress": [{"action": "Deny", "to": egress}]}})
}

pub(super) async fn lead(server: &ApiServer, name: &str) -> (watch::Sender<bool>, JoinHandle<()>) {
    let (client, name) = (client_of(server).await, name.to_owned());
    let pool =
        ClusterPoolConfig { blocks: vec!["10.244.0.0/16".parse().unwrap()], ..ClusterPoolConfig::default() };
    let (leads, leading) = watch::channel(true);
    let task = tokio::spawn(async move { act(client, &pool, &Config::default(), name, leading).await });
    (leads, task)
}

/// The condition on a policy: status, reason and generation in one text, and the whole.
fn accepted(server: &ApiServer, name: &str) -> Option<(String, Value)> {
    let object = server.object(POLICIES, "", name)?;
    let condition =
        object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == "Accepted")?;
    let word = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    let generation = &condition["observedGeneration"];
    Some((format!("{} {} {generation}", word("status"), word("reason")), condition.clone()))
}

async fn wait(server: &ApiServer, name: &str, wanted: &str) -> Value {
    let look = || accepted(server, name).filter(|(text, _)| text == wanted).map(|(_, condition)| condition);
    until(&format!("{name}: {wanted}"), look).await
}

fn writes(server: &ApiServer) -> usize {
    server
        .requests()
        .iter()
        .filter(|request| request.starts_with("PATCH") && request.contains(POLICIES))
        .count()
}

#[tokio::test]
async fn a_cluster_policy_says_whether_it_is_followed() {
    let server = ApiServer::start();
    let everybody = json!([{"namespaces": {}}]);
    server.put("namespaces", json!({"metadata": {"name": "shop"}}));
    server.put(
        "pods",
        json!({"metadata": {"namespace": "shop", "name": "web", "uid": "w"}, "spec": {"containers": []}}),
    );
    let mut right = policy("right", 1, everybody.clone());
    let others = json!({"type": "example.com/Seen", "status": "True", "reason": "Seen", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    right["status"] = json!({"conditions": [others.clone()]});
    server.put(POLICIES, right);
    server.put(POLICIES, policy("named", 2, json!([{"domainNames": ["com"]}])));
    server.put(POLICIES, policy("wrong", 3, json!([{}])));
    server.put(POLICIES, policy("vain", 4, json!([{"networks": ["::ffff:10.0.0.0/104"]}])));
    server.put(POLICIES, policy("one", 5, everybody.clone()));
    server.put(POLICIES, policy("two", 5, everybody.clone()));

    let (_leads, first) = lead(&server, "one").await;
    let since = wait(&server, "right", "True Accepted 1").await;
    assert_eq!(since["message"], "");
    let named = wait(&server, "named", "False Invalid 1").await;
    let text = named["message"].as_str().unwrap();
    assert!(text.contains("spec.egress[0].to[0].domainNames") && text.contains("fails closed"), "{text}");
    let wrong = wait(&server, "wrong", "False Invalid 1").await;
    assert!(wrong["message"].as_str().unwrap().contains("spec.egress[0].to[0]"), "{wrong}");
    wait(&server, "vain", "True UnusableBlock 1").await;
    let shared = wait(&server, "one", "True OverlappingPriority 1").await;
    assert!(shared["message"].as_str().unwrap().contains("also that of two"), "{shared}");
    wait(&server, "two", "True OverlappingPriority 1").await;
    let events = until("Events", || Some(server.objects("events")).filter(|events| events.len() >= 5)).await;
    let about = |event: &Value| event["regarding"]["name"].as_str().unwrap().to_owned();
    assert_eq!(events.iter().map(about).filter(|name| name == "right").count(), 0);
    assert_eq!(writes(&server), 6);
    assert_eq!(server.object(POLICIES, "", "right").unwrap()["status"]["conditions"][0], others);

    // Another version that says the same; one that is put right; the other of two that goes.
    let change = |name: &str, edit: &dyn Fn(&mut Value)| {
        let mut object = server.object(POLICIES, "", name).unwrap();
        object["metadata"]["generation"] = json!(2);
        edit(&mut object["spec"]);
        server.put(POLICIES, object);
    };
    change("right", &|_| {});
    let again = wait(&server, "right", "True Accepted 2").await;
    assert_eq!(again["lastTransitionTime"], since["lastTransitionTime"]);
    change("named", &|spec| spec["egress"][0]["to"] = json!([{"networks": ["192.0.2.0/24"]}]));
    assert_eq!(wait(&server, "named", "True Accepted 2").await["message"], "");
    server.delete(POLICIES, "", "two");
    assert_eq!(wait(&server, "one", "True Accepted 1").await["message"], "");
    assert_eq!(writes(&server), 9);

    // The next leader finds all of it said, and says what is new.
    first.abort();
    let (_leads, second) = lead(&server, "two").await;
    server.put(POLICIES, policy("late", 9, everybody));
    wait(&server, "late", "True Accepted 1").await;
    assert_eq!(writes(&server), 10, "{:?}", server.requests());
    second.abort();
}

/// Each is told once, in batches between which the controller does what else there is to do.
#[tokio::test]
async fn a_thousand_cluster_policies_are_told_once_and_hold_nothing_up() {
    let server = ApiServer::start();
    server.put("namespaces", json!({"metadata": {"name": "shop"}}));
    for number in 0..1_000 {
        server.put(POLICIES, policy(&format!("p{number:03}"), number, json!([{"namespaces": {}}])));
    }
    let (_leads, task) = lead(&server, "one").await;
    until("the first conditions", || (writes(&server) > 0).then_some(())).await;
    server.put("nodes", json!({"metadata": {"name": "a"}}));
    until("podCIDRs", || server.object("nodes", "", "a")?["spec"]["podCIDRs"].as_array().cloned()).await;
    let before = writes(&server);
    assert!(before < 1_000, "podCIDRs had to wait for {before} conditions");
    until("all conditions", || (writes(&server) >= 1_000).then_some(())).await;
    wait(&server, "p999", "True Accepted 1").await;

    // What happens to others is no news for them.
    server.put(
        "pods",
        json!({"metadata": {"namespace": "shop", "name": "web", "uid": "w"}, "spec": {"containers": []}}),
    );
    let mut last = server.object(POLICIES, "", "p999").unwrap();
    last["metadata"]["generation"] = json!(2);
    server.put(POLICIES, last);
    wait(&server, "p999", "True Accepted 2").await;
    assert_eq!(writes(&server), 1_001);
    task.abort();
}
