//! The node-local DNS address, asked by processes of the node.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sheetbend_kernel_tests::netlink::agent::AgentNode;

use crate::sockets::Cgroup;

pub(crate) const TESTS: &[crate::Test] = &[(
    "node_local::the_nodes_own_processes_ask_their_own_server_else_another",
    the_nodes_own_processes_ask_their_own_server_else_another,
)];

/// Until a change of the objects shows.
const SOON: Duration = Duration::from_secs(10);
const NODE_LOCAL: [&str; 2] = ["169.254.20.10", "fd5b:646e:73::a"];
/// Addresses of the server on this node, and of one that the objects say is on another.
const SERVERS: [(&str, [&str; 2]); 2] =
    [("own", ["192.0.2.1", "2001:db8::1"]), ("other", ["192.0.2.101", "2001:db8::101"])];
const PORT: u16 = 5353;

/// Says `name` to everybody who asks at `addr`, by UDP and TCP, as long as this process lives.
fn serve(node: &AgentNode, name: &'static str, addr: IpAddr) -> Result<()> {
    let at = SocketAddr::new(addr, PORT);
    let (socket, listener) = node.netns.run(|| Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?)))?;
    let answer = format!("{name}\n");
    let said = answer.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            // Who does not hear it says so.
            let _ = socket.send_to(answer.as_bytes(), from);
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let _ = stream.write_all(said.as_bytes());
        }
    });
    Ok(())
}

/// What a new process of the node, under `cgroup`, hears at `to`.
fn ask(node: &AgentNode, cgroup: &Cgroup, protocol: &str, to: &str) -> Result<String> {
    // dd reads a datagram whole; the shell would read a byte of it and lose the rest.
    let script = format!(
        "echo $$ > {}/cgroup.procs; exec 3<>/dev/{protocol}/{to}/53; echo who >&3; timeout 3 dd bs=512 count=1 status=none <&3",
        cgroup.path().display()
    );
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", node.netns.path().display())).args(["bash", "-c", &script]);
    let output = command.stderr(Stdio::piped()).output()?;
    ensure!(output.status.success(), "{protocol} to {to}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn write(node: &AgentNode, name: &str, object: &serde_json::Value) -> Result<()> {
    let draft = node.path("object.draft");
    fs::write(&draft, object.to_string())?;
    Ok(fs::rename(&draft, node.path(&format!("objects/{name}.json")))?)
}

/// The server of this node is ready or not, the other is.
fn slices(node: &AgentNode, own_is_ready: bool) -> Result<()> {
    for (index, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let endpoint = |(name, addresses): (&str, [&str; 2]), ready: bool| {
            json!({"addresses": [addresses[index]], "nodeName": if name == "own" { "a" } else { "b" },
                "conditions": {"ready": ready}})
        };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {"namespace": "kube-system", "name": format!("kube-dns-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "ports": [{"name": "dns", "port": PORT, "protocol": "UDP"}, {"name": "dns-tcp", "port": PORT, "protocol": "TCP"}],
            "endpoints": [endpoint(SERVERS[0], own_is_ready), endpoint(SERVERS[1], true)],
        });
        write(node, family, &slice)?;
    }
    Ok(())
}

/// Every way in hears `server`, often enough that chance is no explanation; before, it may take [`SOON`], and questions
/// may fail: sockets towards a server that goes are ended.
fn all_hear(node: &AgentNode, cgroup: &Cgroup, server: &str) -> Result<()> {
    let end = Instant::now() + SOON;
    for protocol in ["udp", "tcp"] {
        for to in NODE_LOCAL {
            loop {
                let heard = ask(node, cgroup, protocol, to);
                if heard.as_ref().is_ok_and(|heard| heard == server) {
                    break;
                }
                ensure!(
                    Instant::now() < end,
                    "{protocol} to {to} is not answered by {server} but {heard:?}: {}",
                    node.log()?
                );
                std::thread::sleep(Duration::from_millis(50));
            }
            for _ in 0..8 {
                let heard = ask(node, cgroup, protocol, to)?;
                ensure!(heard == server, "{protocol} to {to} is answered by {heard:?}, not by {server}");
            }
        }
    }
    Ok(())
}

fn the_nodes_own_processes_ask_their_own_server_else_another() -> Result<()> {
    let cgroup = Cgroup::new("node-local")?;
    let mut node = AgentNode::new(&["10.1.1.0/24", "fd00:1::/64"])?;
    node.netns.ip("addr add 192.0.2.101/32 dev lo")?;
    node.netns.ip("addr add 2001:db8::101/128 dev lo nodad")?;
    for (name, addresses) in SERVERS {
        for address in addresses {
            serve(&node, name, address.parse()?).with_context(|| address.to_owned())?;
        }
    }
    // Only IPv4 addresses of its own: the node-local ones need none.
    write(
        &node,
        "service",
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": "10.96.0.10", "ports": [
                {"name": "dns", "port": 53, "targetPort": PORT, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "targetPort": PORT, "protocol": "TCP"}]},
        }),
    )?;
    slices(&node, true)?;
    node.set("node.cgroup", cgroup.path());
    node.set("dns.nodeLocal", Path::new(&NODE_LOCAL.join(",")));
    node.start_ready(None)?;
    all_hear(&node, &cgroup, "own")?;
    slices(&node, false)?;
    all_hear(&node, &cgroup, "other")?;
    slices(&node, true)?;
    all_hear(&node, &cgroup, "own")
}
