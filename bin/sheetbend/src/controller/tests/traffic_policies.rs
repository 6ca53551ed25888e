//! The condition on TrafficPolicies of both kinds.

use serde_json::{Value, json};
use sheetbend_testkit::api_server::ApiServer;

use super::cluster_policies::lead;
use super::until;

fn policy(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "sheetbend.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "generation": 1}, "spec": spec});
    if kind == "TrafficPolicy" {
        object["metadata"]["namespace"] = json!("shop");
    }
    object
}

async fn wait(server: &ApiServer, plural: &str, namespace: &str, name: &str, wanted: &str) -> String {
    let look = || {
        let object = server.object(plural, namespace, name)?;
        let condition = object["status"]["conditions"].as_array()?.first()?.clone();
        let word = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        (format!("{} {}", word("status"), word("reason")) == wanted).then(|| word("message"))
    };
    until(&format!("{name}: {wanted}"), look).await
}

#[tokio::test]
async fn a_traffic_policy_says_whether_it_is_followed() {
    const CLUSTER: &str = "clustertrafficpolicies";
    const NAMESPACED: &str = "trafficpolicies";
    let server = ApiServer::start();
    let with = |to: Value| json!({"egress": [{"action": "Deny", "to": [to]}]});
    let in_tier = |tier: &str| json!({"tier": tier, "egress": [{"action": "Accept"}]});
    server.put(
        "traffictiers",
        json!({"metadata": {"name": "security"},
            "spec": {"order": 1, "stage": "BeforeNetworkPolicies", "defaultAction": "Deny"}}),
    );
    server.put(CLUSTER, policy("ClusterTrafficPolicy", "right", in_tier("security")));
    server.put(CLUSTER, policy("ClusterTrafficPolicy", "lost", in_tier("missing")));
    let nodes = json!({"subject": {"nodes": {}}, "ingress": [{"action": "Deny"}]});
    server.put(CLUSTER, policy("ClusterTrafficPolicy", "nodes", nodes));
    let missing = json!({"networkSets": {"names": ["partners"]}});
    server.put(NAMESPACED, policy("TrafficPolicy", "sets", with(missing)));
    let denied = with(json!({"domainNames": ["example.com"]}));
    server.put(NAMESPACED, policy("TrafficPolicy", "names", denied));
    let accepted = json!({"egress": [{"action": "Accept", "to": [{"domainNames": ["*.example.com"]}]}]});
    server.put(NAMESPACED, policy("TrafficPolicy", "allowlist", accepted));
    server.put(NAMESPACED, policy("TrafficPolicy", "wrong", with(json!({}))));

    let (_leads, task) = lead(&server, "one").await;
    assert_eq!(wait(&server, CLUSTER, "", "right", "True Accepted").await, "");
    let lost = wait(&server, CLUSTER, "", "lost", "False NotFound").await;
    assert!(lost.contains("there is no TrafficTier missing"), "{lost}");
    let nodes = wait(&server, CLUSTER, "", "nodes", "False NotSupported").await;
    assert!(nodes.contains("spec.subject.nodes"), "{nodes}");
    let sets = wait(&server, NAMESPACED, "shop", "sets", "False NotFound").await;
    assert!(sets.contains("spec.egress[0] fails closed: there is no NetworkSet partners"), "{sets}");
    wait(&server, NAMESPACED, "shop", "allowlist", "True Accepted").await;
    let names = wait(&server, NAMESPACED, "shop", "names", "False Invalid").await;
    assert!(names.contains("spec.egress[0].to[0].domainNames"), "{names}");
    wait(&server, NAMESPACED, "shop", "wrong", "False Invalid").await;

    server.put(
        "networksets",
        json!({"metadata": {"name": "partners"}, "spec": {"networks": ["192.0.2.0/24"]}}),
    );
    assert_eq!(wait(&server, NAMESPACED, "shop", "sets", "True Accepted").await, "");
    server.put(
        "networksets",
        json!({"metadata": {"name": "partners"}, "spec": {"networks": ["192.0.2.0/33"]}}),
    );
    let sets = wait(&server, NAMESPACED, "shop", "sets", "False NotFound").await;
    assert!(sets.contains("has what is no CIDR block"), "{sets}");
    task.abort();
}

#[tokio::test]
async fn a_staged_policy_says_so_until_it_is_enforced() {
    const CLUSTER: &str = "clustertrafficpolicies";
    let server = ApiServer::start();
    // What names a tier that is not there does no harm while it is staged.
    let spec = json!({"tier": "missing", "egress": [{"action": "Accept"}]});
    let mut object = policy("ClusterTrafficPolicy", "careful", spec);
    object["metadata"]["annotations"] = json!({"sheetbend.dev/enforcement": "staged"});
    server.put(CLUSTER, object.clone());
    let (_leads, task) = lead(&server, "one").await;
    let staged = wait(&server, CLUSTER, "", "careful", "True Staged").await;
    assert!(staged.contains("is not enforced, as its annotation sheetbend.dev/enforcement says"), "{staged}");
    object["metadata"]["annotations"] = json!({"sheetbend.dev/enforcement": "enforced"});
    server.put(CLUSTER, object);
    wait(&server, CLUSTER, "", "careful", "False NotFound").await;
    task.abort();
}
