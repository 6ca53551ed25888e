//! A pod's veth.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sheetbend_apply::netlink::{self, AttachSpec, CheckFailure, NetlinkError};
use sheetbend_kernel_tests::netlink::Netns;
use sheetbend_model::state::{AttachmentId, Bandwidth};

pub(crate) const TESTS: &[crate::Test] = &[
    ("attach::pods_of_one_node_reach_each_other", pods_of_one_node_reach_each_other),
    ("attach::nothing_passes_before_activate", nothing_passes_before_activate),
    ("attach::no_address_is_tentative", no_address_is_tentative),
    ("attach::check_finds_what_changed", check_finds_what_changed),
    ("attach::detach_leaves_nothing_and_may_be_repeated", detach_leaves_nothing_and_may_be_repeated),
    ("attach::a_leftover_of_a_crash_is_replaced", a_leftover_of_a_crash_is_replaced),
    ("attach::a_taken_name_in_the_pod_is_refused", a_taken_name_in_the_pod_is_refused),
    ("attach::a_missing_or_own_namespace_is_refused", a_missing_or_own_namespace_is_refused),
    ("attach::activate_may_be_repeated", activate_may_be_repeated),
    ("attach::a_hundred_pods_a_second", a_hundred_pods_a_second),
];

/// The `number`th pod of 10.244.1.0/24 and fd00:1::/64.
pub(crate) fn pod_spec(netns: &Netns, number: u8) -> AttachSpec {
    let id = AttachmentId { container_id: format!("c{number}").into(), ifname: "eth0".into() };
    AttachSpec {
        netns: netns.path(),
        ifname: "eth0".to_owned(),
        host_ifname: netlink::host_ifname(&id),
        alias: format!("shop/web-{number}"),
        mtu: 1450,
        pod_mac: netlink::pod_mac(&id),
        addresses: vec![ipv4(number), ipv6(number)],
        sources: Vec::new(),
        bandwidth: Bandwidth::default(),
    }
}

pub(crate) fn ipv4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, 1, number).into()
}

pub(crate) fn ipv6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, number.into()).into()
}

/// Attaches and activates a pod on `node`.
pub(crate) fn attached(node: &Netns, spec: &AttachSpec) -> Result<u32> {
    node.run(|| {
        let made = netlink::attach(spec, None)?;
        netlink::activate(spec, made.host_ifindex)?;
        Ok(made.host_ifindex)
    })
}

/// Opens a connection from `client` to `address` on `server`; the source address that the server sees.
pub(crate) fn seen_source(client: &Netns, server: &Netns, address: IpAddr) -> Result<IpAddr> {
    let listener = server.run(|| Ok(TcpListener::bind(SocketAddr::new(address, 8080))?))?;
    let mut stream = client.run(|| {
        let target = SocketAddr::new(address, 8080);
        TcpStream::connect_timeout(&target, Duration::from_secs(2))
            .with_context(|| format!("connect to {target}"))
    })?;
    stream.write_all(b"x")?;
    let (mut accepted, source) = listener.accept()?;
    accepted.read_exact(&mut [0])?;
    Ok(source.ip())
}

fn node_with_forwarding() -> Result<Netns> {
    let node = Netns::new()?;
    node.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        Ok(std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?)
    })?;
    Ok(node)
}

fn pods_of_one_node_reach_each_other() -> Result<()> {
    let (node, a, b) = (node_with_forwarding()?, Netns::new()?, Netns::new()?);
    attached(&node, &pod_spec(&a, 2))?;
    attached(&node, &pod_spec(&b, 3))?;
    for address in [ipv4(3), ipv6(3)] {
        let source = seen_source(&a, &b, address)?;
        ensure!(source == if address.is_ipv4() { ipv4(2) } else { ipv6(2) }, "{address} saw {source}");
        // The pod reaches itself by its own loopback, which ADD has brought up.
        ensure!(seen_source(&b, &b, address)? == address);
        // And the node reaches its pods.
        node.ip("addr add 192.0.2.1/32 dev lo")?;
        node.ip("addr add 2001:db8::1/128 dev lo nodad")?;
        seen_source(&node, &b, address)?;
        node.ip("addr del 192.0.2.1/32 dev lo")?;
        node.ip("addr del 2001:db8::1/128 dev lo")?;
    }
    Ok(())
}

