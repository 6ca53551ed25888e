//! A cluster of many Services, as a Snapshot.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::state::{
    Endpoint, EndpointPort, EndpointSlice, Node, Service, ServicePort, Snapshot, TargetPort, Weights,
};
use sheetbend_model::types::{Family, Labels, NodeName, ObjectKey, Port, Protocol};

use super::world::{PORT, frontend, remote_pod};

/// Services of one family, their endpoints spread as evenly as whole numbers allow.
pub(crate) struct Cluster {
    /// The cluster now.
    pub(crate) snapshot: Snapshot,
    v6: bool,
    next_pod: u32,
}

impl Cluster {
    /// `services` Services with `endpoints` endpoints in all; nodes `one` (ours) and `two` (which has the pods).
    pub(crate) fn new(v6: bool, services: u32, endpoints: u32) -> anyhow::Result<Self> {
        let mut cluster = Self { snapshot: Snapshot::default(), v6, next_pod: 0 };
        for node in nodes()? {
            cluster.snapshot.nodes.insert(node.name.clone(), Arc::new(node));
        }
        for index in 0..services {
            // Services 0..rest have one endpoint more than the others.
            let count = endpoints / services + u32::from(index < endpoints % services);
            let service = Arc::new(cluster.service(index)?);
            let slice = Arc::new(cluster.slice(index, count)?);
            cluster.snapshot.services.insert(service.key.clone(), service);
            cluster.snapshot.endpoint_slices.insert(slice.key.clone(), slice);
        }
        Ok(cluster)
    }

    /// One endpoint of Service `index` goes, and a new pod's comes.
    pub(crate) fn replace_endpoint(&mut self, index: u32) {
        let endpoint = self.endpoint();
        if let Some(slice) = self.snapshot.endpoint_slices.get_mut(&slice_key(index)) {
            let slice = Arc::make_mut(slice);
            slice.endpoints.pop();
            slice.endpoints.push(endpoint);
        }
    }

    fn service(&self, index: u32) -> anyhow::Result<Service> {
        let port = Port::new(PORT)?;
        Ok(Service {
            cluster_ips: vec![frontend(self.v6, index).ip()],
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port,
                node_port: None,
                target: TargetPort::Number(port),
            }],
            selector: Labels::from([("app".into(), name(index).into())]),
            ..Service::new(ObjectKey::new("bench", name(index)))
        })
    }

    fn slice(&mut self, index: u32, endpoints: u32) -> anyhow::Result<EndpointSlice> {
        let port = EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: Some(Port::new(PORT)?) };
        Ok(EndpointSlice {
            key: slice_key(index),
            service: Some(name(index).into()),
            family: if self.v6 { Family::IPv6 } else { Family::IPv4 },
            ports: vec![port],
            endpoints: (0..endpoints).map(|_| self.endpoint()).collect(),
            weights: Weights::default(),
        })
    }

    fn endpoint(&mut self) -> Endpoint {
        let number = self.next_pod;
        self.next_pod += 1;
        let address: IpAddr = remote_pod(self.v6, number);
        Endpoint {
            address: Some(address),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: Some(NodeName::new("two")),
            pod: Some((ObjectKey::new("bench", format!("pod-{number}")), format!("uid-{number}").into())),
            hints: None,
        }
    }
}

fn nodes() -> anyhow::Result<[Node; 2]> {
    Ok([
        Node {
            name: NodeName::new("one"),
            labels: Labels::new(),
            addresses: vec!["192.168.9.1".parse()?, "fd99::1".parse()?],
            other_addresses: Vec::new(),
            pod_cidrs: vec!["10.244.0.0/24".parse()?, "fd24::/64".parse()?],
            leaving: false,
        },
        Node {
            name: NodeName::new("two"),
            labels: Labels::new(),
            addresses: vec!["192.168.9.2".parse()?, "fd99::2".parse()?],
            other_addresses: Vec::new(),
            pod_cidrs: vec!["10.128.0.0/10".parse()?, "fd28::/64".parse()?],
            leaving: false,
        },
    ])
}

fn name(index: u32) -> String {
    format!("service-{index}")
}

fn slice_key(index: u32) -> ObjectKey {
    ObjectKey::new("bench", format!("service-{index}-slice"))
}
