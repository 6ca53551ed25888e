//! A cluster watched through an API server that goes away, forgets and loses events.
#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sheetbend_intake::kube::{Access, Reading, Waiting, Watched, client, watch, watch_names};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::ObjectKey;
use sheetbend_testkit::api_server::{ApiServer, Streaming};

const PATIENCE: Duration = Duration::from_secs(60);

fn pod(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]}})
}

fn cluster() -> ApiServer {
    let server = ApiServer::start();
    server.put("namespaces", json!({"metadata": {"name": "shop"}}));
    server.put("nodes", json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}}));
    server.put("pods", pod("web-0", "10.244.1.2"));
    server.put(
        "services",
        json!({"metadata": {"namespace": "shop", "name": "web"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}}),
    );
    server.put(
        "endpointslices",
        json!({"metadata": {"namespace": "shop", "name": "web-1",
        "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.244.1.2"]}], "ports": [{"port": 80}]}),
    );
    server.put(
        "networkpolicies",
        json!({"metadata": {"namespace": "shop", "name": "deny"},
        "spec": {"podSelector": {}}}),
    );
    server
}

async fn watched(server: &ApiServer, waiting: Waiting) -> Watched {
    let access = Access { kubeconfig: kubeconfig(server), api_server: None };
    watch(client(&access).await.unwrap(), waiting)
}

fn kubeconfig(server: &ApiServer) -> Option<std::path::PathBuf> {
    let path = std::env::temp_dir().join(format!("sheetbend-{}-{}", std::process::id(), server.url().len()));
    let path = path.with_extension(server.url().rsplit(':').next().unwrap_or_default());
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.url()}}],
        "users": [{"name": "u", "user": {}}]});
    std::fs::write(&path, text.to_string()).unwrap();
    Some(path)
}

async fn until(watched: &mut Watched, wanted: impl FnMut(&Option<Reading>) -> bool) -> Reading {
    let mut wanted = wanted;
    let found = tokio::time::timeout(PATIENCE, watched.readings.wait_for(|reading| wanted(reading))).await;
    let newest = found.ok().map(|found| found.unwrap().clone());
    newest
        .unwrap_or_else(|| panic!("not within {PATIENCE:?}; it is {:?}", watched.readings.borrow()))
        .unwrap()
}

fn pods(reading: &Option<Reading>) -> Vec<String> {
    let pods = reading.iter().flat_map(|reading| reading.snapshot.pods.keys());
    pods.map(|key| key.name.to_string()).collect()
}

#[tokio::test]
async fn every_kind_arrives_by_streaming_lists_and_by_pages() {
    for streaming in [Streaming::Served, Streaming::Refused, Streaming::Broken] {
        let server = cluster();
        server.set_streaming(streaming);
        let mut watched = watched(&server, Waiting::default()).await;
        let reading = until(&mut watched, Option::is_some).await;
        assert!(reading.fresh);
        let Snapshot { nodes, namespaces, pods, services, endpoint_slices, policies, .. } =
            &*reading.snapshot;
        let counts = [
            nodes.len(),
            namespaces.len(),
            pods.len(),
            services.len(),
            endpoint_slices.len(),
            policies.len(),
        ];
        assert_eq!(counts, [1; 6], "streaming: {streaming:?}");
        server.put("pods", pod("web-1", "10.244.1.3"));
        until(&mut watched, |reading| pods_are(reading, &["web-0", "web-1"])).await;
        server.delete("pods", "shop", "web-0");
        until(&mut watched, |reading| pods_are(reading, &["web-1"])).await;
    }
}

fn pods_are(reading: &Option<Reading>, names: &[&str]) -> bool {
    pods(reading) == names
}

#[tokio::test]
async fn an_absent_server_changes_nothing_and_is_caught_up_with() {
    let mut server = cluster();
    let mut watched = watched(&server, Waiting::default()).await;
    until(&mut watched, Option::is_some).await;
    server.stop();
    server.put("pods", pod("web-1", "10.244.1.3"));
    server.delete("pods", "shop", "web-0");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(pods(&watched.readings.borrow()), ["web-0"], "what was known stays");
    server.resume();
    until(&mut watched, |reading| pods_are(reading, &["web-1"])).await;
}

#[tokio::test]
async fn a_server_that_forgot_is_listed_anew_and_a_lost_deletion_is_noticed() {
    let server = cluster();
    let mut watched = watched(&server, Waiting::default()).await;
    until(&mut watched, Option::is_some).await;
    let mut seen = Vec::new();
    let mut every = watched.readings.clone();
    let follower = tokio::spawn(async move {
        while every.changed().await.is_ok() {
            seen.push(pods(&every.borrow_and_update()));
            if seen.last().is_some_and(|pods| *pods == ["web-1"]) {
                break;
            }
        }
        seen
    });
    server.lose("pods", "shop", "web-0");
    server.put("pods", pod("web-1", "10.244.1.3"));
    until(&mut watched, |reading| pods_are(reading, &["web-0", "web-1"])).await;
    server.forget();
    server.break_watches();
    until(&mut watched, |reading| pods_are(reading, &["web-1"])).await;
    let seen = follower.await.unwrap();
    assert!(seen.iter().all(|pods| !pods.is_empty()), "never less than the truth: {seen:?}");
}

