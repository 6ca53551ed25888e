//! Who sends and receives, grouped by what policies before and after can tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sheetbend_model::state::Snapshot;
use sheetbend_model::types::{Family, NodeName, ObjectKey};

use super::Side;
use crate::policy::classes::ClassNode;
use crate::policy::judge::Rows;

/// Those of whom neither the policies before nor those after tell one from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// Pods with addresses of their own, sorted.
    Pods(Vec<ObjectKey>),
    /// Nodes: their own processes, and hostNetwork pods. Sorted.
    Nodes(Vec<NodeName>),
    /// Addresses outside, of one family: in one of these blocks and in no other block of a policy inside it. Sorted.
    World(Vec<IpNet>),
}

/// A party as the tables see it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) party: Party,
    /// Numbers of its set in the tables before and after; `None` = no pods.
    pub(super) sets: Option<[usize; 2]>,
    /// Numbers of the class of its addresses, by family; `None` = it has no such address.
    pub(super) classes: [Option<[usize; 2]>; 2],
}

/// What a party is known by.
type Marks = (Option<[usize; 2]>, [Option<[usize; 2]>; 2]);

/// All parties of two clusters that both sides know: pods, nodes, the world.
pub(super) fn parties(sides: &mut [Side; 2]) -> Vec<Seen> {
    let snapshots = [sides[0].snapshot().clone(), sides[1].snapshot().clone()];
    let mut pods: BTreeMap<Marks, Vec<ObjectKey>> = BTreeMap::new();
    for (key, pod) in snapshots[1].pods.iter().filter(|(_, pod)| pod.is_peer()) {
        if !snapshots[0].pods.get(key).is_some_and(|before| before.is_peer()) {
            continue;
        }
        let Some(sets) = both(sides, |side| side.set(key)) else { continue };
        let classes = Family::ALL.map(|family| both(sides, |side| side.class(pod.address(family)?)));
        pods.entry((Some(sets), classes)).or_default().push(key.clone());
    }
    let mut nodes: BTreeMap<Marks, Vec<NodeName>> = BTreeMap::new();
    for node in snapshots[1].nodes.values() {
        let classes = Family::ALL.map(|family| both(sides, |side| side.class(node.address(family)?)));
        nodes.entry((None, classes)).or_default().push(node.name.clone());
    }
    let mut world: BTreeMap<Marks, Vec<IpNet>> = BTreeMap::new();
    for (block, sample) in regions(sides, &snapshots[1]) {
        let classes = Family::ALL.map(|family| {
            if Family::of(sample) == family { both(sides, |side| side.block_class(sample)) } else { None }
        });
        world.entry((None, classes)).or_default().push(block);
    }
    let seen = |party, (sets, classes)| Seen { party, sets, classes };
    let pods = pods.into_iter().map(|(marks, of)| seen(Party::Pods(of), marks));
    let nodes = nodes.into_iter().map(|(marks, of)| seen(Party::Nodes(of), marks));
    let world = world.into_iter().map(|(marks, of)| seen(Party::World(of), marks));
    pods.chain(nodes).chain(world).collect()
}

fn both(sides: &mut [Side; 2], mut of: impl FnMut(&mut Side) -> Option<usize>) -> Option<[usize; 2]> {
    let [before, after] = sides;
    Some([of(before)?, of(after)?])
}

/// The blocks that policies of either side name, and all there is; each with an address in it that is in no block inside
/// it. Blocks of pods are left out: pods are parties of their own.
fn regions(sides: &[Side; 2], snapshot: &Snapshot) -> Vec<(IpNet, IpAddr)> {
    let of_pods: Vec<IpNet> =
        snapshot.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
    let roots = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let named = sides.iter().flat_map(|side| side.blocks());
    let blocks: BTreeSet<IpNet> = named.chain(roots).collect();
    // Blocks are sorted by their first address, those around others before them.
    let mut regions = Vec::new();
    let mut around: Vec<Open> = Vec::new();
    for block in blocks {
        while let Some(last) = around.pop() {
            if last.block.contains(&block) {
                around.push(last);
                break;
            }
            regions.extend(last.close(&mut around));
        }
        around.push(Open { block, next: Some(block.network()), free: None });
    }
    while let Some(last) = around.pop() {
        regions.extend(last.close(&mut around));
    }
    regions.retain(|(block, _)| !of_pods.iter().any(|own| own.contains(block)));
    regions.sort_unstable();
    regions
}

/// A block of which not all blocks inside it are known yet.
struct Open {
    block: IpNet,
    /// The first address behind the blocks inside it that are; `None` = there is none.
    next: Option<IpAddr>,
    /// An address in none of them.
    free: Option<IpAddr>,
}

impl Open {
    /// All blocks inside it are known, and the one around it, the last of `around`, hears of it.
    fn close(self, around: &mut [Open]) -> Option<(IpNet, IpAddr)> {
        let free = self.free.or(self.next.filter(|next| self.block.contains(next)));
        if let Some(outer) = around.last_mut() {
            if outer.next.is_some_and(|next| next < self.block.network()) {
                outer.free = outer.free.or(outer.next);
            }
            outer.next = after(self.block.broadcast());
        }
        free.map(|free| (self.block, free))
    }
}

fn after(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(addr) => u128::from(addr).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

/// The rows between one of a side's sets and one of its classes.
pub(super) fn rows(side: &Side, set: usize, class: usize) -> Option<Rows> {
    let class = side.classes.get(class)?.as_ref().map(|class: &std::sync::Arc<ClassNode>| &**class);
    Some(Rows::new(&side.sets.get(set)?.0, class))
}
