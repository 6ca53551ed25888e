//! Paths of which the same is to be said.

use super::wire::{End, Path, Side};

/// A path, and those that meet the same rules.
pub(super) struct Group<'a> {
    pub(super) first: &'a Path,
    pub(super) others: Vec<&'a Path>,
}

/// `paths` in their order, those together that meet the same.
pub(super) fn groups(paths: &[Path]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for path in paths {
        match groups.iter_mut().find(|group| is_same(group.first, path)) {
            Some(group) => group.others.push(path),
            None => groups.push(Group { first: path, others: Vec::new() }),
        }
    }
    groups
}

fn is_same(one: &Path, other: &Path) -> bool {
    let side = |one: &Side, other: &Side| {
        let rule = |of: &Side| of.nearest.as_ref().map(|nearest| (nearest.policy.clone(), nearest.rule));
        one.message == other.message
            && one.decided_by == other.decided_by
            && one.selected_by == other.selected_by
            && rule(one) == rule(other)
    };
    side(&one.egress, &other.egress) && side(&one.ingress, &other.ingress)
}

/// `shop/web-0 (10.244.1.2)`.
pub(super) fn end(end: &End) -> String {
    match (&end.pod, &end.node) {
        (Some(pod), _) => format!("{pod} ({})", end.address),
        (None, Some(node)) => format!("node {node} ({})", end.address),
        (None, None) => end.address.clone(),
    }
}

/// `10.244.1.2 → 10.244.2.3:8080`, with names where they are not those of `first`.
pub(super) fn short(first: &Path, path: &Path) -> String {
    let name = |one: &End, other: &End| {
        if one.pod == other.pod && one.node == other.node { other.address.clone() } else { end(other) }
    };
    let port = path.port.map(|port| format!(" port {port}")).unwrap_or_default();
    format!("{} → {}{port}", name(&first.source, &path.source), name(&first.destination, &path.destination))
}

/// Whose policies a side asks.
pub(super) fn subject<'a>(path: &'a Path, side: &Side) -> &'a End {
    if side.direction == "egress" { &path.source } else { &path.destination }
}
