//! Two policy sets for the same pods, and packets about which the objects say what each set does.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use sheetbend_ebpf_abi::HOST_MAC;
use sheetbend_intake::file::{Source, parse, snapshot};
use sheetbend_model::state::{Attachment, AttachmentId, Snapshot};
use sheetbend_model::types::{Family, Mac, NetworkId, ObjectKey, Protocol};
use sheetbend_oracle::{Flow, networkpolicy};

use super::super::{Place, links};
use crate::program::frame::{Body, Frame, SYN};

const PODS: &str = include_str!("../../../testdata/policy-atomic/pods.yaml");
const SETS: [&str; 2] = [
    include_str!("../../../testdata/policy-atomic/one.yaml"),
    include_str!("../../../testdata/policy-atomic/two.yaml"),
];

/// Pods that a set judges: (name, what it receives is judged).
pub(super) const SUBJECTS: [(&str, bool); 3] = [("server", true), ("guarded", true), ("sender", false)];
/// Pods that no policy judges.
const PEERS: [&str; 3] = ["web", "batch", "other"];
const TCP_PORTS: [u16; 10] = [80, 443, 7000, 7005, 7010, 8004, 8012, 8020, 9000, 9004];
const UDP_PORTS: [u16; 1] = [53];

/// The cluster under each of the sets, with every pod attached to a device of this node.
pub(super) fn both(place: &Place) -> anyhow::Result<[Snapshot; 2]> {
    let [mut one, mut two] = [read(SETS[0])?, read(SETS[1])?];
    for pod in one.pods.values() {
        let attachment = attach(place, &pod.key, pod.addresses.iter().collect())?;
        let id = attachment.id.clone();
        two.attachments.insert(id, attachment.into());
    }
    one.attachments = two.attachments.clone();
    Ok([one, two])
}

fn read(set: &str) -> anyhow::Result<Snapshot> {
    let source = |name: &str, text: &str| Source { name: Path::new(name).into(), bytes: text.into() };
    let manifests = parse(&[source("pods.yaml", PODS), source("set.yaml", set)]);
    let manifests = manifests.map_err(|errors| anyhow!("{errors:?}"))?;
    Ok(snapshot(manifests.objects.values().map(|manifest| &*manifest.object)))
}

fn attach(place: &Place, pod: &ObjectKey, addresses: Vec<IpAddr>) -> anyhow::Result<Attachment> {
    let id = AttachmentId { container_id: Arc::clone(&pod.name), ifname: "eth0".into() };
    let link = links(&id).context("a link")?;
    let host_ifindex = place.device()?;
    Ok(Attachment {
        pod: Some(pod.clone()),
        pod_uid: None,
        netns: format!("/run/netns/{}", pod.name).into(),
        network: NetworkId::default(),
        addresses,
        host_ifname: place.name(host_ifindex)?.into(),
        host_ifindex,
        host_mac: Mac(HOST_MAC),
        pod_mac: link.mac,
        mtu: link.mtu,
        bandwidth: Default::default(),
        id,
    })
}

/// A packet that a pod of this node sends, and what the sets say of it.
#[derive(Debug)]
pub(super) struct Probe {
    /// Index in [`SUBJECTS`].
    pub(super) subject: usize,
    /// The sender's device.
    pub(super) ifindex: u32,
    /// Whether each set lets it pass.
    pub(super) allows: [bool; 2],
    mac: [u8; 6],
    source: IpAddr,
    destination: IpAddr,
    protocol: Protocol,
    port: u16,
}

impl Probe {
    /// The first packet of a flow from `port`.
    pub(super) fn frame(&self, port: u16) -> Vec<u8> {
        let body = match self.protocol {
            Protocol::Tcp => Body::Tcp(port, self.port, SYN, Vec::new()),
            Protocol::Udp | Protocol::Sctp => Body::Udp(port, self.port, vec![0; 8]),
        };
        Frame::new(self.mac, HOST_MAC, self.source, self.destination, body).bytes()
    }
}

/// Every packet of `family`, one for each subject, peer and port.
pub(super) fn probes(clusters: &[Snapshot; 2], family: Family) -> anyhow::Result<Vec<Probe>> {
    let tcp = TCP_PORTS.map(|port| (Protocol::Tcp, port));
    let udp = UDP_PORTS.map(|port| (Protocol::Udp, port));
    let mut probes = Vec::new();
    for (protocol, port) in tcp.into_iter().chain(udp) {
        for (subject, (name, receives)) in SUBJECTS.into_iter().enumerate() {
            for peer in PEERS {
                let (from, to) = if receives { (peer, name) } else { (name, peer) };
                probes.push(probe(clusters, (from, to), family, (protocol, port), subject)?);
            }
        }
    }
    for (subject, (name, _)) in SUBJECTS.into_iter().enumerate() {
        for allows in [[true, false], [false, true], [true, true], [false, false]] {
            let has = probes.iter().any(|probe| probe.subject == subject && probe.allows == allows);
            ensure!(has, "no packet of {name} is judged {allows:?} by the sets");
        }
    }
    Ok(probes)
}

fn probe(
    clusters: &[Snapshot; 2],
    (from, to): (&str, &str),
    family: Family,
    (protocol, port): (Protocol, u16),
    subject: usize,
) -> anyhow::Result<Probe> {
    let key = |name: &str| ObjectKey::new("shop", name);
    let address = |name| clusters[0].pods.get(&key(name)).and_then(|pod| pod.address(family));
    let (source, destination) = (address(from).context("a pod")?, address(to).context("a pod")?);
    let sender = clusters[0].attachments.values().find(|each| each.pod == Some(key(from)));
    let sender = sender.context("the sender is attached")?;
    let flow = Flow {
        source,
        source_pod: None,
        destination,
        destination_pod: None,
        protocol: protocol.into(),
        port,
    };
    Ok(Probe {
        subject,
        ifindex: sender.host_ifindex,
        allows: [0, 1].map(|set: usize| networkpolicy(&clusters[set], &flow).allowed),
        mac: sender.pod_mac.0,
        source,
        destination,
        protocol,
        port,
    })
}