#[tokio::test]
async fn without_a_server_the_last_good_snapshot_is_in_force_until_the_first_full_sync() {
    let mut server = cluster();
    let mut first = watched(&server, Waiting::default()).await;
    let good = until(&mut first, Option::is_some).await;
    drop(first);
    server.stop();
    server.delete("pods", "shop", "web-0");

    let waiting =
        Waiting { last_good: Some((*good.snapshot).clone()), grace: Some(Duration::from_millis(300)) };
    let mut second = watched(&server, waiting).await;
    let reading = until(&mut second, Option::is_some).await;
    assert!(!reading.fresh, "nothing may be removed on its word");
    assert_eq!(reading.snapshot, good.snapshot);

    server.resume();
    let reading = until(&mut second, |reading| reading.as_ref().is_some_and(|reading| reading.fresh)).await;
    assert!(reading.snapshot.pods.is_empty());
}

#[tokio::test]
async fn with_a_server_nothing_old_is_ever_used() {
    let server = cluster();
    let mut old = Snapshot::default();
    let gone =
        sheetbend_model::state::Namespace { name: "gone".into(), labels: Default::default(), audit: false };
    old.namespaces.insert("gone".into(), gone.into());
    let mut watched = watched(&server, Waiting { last_good: Some(old), grace: None }).await;
    let reading = until(&mut watched, Option::is_some).await;
    assert!(reading.fresh);
    assert!(!reading.snapshot.namespaces.contains_key("gone"));
}

#[tokio::test]
async fn an_unknown_pod_costs_one_get() {
    let mut server = cluster();
    let mut watched = watched(&server, Waiting::default()).await;
    until(&mut watched, Option::is_some).await;
    // A server whose watches say nothing of the new pod.
    server.stop();
    server.put("pods", pod("late", "10.244.1.9"));
    server.forget();
    server.resume();
    let asked = Instant::now();
    watched.lookups.send(ObjectKey::new("shop", "late")).await.unwrap();
    until(&mut watched, |reading| pods(reading).contains(&"late".to_owned())).await;
    assert!(asked.elapsed() < PATIENCE);
    let gets = server.requests().iter().filter(|one| one.contains("/namespaces/shop/pods/late")).count();
    assert_eq!(gets, 1);
}

#[tokio::test]
async fn what_the_server_should_have_refused_is_named_and_closed() {
    let server = cluster();
    server.put(
        "networkpolicies",
        json!({"metadata": {"namespace": "shop", "name": "broken"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}}),
    );
    server.put(
        "services",
        json!({"metadata": {"namespace": "shop", "name": "odd"},
        "spec": {"clusterIP": "10.96.0.300", "ports": [{"port": 80}]}}),
    );
    let mut watched = watched(&server, Waiting::default()).await;
    let reading = until(&mut watched, Option::is_some).await;
    let named: Vec<String> = watched.problems.borrow().keys().map(ToString::to_string).collect();
    assert_eq!(named, ["Service shop/odd", "NetworkPolicy shop/broken"]);
    assert_eq!(reading.snapshot.policies[&ObjectKey::new("shop", "broken")].ingress, Some(Vec::new()));
    assert!(!reading.snapshot.services.contains_key(&ObjectKey::new("shop", "odd")));
}

#[tokio::test]
async fn ten_thousand_pods_are_kept_trimmed() {
    let server = cluster();
    for number in 0..10_000_u32 {
        let mut pod = pod(
            &format!("p-{number}"),
            &format!("10.{}.{}.{}", 128 + (number >> 16), number >> 8 & 255, number & 255),
        );
        pod["metadata"]["managedFields"] =
            json!([{"manager": "kubelet", "fieldsV1": {"f:status": {"f:x": {}}}}]);
        pod["metadata"]["annotations"] = json!({"big": "x".repeat(4096)});
        server.put("pods", pod);
    }
    let mut watched = watched(&server, Waiting::default()).await;
    let reading = until(&mut watched, Option::is_some).await;
    assert_eq!(reading.snapshot.pods.len(), 10_001);
    // They are 50 MB on the wire. (This process serves them too, so its size says nothing.)
    let kept: usize =
        serde_json::to_vec(&reading.snapshot.pods.values().cloned().collect::<Vec<_>>()).unwrap().len();
    assert!(kept < 4 << 20, "{kept} bytes of pods are kept");
}

#[tokio::test]
async fn the_watch_for_names_asks_for_no_pods() {
    let server = cluster();
    let access = Access { kubeconfig: kubeconfig(&server), api_server: None };
    let mut watched = watch_names(client(&access).await.unwrap(), Waiting::default());
    let reading = until(&mut watched, Option::is_some).await;
    let Snapshot { namespaces, pods, services, endpoint_slices, .. } = &*reading.snapshot;
    assert_eq!([namespaces.len(), services.len(), endpoint_slices.len(), pods.len()], [1, 1, 1, 0]);
    let asked = server.requests();
    for kind in ["/pods", "/nodes", "/networkpolicies"] {
        assert!(!asked.iter().any(|request| request.contains(kind)), "{kind}: {asked:?}");
    }
    server.delete("services", "shop", "web");
    until(&mut watched, |reading| reading.as_ref().is_some_and(|now| now.snapshot.services.is_empty())).await;
}

