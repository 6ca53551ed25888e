#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sheetbend_intake::kube::{Access, client};
use sheetbend_shell::config::{ClusterPoolConfig, Config};
use sheetbend_testkit::api_server::ApiServer;
use tokio::sync::watch;

use super::{act, lease};

mod cluster_policies;
mod enforcement;
mod traffic_policies;

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

fn policy(name: &str, blocks: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}")},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": blocks}]}})
}

/// An Event for each block that no address matches, on the policy and with its uid; a new leader repeats none.
#[tokio::test]
async fn a_policy_that_the_api_took_and_that_means_nothing_is_named_once() {
    let server = ApiServer::start();
    let blocks = json!([
        {"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}},
        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/25", "192.0.2.128/25"]}},
        {"ipBlock": {"cidr": "192.0.2.0/24"}},
    ]);
    server.put("networkpolicies", policy("vain", blocks.clone()));
    server.put("networkpolicies", policy("right", json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}])));
    let made = client_of(&server).await;
    let lead = |name: &str| {
        let (leads, leading) = watch::channel(true);
        let (client, name) = (made.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            act(client, &ClusterPoolConfig::default(), &Config::default(), name, leading).await;
        });
        (leads, task)
    };
    let said = || {
        let events = server.objects("events").into_iter();
        let events = events.filter(|event| event["reason"] == "UnusableBlock");
        let about = |event: &Value| {
            let regarding = &event["regarding"];
            let uid =
                server.object("networkpolicies", "shop", regarding["name"].as_str()?)?["metadata"]["uid"]
                    .clone();
            assert_eq!((&regarding["kind"], &regarding["uid"]), (&json!("NetworkPolicy"), &uid));
            assert_eq!(
                (&event["type"], &event["metadata"]["namespace"]),
                (&json!("Warning"), &json!("shop"))
            );
            Some((regarding["name"].as_str()?.to_owned(), event["note"].as_str()?.to_owned()))
        };
        events.map(|event| about(&event).unwrap()).collect::<Vec<_>>()
    };
    let asked = |what: &str| server.requests().iter().filter(|request| request.starts_with(what)).count();
    let (create, get) = (
        "POST /apis/events.k8s.io/v1/namespaces/shop/events",
        "GET /apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/",
    );

    let (_first_leads, first) = lead("one");
    let events = until("two Events", || Some(said()).filter(|events| events.len() == 2)).await;
    assert!(events.iter().all(|(name, _)| name == "vain"), "{events:?}");
    for part in
        ["::ffff:10.0.0.0/104 is an IPv4 block written as IPv6", "192.0.2.0/24: its exceptions leave no"]
    {
        assert!(events.iter().any(|(_, note)| note.contains(part)), "{events:?}");
    }

    // Another version with the same faults is no news, nor is a change elsewhere; another policy is.
    server.put("networkpolicies", policy("vain", blocks.as_array().unwrap()[..2].into()));
    server.put("namespaces", json!({"metadata": {"name": "shop"}}));
    server.put("networkpolicies", policy("late", json!([{"ipBlock": {"cidr": "::ffff:0.0.0.0/96"}}])));
    until("a third Event", || (said().len() == 3).then_some(())).await;
    assert_eq!((asked(create), asked(get)), (3, 3), "{:?}", server.requests());

    // The next leader finds them, and asks for each once.
    first.abort();
    let (_second_leads, second) = lead("two");
    until("it looks", || (asked(create) == 6).then_some(())).await;
    server.put("networkpolicies", policy("right", json!([{"ipBlock": {"cidr": "::ffff:10.1.0.0/112"}}])));
    until("a fourth Event", || (said().len() == 4).then_some(())).await;
    assert_eq!((asked(create), asked(get)), (7, 7), "{:?}", server.requests());
    second.abort();
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

fn pool(name: &str, block: &str) -> Value {
    json!({"apiVersion": "sheetbend.dev/v1alpha1", "kind": "LoadBalancerPool",
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"blocks": [{"cidr": block}]}})
}

