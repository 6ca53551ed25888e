//! Two nodes, one link, and a client on it: who answers for an address of a Service, and what becomes of it when that
//! node dies, ends, or gives the address away.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_kernel_tests::netlink::agent::AgentNode;
use sheetbend_testkit::api_server::ApiServer;

pub(crate) const TESTS: &[crate::Test] = &[
    (
        "announce::the_world_reaches_the_address_again_when_its_node_dies",
        the_world_reaches_the_address_again_when_its_node_dies,
    ),
    ("announce::an_agent_that_ends_hands_its_addresses_over", an_agent_that_ends_hands_its_addresses_over),
    (
        "announce::without_an_api_server_the_preferred_node_answers",
        without_an_api_server_the_preferred_node_answers,
    ),
];

const PATIENCE: Duration = Duration::from_secs(30);
/// Addresses on the link that no device has.
const ADDRESSES: [&str; 2] = ["192.0.2.200", "2001:db8::200"];
const NODES: [&str; 2] = ["a", "b"];
/// A connection that takes longer counts as refused.
const CONNECT: Duration = Duration::from_millis(200);

/// A link with the world, the API server and two nodes on it; a pod of Service `shop/web` on each.
struct Link {
    nodes: Vec<AgentNode>,
    server: ApiServer,
    world: Netns,
    _pods: Vec<Netns>,
}

fn node_object(index: usize) -> Value {
    let host = index + 1;
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODES[index]},
        "spec": {"podCIDR": format!("10.244.{host}.0/24"),
            "podCIDRs": [format!("10.244.{host}.0/24"), format!("fd00:{host}::/64")]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{host}")},
            {"type": "InternalIP", "address": format!("2001:db8::{host}")}]}})
}

fn pod_object(index: usize) -> Value {
    let host = index + 1;
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": format!("web-{index}"), "labels": {"app": "web"}},
        "spec": {"nodeName": NODES[index], "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.244.{host}.2")}, {"ip": format!("fd00:{host}::2")}]}})
}

fn service_objects() -> Vec<(&'static str, Value)> {
    let ingress: Vec<Value> = ADDRESSES.iter().map(|addr| json!({"ip": addr, "ipMode": "VIP"})).collect();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv4", "IPv6"], "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd96::9"],
            "ports": [{"port": 80, "targetPort": 8080}]},
        "status": {"loadBalancer": {"ingress": ingress}}});
    let slice = |family: &str, address: fn(usize) -> String| {
        let endpoint = |index: usize| {
            json!({"addresses": [address(index)], "conditions": {"ready": true}, "nodeName": NODES[index],
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("web-{index}")}})
        };
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "shop", "name": format!("web-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family, "ports": [{"port": 8080}], "endpoints": [endpoint(0), endpoint(1)]})
    };
    vec![
        ("services", service),
        ("endpointslices", slice("IPv4", |index| format!("10.244.{}.2", index + 1))),
        ("endpointslices", slice("IPv6", |index| format!("fd00:{}::2", index + 1))),
        (
            "l2announcements",
            json!({"apiVersion": "sheetbend.dev/v1alpha1", "kind": "L2Announcement",
            "metadata": {"name": "all"}, "spec": {}}),
        ),
        ("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})),
    ]
}

impl Link {
    fn new(has_api_server: bool) -> Result<Self> {
        let world = Netns::new()?;
        world.ip("link add br0 type bridge stp_state 0 mcast_snooping 0")?;
        world.run(|| Ok(std::fs::write("/proc/sys/net/ipv6/conf/br0/accept_dad", "0")?))?;
        world.ip("link set br0 up")?;
        world.ip("addr add 192.0.2.100/24 dev br0")?;
        world.ip("addr add 2001:db8::100/64 dev br0 nodad")?;
        let server = world.run(|| Ok(ApiServer::start_at(Ipv4Addr::new(192, 0, 2, 100))))?;
        let mut link = Self { nodes: Vec::new(), server, world, _pods: Vec::new() };
        let mut objects = service_objects();
        objects.extend((0..2).map(|index| ("nodes", node_object(index))));
        objects.extend((0..2).map(|index| ("pods", pod_object(index))));
        for (resource, object) in &objects {
            link.server.put(resource, object.clone());
        }
        for (index, name) in NODES.iter().enumerate() {
            let mut node = AgentNode::on_bridge(&link.world, name, u8::try_from(index + 1)?)?;
            if has_api_server {
                node.watch_api_server(&link.server.url())?;
            } else {
                for (number, (_, object)) in objects.iter().enumerate() {
                    std::fs::write(node.path(&format!("objects/{number}.json")), object.to_string())?;
                }
            }
            node.start_ready(None)?;
            let pod = Netns::new()?;
            ensure!(node.cni_pod("ADD", &format!("shop/web-{index}"), &pod.path())?.ok, "{}", node.log()?);
            serve(&pod, name)?;
            link.nodes.push(node);
            link._pods.push(pod);
        }
        Ok(link)
    }

