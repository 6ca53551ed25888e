//! What a change means for one flow.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::{Family, NodeName, ObjectKey, Protocol};

use super::{Change, Diff, Party, Span};

/// Finds flows in a [`Diff`] by their addresses.
#[derive(Debug)]
pub struct Index<'a> {
    owners: BTreeMap<IpAddr, Owner<'a>>,
    /// Ranges in which nobody is outside.
    of_pods: Vec<IpNet>,
    pods: BTreeMap<&'a ObjectKey, usize>,
    nodes: BTreeMap<&'a NodeName, usize>,
    blocks: BTreeMap<IpNet, usize>,
    changes: BTreeMap<(usize, usize), Vec<&'a Change>>,
}

#[derive(Clone, Copy, Debug)]
enum Owner<'a> {
    Pod(&'a ObjectKey, Option<&'a NodeName>),
    Node(&'a NodeName),
}

impl<'a> Index<'a> {
    /// For flows between those who have addresses in `cluster`.
    pub fn new(diff: &'a Diff, cluster: &'a Snapshot) -> Self {
        let mut index = Self {
            owners: BTreeMap::new(),
            of_pods: cluster.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            blocks: BTreeMap::new(),
            changes: BTreeMap::new(),
        };
        for node in cluster.nodes.values() {
            let own = node.addresses.iter().chain(&node.other_addresses);
            index.owners.extend(own.map(|addr| (addr.to_canonical(), Owner::Node(&node.name))));
        }
        // Of several that have an address the first stays: one that is not about to go, then the least key.
        let mut pods: Vec<_> = cluster.pods.values().filter(|pod| pod.is_peer()).collect();
        pods.sort_by_key(|pod| (pod.terminating, &pod.key));
        for pod in pods.into_iter().rev() {
            let owner = Owner::Pod(&pod.key, pod.node.as_ref());
            index.owners.extend(pod.addresses.iter().map(|addr| (addr.to_canonical(), owner)));
        }
        for (number, party) in diff.parties.iter().enumerate() {
            match party {
                Party::Pods(pods) => index.pods.extend(pods.iter().map(|pod| (pod, number))),
                Party::Nodes(nodes) => index.nodes.extend(nodes.iter().map(|node| (node, number))),
                Party::World(blocks) => index.blocks.extend(blocks.iter().map(|block| (*block, number))),
            }
        }
        for change in &diff.changes {
            index.changes.entry((change.source, change.destination)).or_default().push(change);
        }
        index
    }

    /// The pod that has `addr`.
    pub fn pod(&self, addr: IpAddr) -> Option<&'a ObjectKey> {
        match self.owners.get(&addr.to_canonical())? {
            Owner::Pod(key, _) => Some(key),
            Owner::Node(_) => None,
        }
    }

    /// The party of `addr`; `None` where pods have their addresses and none has this one.
    pub fn party(&self, addr: IpAddr) -> Option<usize> {
        let addr = addr.to_canonical();
        match self.owners.get(&addr) {
            Some(Owner::Pod(key, _)) => return self.pods.get(key).copied(),
            Some(Owner::Node(name)) => return self.nodes.get(name).copied(),
            None if self.of_pods.iter().any(|range| range.contains(&addr)) => return None,
            None => {}
        }
        let lengths = (0..=Family::of(addr).bits()).rev();
        let mut around = lengths.filter_map(|length| Some(IpNet::new(addr, length).ok()?.trunc()));
        around.find_map(|block| self.blocks.get(&block).copied())
    }

    /// What changes for a flow; `None`: nothing, or an end is not known. `protocol: None` = ICMP, whose `port` is not
    /// read.
    pub fn span(
        &self,
        source: IpAddr,
        destination: IpAddr,
        protocol: Option<Protocol>,
        port: u16,
    ) -> Option<&'a Span> {
        let owner = |addr: IpAddr| self.owners.get(&addr.to_canonical());
        match (owner(source), owner(destination)) {
            // A node always reaches its own pods, and a pod itself.
            (Some(Owner::Node(node)), Some(Owner::Pod(_, Some(own)))) if node == own => return None,
            (Some(Owner::Pod(from, _)), Some(Owner::Pod(to, _))) if from == to => return None,
            _ => {}
        }
        let changes = self.changes.get(&(self.party(source)?, self.party(destination)?))?;
        let family = Family::of(destination.to_canonical());
        let port = if protocol.is_some() { port } else { 0 };
        let spans = changes.iter().filter(|change| change.families.contains(&family));
        let mut spans = spans.flat_map(|change| change.spans.iter());
        spans.find(|span| span.protocol == protocol && (span.first..=span.last).contains(&port))
    }
}