#[tokio::test]
async fn a_cluster_without_our_resources_is_known_and_they_may_come_later() {
    let server = cluster();
    server.set_served("l2announcements", false);
    let mut watched = watched(&server, Waiting::default()).await;
    let reading = until(&mut watched, |reading| reading.as_ref().is_some_and(|reading| reading.fresh)).await;
    assert!(reading.snapshot.l2_announcements.is_empty());
    server.set_served("l2announcements", true);
    server.put("l2announcements", json!({"metadata": {"name": "edge"}, "spec": {"interfaces": ["eth1"]}}));
    let there = |reading: &Option<Reading>| {
        reading.as_ref().is_some_and(|reading| reading.snapshot.l2_announcements.contains_key("edge"))
    };
    let reading = until(&mut watched, there).await;
    assert_eq!(reading.snapshot.l2_announcements["edge"].interfaces, ["eth1".into()]);
}

fn guard() -> Value {
    json!({"metadata": {"name": "guard"}, "spec": {"tier": "Admin", "priority": 7, "subject": {"namespaces": {}},
        "ingress": [{"action": "Deny", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {}}}]}]}})
}

fn is_guarded(reading: &Option<Reading>) -> bool {
    reading.as_ref().is_some_and(|reading| reading.snapshot.cluster_policies.contains_key("guard"))
}

#[tokio::test]
async fn a_resource_that_nobody_installed_is_empty_until_somebody_does() {
    let server = cluster();
    server.set_served("clusternetworkpolicies", false);
    let mut watched = watched(&server, Waiting::default()).await;
    let reading = until(&mut watched, |reading| reading.as_ref().is_some_and(|reading| reading.fresh)).await;
    assert!(reading.snapshot.cluster_policies.is_empty());
    server.set_served("clusternetworkpolicies", true);
    server.put("clusternetworkpolicies", guard());
    let reading = until(&mut watched, is_guarded).await;
    assert_eq!(reading.snapshot.cluster_policies["guard"].priority.get(), 7);
    server.delete("clusternetworkpolicies", "", "guard");
    until(&mut watched, |reading| !is_guarded(reading)).await;
}

#[tokio::test]
async fn a_resource_that_may_not_be_read_holds_nobody_up() {
    let server = cluster();
    server.put("clusternetworkpolicies", guard());
    let mut before = watched(&server, Waiting::default()).await;
    let known = until(&mut before, is_guarded).await;
    server.set_forbidden("clusternetworkpolicies", true);
    let waiting = Waiting { last_good: Some((*known.snapshot).clone()), ..Waiting::default() };
    let mut watched = watched(&server, waiting).await;
    let fresh = |reading: &Option<Reading>| reading.as_ref().is_some_and(|reading| reading.fresh);
    let reading = until(&mut watched, fresh).await;
    assert!(is_guarded(&Some(reading)), "what an earlier process was told stays in force");
    server.delete("clusternetworkpolicies", "", "guard");
    server.set_forbidden("clusternetworkpolicies", false);
    until(&mut watched, |reading| !is_guarded(reading)).await;
}

#[tokio::test]
async fn ranges_of_services_follow_and_a_cluster_may_lack_them() {
    let server = cluster();
    server.set_served("servicecidrs", false);
    let mut watched = watched(&server, Waiting::default()).await;
    let reading = until(&mut watched, |reading| reading.as_ref().is_some_and(|reading| reading.fresh)).await;
    assert!(reading.snapshot.service_cidrs.is_empty(), "Kubernetes before 1.33");
    server.set_served("servicecidrs", true);
    let range = |cidrs: Value| json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}});
    server.put("servicecidrs", range(json!(["10.96.0.0/16", "fd00:96::/112"])));
    let ranges = |reading: &Option<Reading>| {
        reading.as_ref().and_then(|reading| reading.snapshot.service_cidrs.get("kubernetes").cloned())
    };
    let reading = until(&mut watched, |reading| ranges(reading).is_some()).await;
    let cidrs = reading.snapshot.service_cidrs["kubernetes"].cidrs.clone();
    assert_eq!(cidrs, ["10.96.0.0/16", "fd00:96::/112"].map(|text| text.parse().unwrap()));
    // Half a range counts as none.
    server.put("servicecidrs", range(json!(["10.96.0.0/16", "somewhere"])));
    until(&mut watched, |reading| ranges(reading).is_none()).await;
    server.put("servicecidrs", range(json!(["10.96.0.0/16"])));
    until(&mut watched, |reading| ranges(reading).is_some()).await;
    server.delete("servicecidrs", "", "kubernetes");
    until(&mut watched, |reading| ranges(reading).is_none()).await;
}
