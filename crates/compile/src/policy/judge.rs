//! What the rows of a pod say of packets, found as the kernel programs find it.

use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::plan::{Posture, RuleKey, Ruling};
use sheetbend_model::state::AttachmentId;
use sheetbend_model::types::{AddrKey, Direction, PortPrefix, Protocol};

use super::PolicyTables;
use super::classes::ClassNode;
use super::set::SetNode;

/// One direction of a packet, seen from the pod that is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) direction: Direction,
    pub(crate) peer: IpAddr,
    /// `None` = ICMP echo.
    pub(crate) protocol: Option<Protocol>,
    /// The destination port; not read for ICMP.
    pub(crate) port: u16,
}

/// The rows that decide on what a pod with a set and a peer of a class send each other.
#[derive(Debug)]
pub(crate) struct Rows {
    /// Whether the policy table is asked at all: ingress, egress.
    judges: [bool; 2],
    of_class: Vec<(RuleKey, Ruling)>,
    every_peer: Vec<(RuleKey, Ruling)>,
}

impl Rows {
    /// Those of `set` and peers of `class`; `None` = peers without a class.
    pub(crate) fn new(set: &SetNode, class: Option<&ClassNode>) -> Self {
        let symbol = &set.symbol;
        let (mut of_class, mut every_peer) = (Vec::new(), Vec::new());
        if let Some(class) = class {
            set.class_rows(symbol, &class.symbol, &class.terms, &mut of_class);
        }
        set.every_peer_rows(symbol, &mut every_peer);
        let judges = [Direction::Ingress, Direction::Egress].map(|direction| symbol.judges(direction));
        Self { judges, of_class, every_peer }
    }

    /// What they say of one packet. `protocol: None` = ICMP echo, whose `port` is not read.
    pub(crate) fn ruling(&self, direction: Direction, protocol: Option<Protocol>, port: u16) -> Ruling {
        if !self.judges[direction as usize] {
            return Ruling::default(true);
        }
        let found = longest(&self.of_class, direction, protocol, port)
            .or_else(|| longest(&self.every_peer, direction, protocol, port));
        found.cloned().unwrap_or(Ruling::default(false))
    }

    /// The blocks of ports of which they speak apart.
    pub(crate) fn prefixes(
        &self,
        direction: Direction,
        protocol: Option<Protocol>,
    ) -> impl Iterator<Item = PortPrefix> {
        let rows = self.of_class.iter().chain(&self.every_peer);
        let rows = rows.filter(move |(key, _)| key.direction == direction && key.protocol == protocol);
        rows.map(|(key, _)| key.ports)
    }
}

impl PolicyTables {
    /// The row that decides; `None` for a pod that is still closed. The rows are those that the kernel is given, so the
    /// answer is what a packet meets.
    pub(crate) fn ruling(&self, id: &AttachmentId, question: &Question) -> Option<Ruling> {
        let set = self.set_of(id)?;
        let rows = Rows::new(set, self.class_of(question.peer).map(AsRef::as_ref));
        Some(rows.ruling(question.direction, question.protocol, question.port))
    }

    /// The set of a pod; `None` while it is closed.
    pub(crate) fn set_of(&self, id: &AttachmentId) -> Option<&Arc<SetNode>> {
        let Posture::Judged(set) = &self.locals.row(id)?.posture else { return None };
        self.locals.set(set)
    }

    /// The class of an address of the default network, of whoever has it; `None` = it has none.
    pub(crate) fn class_of(&self, addr: IpAddr) -> Option<&Arc<ClassNode>> {
        let own = self.addresses.class(&AddrKey::new(addr));
        own.or_else(|| self.blocks.lookup(addr.to_canonical()))
    }
}

/// The row with the longest prefix; one for every IP protocol comes last.
fn longest(
    rows: &[(RuleKey, Ruling)],
    direction: Direction,
    protocol: Option<Protocol>,
    port: u16,
) -> Option<&Ruling> {
    let matches = |key: &RuleKey| {
        key.direction == direction
            && match key.protocol {
                None => key.ports == PortPrefix::ALL,
                own => own == protocol && key.ports.contains(port),
            }
    };
    let matching = rows.iter().filter(|(key, _)| matches(key));
    matching.max_by_key(|(key, _)| (key.protocol.is_some(), key.ports.len)).map(|(_, ruling)| ruling)
}