    /// Which node's pod answers at `addr` now.
    fn ask(&self, addr: &str) -> Option<String> {
        let to = SocketAddr::new(addr.parse::<IpAddr>().ok()?, 80);
        let asked = self.world.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, CONNECT)?;
            stream.set_read_timeout(Some(CONNECT))?;
            let mut name = String::new();
            stream.read_to_string(&mut name)?;
            Ok(name)
        });
        asked.ok().filter(|name| !name.is_empty())
    }

    /// Waits until `addr` is answered, by another than `except`; who answers, and after how long.
    fn answered(&self, addr: &str, except: Option<&str>) -> Result<(String, Duration)> {
        let start = Instant::now();
        loop {
            if let Some(name) = self.ask(addr).filter(|name| Some(name.as_str()) != except) {
                return Ok((name, start.elapsed()));
            }
            if start.elapsed() > PATIENCE {
                let logs: Vec<String> = self.nodes.iter().filter_map(|node| node.log().ok()).collect();
                let neighbours = self.world.ip("neigh show")?;
                bail!("nobody but {except:?} answers at {addr}\n{neighbours}\n{}", logs.join("\n\n"));
            }
        }
    }

    /// The Ethernet address that the world has for `addr`.
    fn neighbour(&self, addr: &str) -> Result<String> {
        let text = self.world.ip(&format!("neigh show {addr}"))?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
        Ok(words.nth(1).with_context(|| format!("{addr}: {text:?}"))?.to_owned())
    }

    fn mac(&self, node: &str) -> Result<String> {
        let text = self.nodes[index_of(node)?].netns.ip("link show uplink")?;
        let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether");
        Ok(words.nth(1).context("link/ether")?.to_owned())
    }

    fn holder(&self, addr: &str) -> Option<String> {
        let name = match addr.parse().ok()? {
            IpAddr::V4(addr) => format!("sheetbend-l2-{addr}"),
            IpAddr::V6(addr) => format!("sheetbend-l2-{:032x}", addr.to_bits()),
        };
        let lease = self.server.object("leases", "kube-system", &name)?;
        Some(lease["spec"]["holderIdentity"].as_str()?.to_owned())
    }
}

fn index_of(node: &str) -> Result<usize> {
    NODES.iter().position(|name| *name == node).with_context(|| format!("no node {node}"))
}

/// Every connection to port 8080 in the pod gets the node's name.
fn serve(pod: &Netns, name: &'static str) -> Result<()> {
    let listener = pod.run(|| Ok(TcpListener::bind("[::]:8080")?))?;
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in listener.incoming().flatten() {
            // A client that has gone needs no answer.
            let _ = { stream }.write_all(name.as_bytes());
        }
    });
    Ok(())
}

fn the_world_reaches_the_address_again_when_its_node_dies() -> Result<()> {
    let mut link = Link::new(true)?;
    for addr in ADDRESSES {
        let (first, _) = link.answered(addr, None)?;
        ensure!(link.holder(addr).as_ref() == Some(&first), "{addr}: {:?} and {first}", link.holder(addr));
        ensure!(link.neighbour(addr)? == link.mac(&first)?, "{addr}");
    }
    // The node of the first address dies with its link; both addresses must be the other's.
    let dead = link.holder(ADDRESSES[0]).context("held")?;
    let index = index_of(&dead)?;
    link.nodes[index].signal_kill()?;
    link.world.ip(&format!("link set p{} down", index + 1))?;
    let died = Instant::now();
    for addr in ADDRESSES {
        let (next, _) = link.answered(addr, Some(&dead))?;
        println!("{addr} is reached again {:?} after node {dead} died", died.elapsed());
        ensure!(link.holder(addr).as_ref() == Some(&next), "{addr}: {:?} and {next}", link.holder(addr));
        ensure!(link.neighbour(addr)? == link.mac(&next)?, "{addr}");
    }
    // It comes back, and nothing moves.
    link.world.ip(&format!("link set p{} up", index + 1))?;
    link.nodes[index].kill()?;
    link.nodes[index].start_ready(None)?;
    std::thread::sleep(Duration::from_secs(3));
    for addr in ADDRESSES {
        ensure!(link.holder(addr).as_ref() != Some(&dead), "{addr} moved back without need");
        // Nobody else answers when the world asks anew.
        link.world.ip("neigh flush dev br0")?;
        ensure!(link.ask(addr).is_some_and(|name| name != dead), "{addr}");
    }
    Ok(())
}

fn an_agent_that_ends_hands_its_addresses_over() -> Result<()> {
    let mut link = Link::new(true)?;
    for addr in ADDRESSES {
        link.answered(addr, None)?;
    }
    let first = link.holder(ADDRESSES[0]).context("held")?;
    link.nodes[index_of(&first)?].stop()?;
    let ended = Instant::now();
    let mut refused = 0;
    // What the ended agent built forwards on: no connection may fail while the address moves.
    while link.holder(ADDRESSES[0]).as_ref() == Some(&first)
        || link.ask(ADDRESSES[0]).as_ref() == Some(&first)
    {
        refused += usize::from(link.ask(ADDRESSES[0]).is_none());
        ensure!(ended.elapsed() < PATIENCE, "{first} has ended and still holds {}", ADDRESSES[0]);
    }
    println!("{} was {first}'s for {:?} after its agent ended", ADDRESSES[0], ended.elapsed());
    ensure!(refused == 0, "{refused} connections failed");
    let (second, _) = link.answered(ADDRESSES[0], Some(&first))?;
    // A Service without announcement is nobody's, and leaves no Lease.
    link.server.delete("l2announcements", "", "all");
    let start = Instant::now();
    while link.holder(ADDRESSES[0]).is_some() || link.holder(ADDRESSES[1]).is_some() {
        ensure!(start.elapsed() < PATIENCE, "Leases are left");
        std::thread::sleep(Duration::from_millis(20));
    }
    link.world.ip("neigh flush dev br0")?;
    for addr in ADDRESSES {
        ensure!(link.ask(addr).is_none(), "{second} still answers for {addr}");
    }
    Ok(())
}

fn without_an_api_server_the_preferred_node_answers() -> Result<()> {
    let link = Link::new(false)?;
    for addr in ADDRESSES {
        let (node, _) = link.answered(addr, None)?;
        ensure!(link.neighbour(addr)? == link.mac(&node)?, "{addr}");
        ensure!(link.holder(addr).is_none());
    }
    Ok(())
}