fn balanced(name: &str, changes: Value) -> Value {
    let mut service = json!({"metadata": {"namespace": "shop", "name": name, "annotations": {}},
        "spec": {"type": "LoadBalancer", "clusterIP": format!("10.96.0.{}", name.as_bytes()[0]), "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}});
    for (pointer, value) in changes.as_object().unwrap() {
        let (parent, last) = pointer.rsplit_once('.').unwrap();
        service[parent][last] = value.clone();
    }
    service
}

/// Addresses in the Service's status, with the status and reason of its condition.
fn assigned(server: &ApiServer, name: &str) -> Option<(Vec<String>, String)> {
    let service = server.object("services", "shop", name)?;
    let conditions = service["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|one| one["type"] == "sheetbend.dev/AddressesAssigned")?;
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    let addresses = ingress
        .iter()
        .map(|one| format!("{} {}", one["ip"].as_str().unwrap(), one["ipMode"].as_str().unwrap()));
    let word = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    Some((addresses.collect(), format!("{} {}", word("status"), word("reason"))))
}

#[tokio::test]
async fn services_get_addresses_from_pools_and_give_them_back() {
    let server = ApiServer::start();
    server.put("loadbalancerpools", pool("edge", "192.0.2.8/31"));
    server.put("services", balanced("a", json!({})));
    server.put(
        "services",
        balanced("b", json!({"metadata.annotations": {"sheetbend.dev/load-balancer-ips": "192.0.2.8"}})),
    );
    let others = balanced("others", json!({"spec.loadBalancerClass": "example.com/lb"}));
    server.put("services", others.clone());
    let made = client_of(&server).await;
    let (leads, leading) = watch::channel(true);
    let task = tokio::spawn(async move {
        act(made, &ClusterPoolConfig::default(), &Config::default(), "one".to_owned(), leading).await;
    });
    let wait = async |name: &str, addresses: &[&str], condition: &str| {
        let wanted = (addresses.iter().map(ToString::to_string).collect(), condition.to_owned());
        until(&format!("{name} {wanted:?}"), || (assigned(&server, name)? == wanted).then_some(())).await;
    };
    wait("a", &["192.0.2.9 VIP"], "True Assigned").await;
    wait("b", &["192.0.2.8 VIP"], "True Assigned").await;
    assert_eq!(server.object("services", "shop", "others").unwrap()["spec"], others["spec"]);
    assert_eq!(server.object("services", "shop", "others").unwrap()["status"], Value::Null);

    // No address is left, and the Service says so.
    server.put("services", balanced("c", json!({})));
    wait("c", &[], "False PoolExhausted").await;
    let notes = until("an Event", || {
        let events = server.objects("events");
        let notes: Vec<String> =
            events.iter().filter_map(|event| Some(event["note"].as_str()?.to_owned())).collect();
        notes.iter().any(|note| note.contains("LoadBalancerPool edge (2)")).then_some(notes)
    });
    notes.await;
    let status = until("the pool's status", || {
        let status = server.object("loadbalancerpools", "", "edge")?["status"].clone();
        (status["used"] == 2).then_some(status)
    });
    let status = status.await;
    assert_eq!((&status["addresses"], &status["conditions"][0]["status"]), (&json!("2"), &json!("True")));

    // A Service that becomes another type gives its address back, and who waits gets it.
    let mut a = server.object("services", "shop", "a").unwrap();
    a["spec"]["type"] = json!("ClusterIP");
    server.put("services", a);
    wait("a", &[], "False Released").await;
    wait("c", &["192.0.2.9 VIP"], "True Assigned").await;

    // A younger pool with an address of an older one gives nothing.
    let mut second = pool("second", "192.0.2.0/24");
    second["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    server.put("loadbalancerpools", second);
    let conflict = until("the conflict", || {
        let status = server.object("loadbalancerpools", "", "second")?["status"]["conditions"][0].clone();
        (status["status"] == "False").then_some(status)
    });
    let conflict = conflict.await;
    assert_eq!(conflict["reason"], "Conflict");
    assert!(
        conflict["message"].as_str().unwrap().contains("LoadBalancerPool edge, which is older"),
        "{conflict}"
    );

    // What the schema lets through and is wrong all the same.
    server.put("l2announcements", json!({"metadata": {"name": "edge"}, "spec": {"interfaces": ["eth 0"]}}));
    let invalid = until("the announcement's condition", || {
        Some(server.object("l2announcements", "", "edge")?["status"]["conditions"][0].clone())
            .filter(|c| !c.is_null())
    });
    assert_eq!(invalid.await["reason"], "Invalid");

    // A new leader changes nothing; deletion frees.
    leads.send_replace(false);
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.delete("services", "shop", "c");
    server.put("services", balanced("d", json!({})));
    let before = server.object("services", "shop", "b").unwrap();
    leads.send_replace(true);
    wait("d", &["192.0.2.9 VIP"], "True Assigned").await;
    assert_eq!(server.object("services", "shop", "b").unwrap(), before);
    task.abort();
}
