//! What the rows of a pod say of one packet, found as the kernel programs find it.

use std::net::IpAddr;

use sheetbend_model::plan::{Posture, RuleKey, Ruling};
use sheetbend_model::state::AttachmentId;
use sheetbend_model::types::{AddrKey, Direction, PortPrefix, Protocol};

use super::PolicyTables;

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

impl PolicyTables {
    /// The row that decides; `None` for a pod that is still closed. The rows are those that the kernel is given, so the
    /// answer is what a packet meets.
    pub(crate) fn ruling(&self, id: &AttachmentId, question: &Question) -> Option<Ruling> {
        let Posture::Judged(set) = &self.locals.row(id)?.posture else { return None };
        if !set.judges(question.direction) {
            return Some(Ruling::default(true));
        }
        let node = self.locals.set(set)?;
        let mut rows = Vec::new();
        let class = self.addresses.class(&AddrKey::new(question.peer));
        if let Some(class) = class.or_else(|| self.blocks.lookup(question.peer.to_canonical())) {
            node.class_rows(set, &class.symbol, &class.terms, &mut rows);
        }
        let of_class = longest(&rows, question).cloned();
        rows.clear();
        let deciding = of_class.or_else(|| {
            node.every_peer_rows(set, &mut rows);
            longest(&rows, question).cloned()
        });
        Some(deciding.unwrap_or(Ruling::default(false)))
    }
}

/// The row with the longest prefix; one for every IP protocol comes last.
fn longest<'a>(rows: &'a [(RuleKey, Ruling)], question: &Question) -> Option<&'a Ruling> {
    let matches = |key: &RuleKey| {
        key.direction == question.direction
            && match key.protocol {
                None => key.ports == PortPrefix::ALL,
                own => own == question.protocol && key.ports.contains(question.port),
            }
    };
    let matching = rows.iter().filter(|(key, _)| matches(key));
    matching.max_by_key(|(key, _)| (key.protocol.is_some(), key.ports.len)).map(|(_, ruling)| ruling)
}
