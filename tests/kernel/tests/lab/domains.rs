//! Peers by domain names on sockets: learnt from the answer, before it leaves.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sheetbend_kernel_tests::lab::Lab;

use crate::data;

const NAME: &str = "api.shop.svc.cluster.local";
/// (family, what the name has there, another address of the world).
const FAMILIES: [(&str, &str, &str); 2] =
    [("AF_INET", "203.0.113.7", "203.0.113.8"), ("AF_INET6", "2001:db8:0:1::5", "2001:db8:0:1::6")];

/// Connects to `to`, over the family, and prints the address and how many segments had to be sent again.
fn connect(lab: &Lab, pod: &str, family: &str, to: &str) -> anyhow::Result<Option<String>> {
    let script = format!(
        "import socket, struct\n\
         family, kind, proto, _, at = socket.getaddrinfo('{to}', 80, socket.{family}, socket.SOCK_STREAM)[0]\n\
         s = socket.socket(family, kind, proto); s.settimeout(2); s.connect(at)\n\
         s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); assert s.recv(4096)\n\
         info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)\n\
         print(at[0], struct.unpack_from('I', info, 100)[0])"
    );
    let output = lab.run("exec", &[pod, "--", "python3", "-c", &script])?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(output.status.success().then_some(said))
}

pub(crate) fn names() -> anyhow::Result<()> {
    let lab = Lab::new("kf")?;
    lab.expect(0, "up", &["-f", &data("domains.yaml")])?;
    for (family, addr, _) in FAMILIES {
        let before = connect(&lab, "shop/client", family, addr)?;
        ensure!(before.is_none(), "{addr} is open before anybody has asked for its name: {before:?}");
    }
    let (why, _) = lab.ask("policy", 0, &["why", "shop/client", "203.0.113.7:80"])?;
    ensure!(why.contains("denied by ClusterNetworkPolicy names, egress[2]"), "{why}");
    ensure!(why.contains("is no address of *.shop.svc.cluster.local that a pod of this node"), "{why}");

    for (family, addr, other) in FAMILIES {
        let first = connect(&lab, "shop/client", family, NAME)?;
        ensure!(first.as_deref() == Some(&format!("{addr} 0")), "the first connection by name: {first:?}");
        ensure!(connect(&lab, "shop/client", family, other)?.is_none(), "{other} is open, and has no name");
    }
    let (why, _) = lab.ask("policy", 0, &["why", "shop/client", "203.0.113.7:80"])?;
    ensure!(why.contains("egress[1] (api) Accept to *.shop.svc.cluster.local"), "{why}");
    ensure!(why.contains(&format!("203.0.113.7 was learnt as an address of {NAME}")), "{why}");

    others_are_not_led_astray(&lab)?;
    an_agent_that_starts_knows_it(&lab)?;
    time_is_over(&lab)
}

/// Whichever name server the pod means, its node's own answers, from the address that was asked; a pod without such policies
/// asks whom it means, and nobody answers there.
fn others_are_not_led_astray(lab: &Lab) -> anyhow::Result<()> {
    let ask = |pod: &str, server: &str| -> anyhow::Result<bool> {
        let script = format!(
            "file=$(mktemp) && printf 'nameserver {server}\\noptions timeout:1 attempts:1\\n' > $file && \
             mount --bind $file /etc/resolv.conf && rm $file && getent ahosts {NAME}"
        );
        let output = lab.run("exec", &[pod, "--", "unshare", "--mount", "sh", "-c", &script])?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("203.0.113.7"))
    };
    for server in ["203.0.113.53", "2001:db8::53"] {
        ensure!(ask("shop/client", server)?, "{server} is not answered for");
        ensure!(!ask("default/free", server)?, "{server} is answered for, and nobody asked us to");
    }
    Ok(())
}

fn an_agent_that_starts_knows_it(lab: &Lab) -> anyhow::Result<()> {
    for node in ["node-1", "node-2"] {
        lab.expect(0, "node", &[node, "kill"])?;
        lab.expect(0, "node", &[node, "start"])?;
    }
    for (family, addr, other) in FAMILIES {
        ensure!(connect(lab, "shop/client", family, addr)?.is_some(), "{addr} is closed after the start");
        ensure!(connect(lab, "shop/client", family, other)?.is_none(), "{other} is open after the start");
    }
    Ok(())
}

/// What nobody says any more is closed; but not to a connection that is there.
fn time_is_over(lab: &Lab) -> anyhow::Result<()> {
    let hold = "import socket, time\n\
        s = socket.create_connection(('2001:db8:0:1::5', 80))\n\
        print('held', flush=True); time.sleep(90)\n\
        s.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); assert s.recv(4096); print('alive', flush=True)";
    let held = lab.begin(&["shop/client", "--", "python3", "-c", hold])?;
    let start = Instant::now();
    let mut closed = false;
    while !closed && start.elapsed() < Duration::from_secs(75) {
        std::thread::sleep(Duration::from_secs(3));
        closed = connect(lab, "shop/client", "AF_INET", "203.0.113.7")?.is_none();
    }
    ensure!(closed, "203.0.113.7 is open {} s after it was said last", start.elapsed().as_secs());
    let output = held.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("alive"), "a connection was cut: {said}");
    Ok(())
}
