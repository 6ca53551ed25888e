#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sheetbend_intake::kube::{Access, client};
use sheetbend_shell::config::{ClusterPoolConfig, Config};
use sheetbend_testkit::api_server::ApiServer;
use tokio::sync::watch;

use super::{act, lease};

const PATIENCE: Duration = Duration::from_secs(60);

async fn client_of(server: &ApiServer) -> kube::Client {
    let path = std::env::temp_dir().join(format!(
        "sheetbend-controller-{}-{}",
        std::process::id(),
        server.url().rsplit(':').next().unwrap_or_default()
    ));
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url()}}],
        "users": [{"name": "u", "user": {}}]});
    std::fs::write(&path, text.to_string()).unwrap();
    let made = client(&Access { kubeconfig: Some(path.clone()), api_server: None }).await.unwrap();
    std::fs::remove_file(path).unwrap();
    made
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_leader_gives_ranges_and_says_what_is_wrong() {
    let server = ApiServer::start();
    server.put(
        "nodes",
        json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.244.0.0/24", "fd00::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
    );
    server.put("nodes", json!({"metadata": {"name": "b"}}));
    server.put(
        "services",
        json!({"metadata": {"namespace": "shop", "name": "web",
            "annotations": {"sheetbend.dev/load-balancing": "fastest"}},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}}),
    );
    server.put(
        "networkpolicies",
        json!({"metadata": {"namespace": "shop", "name": "broken"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{}]}]}}),
    );

    let made = client_of(&server).await;
    let pool = ClusterPoolConfig {
        blocks: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/56".parse().unwrap()],
        ..ClusterPoolConfig::default()
    };
    let (leads, leading) = watch::channel(false);
    let (task_client, config) = (made.clone(), Config::default());
    let task = tokio::spawn(async move {
        act(task_client, &pool, &config, "one".to_owned(), leading).await;
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(server.objects("events").is_empty(), "who does not lead says nothing");
    assert_eq!(server.object("nodes", "", "b").unwrap()["spec"]["podCIDRs"], Value::Null);

    leads.send_replace(true);
    let ranges = until("podCIDRs", || {
        let node = server.object("nodes", "", "b")?;
        node["spec"]["podCIDRs"].as_array().cloned()
    });
    assert_eq!(ranges.await, [json!("10.244.1.0/24"), json!("fd00:0:0:1::/64")]);
    let events = until("Events", || Some(server.objects("events")).filter(|events| events.len() >= 2)).await;
    let notes: Vec<&str> = events.iter().filter_map(|event| event["note"].as_str()).collect();
    assert!(notes.iter().any(|note| note.contains("fastest")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("are isolated and nothing is allowed")), "{notes:?}");
    let condition = until("a condition", || {
        let service = server.object("services", "shop", "web")?;
        service["status"]["conditions"].as_array()?.first().cloned()
    });
    let condition = condition.await;
    assert_eq!(
        (&condition["type"], &condition["status"]),
        (&json!("sheetbend.dev/Accepted"), &json!("False"))
    );

    let mut right = server.object("services", "shop", "web").unwrap();
    right["metadata"]["annotations"] = json!({});
    server.put("services", right);
    until("the condition is withdrawn", || {
        let service = server.object("services", "shop", "web")?;
        (service["status"]["conditions"][0]["status"] == "True").then_some(())
    })
    .await;
    task.abort();
}

#[tokio::test]
async fn a_lease_is_held_and_given_away() {
    let server = ApiServer::start();
    let made = client_of(&server).await;
    let (leads, mut leading) = watch::channel(false);
    let first = tokio::spawn(lease::run(made.clone(), "kube-system".into(), "one".into(), leads));
    tokio::time::timeout(PATIENCE, leading.wait_for(|leads| *leads)).await.unwrap().unwrap();
    let holder =
        || server.object("leases", "kube-system", lease::NAME).unwrap()["spec"]["holderIdentity"].clone();
    assert_eq!(holder(), "one");
    first.abort();
    lease::release(made.clone(), "kube-system", "one").await;
    assert_eq!(holder(), "");
    let (leads, mut leading) = watch::channel(false);
    let second = tokio::spawn(lease::run(made, "kube-system".into(), "two".into(), leads));
    tokio::time::timeout(PATIENCE, leading.wait_for(|leads| *leads)).await.unwrap().unwrap();
    assert_eq!(holder(), "two");
    second.abort();
}
