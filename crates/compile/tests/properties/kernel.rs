//! A naive reader of a Dataplane: looks rows up as the kernel programs do.

use std::net::IpAddr;

use ipnet::IpNet;
use sheetbend_model::plan::{Class, Dataplane, Origin, Posture, RuleKey};
use sheetbend_model::state::AttachmentId;
use sheetbend_model::types::{AddrKey, Direction, PortPrefix, Protocol};

/// What a pod's tables say of one direction of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No row: dropped.
    NoPod,
    /// Not ready: dropped.
    Closed,
    /// Not isolated, or no rule of any tier matches: passes.
    Open,
    /// A rule lets it pass.
    Allowed(Origin),
    /// Default deny.
    Denied,
    /// A rule drops it.
    Refused(Origin),
}

impl Verdict {
    /// A policy decided, or the lack of one.
    fn is_of_policy(&self) -> bool {
        !matches!(self, Verdict::NoPod | Verdict::Closed)
    }

    pub(crate) fn passes(&self) -> bool {
        matches!(self, Verdict::Open | Verdict::Allowed(_))
    }
}

/// One direction of a packet as a pod's programs judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) direction: Direction,
    pub(crate) peer: IpAddr,
    /// `None` = ICMP echo.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) port: u16,
}

pub(crate) fn verdict(tables: &Dataplane, pod: &AttachmentId, question: &Question) -> Verdict {
    let Some(row) = tables.pods.get(pod) else { return Verdict::NoPod };
    let set = match &row.posture {
        Posture::Closed => return Verdict::Closed,
        Posture::Judged(set) if !set.judges(question.direction) => return Verdict::Open,
        Posture::Judged(set) => set,
    };
    let peer = class_of(tables, question.peer);
    for class in [peer.cloned(), None] {
        let key = |protocol, ports| RuleKey {
            set: set.clone(),
            direction: question.direction,
            class: class.clone(),
            protocol,
            ports,
        };
        let prefixes = (0..=16u8).rev().map(|len| {
            let mask = if len == 0 { 0 } else { u16::MAX << (16 - len) };
            PortPrefix { value: question.port & mask, len }
        });
        let by_port = question
            .protocol
            .into_iter()
            .flat_map(|protocol| prefixes.clone().map(move |prefix| (Some(protocol), prefix)));
        for (protocol, prefix) in by_port.chain([(None, PortPrefix::ALL)]) {
            if let Some(ruling) = tables.rules.get(&key(protocol, prefix)) {
                return match (ruling.allows, ruling.origin.clone()) {
                    (true, Some(origin)) => Verdict::Allowed(origin),
                    (true, None) => Verdict::Open,
                    (false, Some(origin)) => Verdict::Refused(origin),
                    (false, None) => Verdict::Denied,
                };
            }
        }
    }
    Verdict::Denied
}

/// Whether a pod's programs let it pass.
pub(crate) fn passes(tables: &Dataplane, pod: &AttachmentId, question: &Question) -> bool {
    let verdict = verdict(tables, pod, question);
    verdict.passes() || verdict.is_of_policy() && tables.pods.get(pod).is_some_and(|row| row.audited)
}

/// Exact, else longest match in a table where IPv4 is mapped into IPv6.
pub(crate) fn class_of(tables: &Dataplane, addr: IpAddr) -> Option<&Class> {
    if let Some(class) = tables.classes.get(&AddrKey::new(addr)) {
        return Some(class);
    }
    let (wanted, _) = mapped(IpNet::from(addr));
    let covering = tables.blocks.iter().filter_map(|(key, class)| {
        let (bits, len) = mapped(key.block);
        (len == 0 || (bits ^ wanted) >> (128 - len) == 0).then_some((len, class))
    });
    covering.max_by_key(|(len, _)| *len).map(|(_, class)| class)
}

fn mapped(net: IpNet) -> (u128, u32) {
    match net {
        IpNet::V4(net) => (u128::from(net.addr().to_ipv6_mapped()), 96 + u32::from(net.prefix_len())),
        IpNet::V6(net) => (u128::from(net.addr()), u32::from(net.prefix_len())),
    }
}