fn nothing_passes_before_activate() -> Result<()> {
    let (node, a) = (node_with_forwarding()?, Netns::new()?);
    let spec = pod_spec(&a, 2);
    let made = node.run(|| Ok(netlink::attach(&spec, None)?))?;
    node.ip("addr add 192.0.2.1/32 dev lo")?;
    let link = node.ip(&format!("-o link show {}", spec.host_ifname))?;
    ensure!(!link.contains(",UP") && !link.contains("<UP"), "the node's end is up already: {link}");
    let refused =
        a.run(|| Ok(TcpStream::connect_timeout(&"192.0.2.1:8080".parse()?, Duration::from_millis(300))))?;
    ensure!(refused.is_err());
    node.run(|| Ok(netlink::activate(&spec, made.host_ifindex)?))?;
    let source = seen_source(&a, &node, "192.0.2.1".parse()?)?;
    ensure!(source == ipv4(2), "{source}");
    Ok(())
}

fn no_address_is_tentative() -> Result<()> {
    let (node, a) = (node_with_forwarding()?, Netns::new()?);
    let spec = pod_spec(&a, 2);
    attached(&node, &spec)?;
    let shown = a.ip("-o addr show dev eth0")?;
    ensure!(!shown.contains("tentative"), "{shown}");
    for wanted in ["10.244.1.2/32", "fd00:1::2/128", "fe80::"] {
        ensure!(shown.contains(wanted), "{wanted} is missing: {shown}");
    }
    let host = node.ip(&format!("-o addr show dev {}", spec.host_ifname))?;
    ensure!(host.contains("fe80::1/64") && !host.contains("tentative"), "{host}");
    let link = node.ip(&format!("link show dev {}", spec.host_ifname))?;
    for wanted in ["mtu 1450", "0a:5b:00:00:00:01", "alias shop/web-2"] {
        ensure!(link.contains(wanted), "{wanted} is missing: {link}");
    }
    Ok(())
}

fn check_finds_what_changed() -> Result<()> {
    for (in_pod, change, told) in [
        (true, "addr del fd00:1::2/128 dev eth0", "lost the address fd00:1::2"),
        (true, "addr del 10.244.1.2/32 dev eth0", "lost the address 10.244.1.2"),
        (true, "route del default", "lost its default route via 169.254.1.1"),
        (true, "-6 route del default", "lost its default route via fe80::1"),
        (true, "neigh del 169.254.1.1 dev eth0", "lost its neighbour entry of the gateway 169.254.1.1"),
        (true, "link set eth0 down", "eth0 is down"),
        (true, "link set eth0 address 02:00:00:00:00:01", "has not the Ethernet address"),
        (true, "link set eth0 name eth1", "the pod has no interface eth0"),
        (false, "route del 10.244.1.2", "no route to 10.244.1.2"),
    ] {
        let (node, a) = (node_with_forwarding()?, Netns::new()?);
        let spec = pod_spec(&a, 2);
        attached(&node, &spec)?;
        node.run(|| Ok(netlink::check(&spec)?)).context("right after attach")?;
        if change.contains("name") {
            a.ip("link set eth0 down")?;
        }
        (if in_pod { &a } else { &node }).ip(change)?;
        let found = node.run(|| Ok(netlink::check(&spec)))?;
        let Err(CheckFailure::Differs(text)) = found else { anyhow::bail!("{change}: {found:?}") };
        ensure!(text.contains(told), "{change}: {text}");
    }
    Ok(())
}

