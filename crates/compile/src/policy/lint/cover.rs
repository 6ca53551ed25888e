//! Whether one rule's peers and ports are certainly among another's, whatever pods there are.

use sheetbend_model::state::{
    ClusterPeer, IpBlock, LabelSelector, Operator, Peer, PodsByLabels, PolicyPort, PortMatch, Requirement,
};
use sheetbend_model::types::{DomainPattern, Protocol};

/// Whether whoever `special` matches, `general` matches too.
pub(super) fn selector(general: &LabelSelector, special: &LabelSelector) -> bool {
    requirements(general).all(|wanted| requirements(special).any(|given| implies(&given, &wanted)))
}

fn requirements(selector: &LabelSelector) -> impl Iterator<Item = Requirement> {
    let equals = selector.match_labels.iter().map(|(key, value)| Requirement {
        key: key.clone(),
        operator: Operator::In,
        values: vec![value.clone()],
    });
    equals.chain(selector.match_expressions.iter().cloned())
}

/// Whether labels that fulfil `given` fulfil `wanted`.
fn implies(given: &Requirement, wanted: &Requirement) -> bool {
    let among =
        |of: &Requirement, all: &Requirement| of.values.iter().all(|value| all.values.contains(value));
    let apart = || !given.values.iter().any(|value| wanted.values.contains(value));
    given.key == wanted.key
        && match (given.operator, wanted.operator) {
            (Operator::In, Operator::In) => among(given, wanted),
            (Operator::In, Operator::NotIn) => apart(),
            (Operator::In | Operator::Exists, Operator::Exists) => true,
            (Operator::NotIn, Operator::NotIn) => among(wanted, given),
            (Operator::DoesNotExist, Operator::NotIn | Operator::DoesNotExist) => true,
            (Operator::In | Operator::NotIn | Operator::Exists | Operator::DoesNotExist, _) => false,
        }
}

/// The same of pods by labels.
pub(super) fn pods(general: &PodsByLabels, special: &PodsByLabels) -> bool {
    let accounts = general.accounts.is_empty()
        || (!special.accounts.is_empty()
            && special.accounts.iter().all(|own| general.accounts.contains(own)));
    accounts && selector(&general.namespaces, &special.namespaces) && selector(&general.pods, &special.pods)
}

/// Whether every name of `special` is one of `general`.
fn domain(general: &DomainPattern, special: &DomainPattern) -> bool {
    let below = special.as_str().strip_prefix("*.");
    match below {
        None => general.matches(special.as_str()),
        // Names below a name are below what that name is below.
        Some(below) => general == special || (general.as_str().starts_with('*') && general.matches(below)),
    }
}

/// The same of peers of ClusterNetworkPolicies.
pub(super) fn cluster_peer(general: &ClusterPeer, special: &ClusterPeer) -> bool {
    match (general, special) {
        (ClusterPeer::Pods(general), ClusterPeer::Pods(special)) => pods(general, special),
        (ClusterPeer::Nodes(general), ClusterPeer::Nodes(special)) => selector(general, special),
        (ClusterPeer::Network(general), ClusterPeer::Network(special)) => general.contains(special),
        (ClusterPeer::Block(general), ClusterPeer::Block(special)) => block(general, special),
        (ClusterPeer::Domain(general), ClusterPeer::Domain(special)) => domain(general, special),
        (ClusterPeer::Blocks(general), ClusterPeer::Blocks(special)) => {
            special.cidrs.iter().all(|own| general.cidrs.iter().any(|all| all.contains(own)))
        }
        (
            ClusterPeer::Pods(_)
            | ClusterPeer::Nodes(_)
            | ClusterPeer::Network(_)
            | ClusterPeer::Domain(_)
            | ClusterPeer::Block(_)
            | ClusterPeer::Blocks(_),
            _,
        ) => false,
    }
}

/// The same of peers of one NetworkPolicy.
pub(super) fn peer(general: &Peer, special: &Peer) -> bool {
    match (general, special) {
        (Peer::Block(general), Peer::Block(special)) => block(general, special),
        (Peer::Pods { namespaces: of, pods: general }, Peer::Pods { namespaces: also, pods: special }) => {
            let everybody = LabelSelector::default();
            let namespaces = match (of, also) {
                (None, None) => true,
                (Some(general), Some(special)) => selector(general, special),
                // The policy's own namespace is one of all.
                (Some(general), None) => *general == everybody,
                (None, Some(_)) => false,
            };
            let pods =
                selector(general.as_ref().unwrap_or(&everybody), special.as_ref().unwrap_or(&everybody));
            namespaces && pods
        }
        (Peer::Block(_) | Peer::Pods { .. }, _) => false,
    }
}

fn block(general: &IpBlock, special: &IpBlock) -> bool {
    general.cidr.contains(&special.cidr)
        && general.except.iter().all(|hole| {
            let apart = !hole.contains(&special.cidr) && !special.cidr.contains(hole);
            apart || special.except.iter().any(|own| own.contains(hole))
        })
}

/// Whether `wanted` is among the ports of `given` together. Each of `given` is the `ports` of a rule; an empty one is
/// every port of every protocol.
pub(super) fn ports(given: &[&[PolicyPort]], wanted: &[PolicyPort]) -> bool {
    if given.iter().any(|ports| ports.is_empty()) {
        return true;
    }
    let given = || given.iter().flat_map(|ports| ports.iter());
    let covered = |wanted: &PolicyPort| {
        let same = |own: &&PolicyPort| own.protocol == wanted.protocol;
        let all = given().filter(same).any(|own| own.port == PortMatch::All);
        all || match &wanted.port {
            PortMatch::Named(_) => given().any(|own| own == wanted) || is_full(given(), wanted.protocol),
            PortMatch::All => is_full(given(), wanted.protocol),
            PortMatch::Range(range) => {
                interval(given(), wanted.protocol, range.first().get(), range.last().get())
            }
        }
    };
    !wanted.is_empty() && wanted.iter().all(covered)
}

fn is_full<'a>(given: impl Iterator<Item = &'a PolicyPort>, protocol: Protocol) -> bool {
    interval(given, protocol, 1, u16::MAX)
}

/// Whether ranges of `given` hold all of `first..=last`.
fn interval<'a>(
    given: impl Iterator<Item = &'a PolicyPort>,
    protocol: Protocol,
    first: u16,
    last: u16,
) -> bool {
    let mut ranges: Vec<(u32, u32)> = given
        .filter(|own| own.protocol == protocol)
        .filter_map(|own| match &own.port {
            PortMatch::Range(range) => Some((range.first().get().into(), range.last().get().into())),
            PortMatch::All | PortMatch::Named(_) => None,
        })
        .collect();
    ranges.sort_unstable();
    let mut next = u32::from(first);
    for (low, high) in ranges {
        if low <= next && next <= high {
            next = high + 1;
        }
    }
    next > u32::from(last)
}
