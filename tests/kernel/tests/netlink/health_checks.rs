//! What a load balancer is told that asks a node whether it has endpoints of a Service, and whether it forwards at all.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sheetbend_kernel_tests::netlink::agent::AgentNode;

pub(crate) const TESTS: &[crate::Test] = &[
    (
        "health_checks::load_balancers_are_told_of_endpoints_on_the_node",
        load_balancers_are_told_of_endpoints_on_the_node,
    ),
    (
        "health_checks::load_balancers_are_told_whether_the_node_forwards_and_stays",
        load_balancers_are_told_whether_the_node_forwards_and_stays,
    ),
];

const PORT: u16 = 32_100;
/// `services.healthAddress` unless it is set.
const PROXY: u16 = 10_256;
/// Until a change of the objects shows.
const SOON: Duration = Duration::from_secs(10);

/// (status, head, body); an error where nobody listens.
fn get(node: &AgentNode, to: SocketAddr, path: &str) -> Result<(u16, String, Value)> {
    let mut stream = node.netns.run(|| Ok(TcpStream::connect(to)?))?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| text.clone())?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, head.to_owned(), serde_json::from_str(body)?))
}

/// (status, weight, body); an error where nobody listens.
fn ask(node: &AgentNode, addr: IpAddr) -> Result<(u16, String, Value)> {
    let (status, head, body) = get(node, SocketAddr::new(addr, PORT), "/healthz")?;
    let weight = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("X-Load-Balancing-Endpoint-Weight"));
    let weight = weight.with_context(|| head.clone())?.1.to_owned();
    Ok((status, weight, body))
}

fn endpoints(node: &AgentNode, on: &[&str]) -> Result<()> {
    let endpoints: Vec<Value> = (1..)
        .zip(on)
        .map(|(number, name)| json!({"addresses": [format!("10.1.{number}.9")], "nodeName": name}))
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": 8080}], "endpoints": endpoints,
    });
    let (draft, place) = (node.path("slice.draft"), node.path("objects/slice.json"));
    fs::write(&draft, slice.to_string())?;
    Ok(fs::rename(&draft, &place)?)
}

fn until(node: &AgentNode, wanted: (u16, &str)) -> Result<Value> {
    let end = Instant::now() + SOON;
    loop {
        let found = ask(node, "192.0.2.1".parse()?);
        match found {
            Ok((status, weight, body)) if (status, weight.as_str()) == wanted => return Ok(body),
            found if Instant::now() > end => bail!("{found:?} instead of {wanted:?}: {}", node.log()?),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn load_balancers_are_told_of_endpoints_on_the_node() -> Result<()> {
    let mut node = AgentNode::new(&["10.1.1.0/24", "fd00:1::/64"])?;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": PORT,
            "clusterIP": "10.96.0.10", "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]},
    });
    let place = node.path("objects/service.json");
    fs::write(&place, service.to_string())?;
    endpoints(&node, &["b"])?;
    node.start_ready(None)?;
    let body = until(&node, (503, "0"))?;
    ensure!(body["service"] == json!({"namespace": "shop", "name": "web"}), "{body}");
    endpoints(&node, &["a", "b", "a"])?;
    let body = until(&node, (200, "2"))?;
    ensure!(body["localEndpoints"] == 2 && body["serviceProxyHealthy"] == true, "{body}");
    ensure!(ask(&node, "2001:db8::1".parse()?)?.0 == 200, "asked in IPv6");
    fs::remove_file(&place)?;
    let end = Instant::now() + SOON;
    while ask(&node, "192.0.2.1".parse()?).is_ok() {
        ensure!(Instant::now() < end, "the port is served for a Service that is gone");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// As kube-proxy says it: a node that a cluster autoscaler will delete is alive, but not for new connections (KEP-3836).
fn load_balancers_are_told_whether_the_node_forwards_and_stays() -> Result<()> {
    let mut node = AgentNode::new(&["10.1.1.0/24", "fd00:1::/64"])?;
    node.start_ready(None)?;
    let place = node.path("objects/node.json");
    let mut object: Value = serde_json::from_slice(&fs::read(&place)?)?;
    let to = |addr: &str| Ok::<_, anyhow::Error>(SocketAddr::new(addr.parse()?, PROXY));
    let (status, _, body) = get(&node, to("192.0.2.1")?, "/healthz")?;
    ensure!(
        status == 200 && body == json!({"serviceProxyHealthy": true, "nodeEligible": true}),
        "{status} {body}"
    );
    ensure!(get(&node, to("2001:db8::1")?, "/livez")?.0 == 200, "asked in IPv6");
    object["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    let draft = node.path("node.draft");
    fs::write(&draft, object.to_string())?;
    fs::rename(&draft, &place)?;
    let end = Instant::now() + SOON;
    while get(&node, to("192.0.2.1")?, "/healthz")?.0 != 503 {
        ensure!(Instant::now() < end, "the node is still for new connections: {}", node.log()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (status, _, body) = get(&node, to("192.0.2.1")?, "/livez")?;
    ensure!(status == 200 && body["serviceProxyHealthy"] == true, "{status} {body}");
    Ok(())
}