fn detach_leaves_nothing_and_may_be_repeated() -> Result<()> {
    let (node, a) = (node_with_forwarding()?, Netns::new()?);
    let before =
        (node.ip("-o link")?, node.ip("route")?, node.ip("-6 route")?, node.ip("neigh show nud permanent")?);
    let spec = pod_spec(&a, 2);
    attached(&node, &spec)?;
    ensure!(node.run(|| Ok(netlink::detach(&spec.host_ifname)?))?, "it was there");
    ensure!(!node.run(|| Ok(netlink::detach(&spec.host_ifname)?))?, "it is gone");
    let after =
        (node.ip("-o link")?, node.ip("route")?, node.ip("-6 route")?, node.ip("neigh show nud permanent")?);
    ensure!(before == after, "before {before:?}, after {after:?}");
    ensure!(!a.ip("-o link")?.contains("eth0"));
    Ok(())
}

fn a_leftover_of_a_crash_is_replaced() -> Result<()> {
    let (node, old, new) = (node_with_forwarding()?, Netns::new()?, Netns::new()?);
    attached(&node, &pod_spec(&old, 2))?;
    let spec = pod_spec(&new, 2);
    attached(&node, &spec)?;
    ensure!(!old.ip("-o link")?.contains("eth0"));
    node.run(|| Ok(netlink::check(&spec)?))
}

fn a_taken_name_in_the_pod_is_refused() -> Result<()> {
    let (node, a) = (node_with_forwarding()?, Netns::new()?);
    a.ip("link add eth0 type veth peer name eth9")?;
    let spec = pod_spec(&a, 2);
    let refused = node.run(|| Ok(netlink::attach(&spec, None)))?;
    let Err(NetlinkError::Refused { what, .. }) = refused else { anyhow::bail!("{refused:?}") };
    ensure!(what.contains("eth0"), "{what}");
    ensure!(node.run(|| Ok(netlink::pod_links()?))?.is_empty());
    Ok(())
}

fn a_missing_or_own_namespace_is_refused() -> Result<()> {
    let node = Netns::new()?;
    let mut spec = pod_spec(&node, 2);
    let own = node.run(|| Ok(netlink::attach(&spec, None)))?;
    ensure!(matches!(own, Err(NetlinkError::NodeNamespace { .. })), "{own:?}");
    for path in ["/nonexistent/netns", "/etc/hostname"] {
        spec.netns = path.into();
        let missing = node.run(|| Ok(netlink::attach(&spec, None)))?;
        ensure!(
            matches!(missing, Err(NetlinkError::Namespace { .. } | NetlinkError::Refused { .. })),
            "{missing:?}"
        );
    }
    ensure!(node.run(|| Ok(netlink::pod_links()?))?.is_empty());
    Ok(())
}

fn activate_may_be_repeated() -> Result<()> {
    let (node, a) = (node_with_forwarding()?, Netns::new()?);
    let spec = pod_spec(&a, 2);
    let index = attached(&node, &spec)?;
    node.run(|| Ok(netlink::activate(&spec, index)?))?;
    let links = node.run(|| Ok(netlink::pod_links()?))?;
    let link = links.get(&spec.host_ifname).context("the link is listed")?;
    ensure!(link.up && link.host_ifindex == index, "{link:?}");
    ensure!(link.routed.iter().copied().eq([ipv4(2), ipv6(2)]), "{link:?}");
    Ok(())
}

fn a_hundred_pods_a_second() -> Result<()> {
    const PODS: u8 = 100;
    let node = node_with_forwarding()?;
    let pods: Vec<Netns> = (0..PODS).map(|_| Netns::new()).collect::<Result<_>>()?;
    let mut times = Vec::new();
    for (number, pod) in (2..).zip(&pods) {
        let spec = pod_spec(pod, number);
        let start = Instant::now();
        attached(&node, &spec)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    let (median, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("attach and activate: median {median:?}, p99 {most:?}, {PODS} pods in {total:?}");
    ensure!(total < Duration::from_secs(1), "{PODS} pods took {total:?}");
    Ok(())
}
