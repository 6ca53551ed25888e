//! Ring buffer records as [`PacketEvent`]s.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use sheetbend_ebpf_abi::{
    Event, EventKind, FLOW_STAGE_EGRESS, FLOW_STAGE_INGRESS, Hook, NO_ADDR, Reason, Verdict,
};
use sheetbend_model::events::{DecidedBy, EventEnd, PacketEvent, PacketVerdict};
use sheetbend_model::plan::{Origin, PolicySet};
use sheetbend_model::types::{AddrKey, Direction, NetworkId};

/// Length of a record of map `EVENTS`, bytes.
pub const EVENT_BYTES: usize = size_of::<Event>();

/// Finds the names behind a node's numbers.
pub trait Lookup {
    /// The rule with this number.
    fn origin(&self, number: u32) -> Option<Origin>;
    /// The policy set with this number.
    fn set(&self, number: u32) -> Option<PolicySet>;
    /// `namespace/name` of the pod, or the Service, or the name of the node that has this address.
    fn name(&self, addr: AddrKey) -> Option<Arc<str>>;
}

/// Reads a record; `None` when it has another length.
pub fn parse(record: &[u8]) -> Option<Event> {
    let mut fields = Fields(<&[u8; EVENT_BYTES]>::try_from(record).ok()?);
    Some(Event {
        time: u64::from_ne_bytes(fields.take()?),
        ifindex: u32::from_ne_bytes(fields.take()?),
        network: u32::from_ne_bytes(fields.take()?),
        set: u32::from_ne_bytes(fields.take()?),
        class: u32::from_ne_bytes(fields.take()?),
        origin: u32::from_ne_bytes(fields.take()?),
        len: u32::from_ne_bytes(fields.take()?),
        src: fields.take()?,
        dst: fields.take()?,
        frontend: fields.take()?,
        src_port: u16::from_ne_bytes(fields.take()?),
        dst_port: u16::from_ne_bytes(fields.take()?),
        frontend_port: u16::from_ne_bytes(fields.take()?),
        reason: u16::from_ne_bytes(fields.take()?),
        kind: u8::from_ne_bytes(fields.take()?),
        hook: u8::from_ne_bytes(fields.take()?),
        stage: u8::from_ne_bytes(fields.take()?),
        protocol: u8::from_ne_bytes(fields.take()?),
        pad: fields.take()?,
    })
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

/// The event in the user's words.
pub fn decode(event: &Event, node: &Arc<str>, lookup: &dyn Lookup) -> PacketEvent {
    let reason = Reason::from_number(event.reason);
    let end = |addr: &[u8; 16], port: u16| {
        let address = Ipv6Addr::from(*addr).to_canonical();
        let key = AddrKey { network: NetworkId(event.network), addr: address };
        EventEnd { address, port, name: lookup.name(key) }
    };
    let source = end(&event.src, event.src_port);
    PacketEvent {
        time: event.time,
        node: Arc::clone(node),
        verdict: verdict(event, reason),
        reason: reason
            .map_or_else(|| format!("reason_{}", event.reason).into(), |reason| reason.name().into()),
        hook: hook(event.hook),
        protocol: protocol(event.protocol, source.address),
        source,
        destination: end(&event.dst, event.dst_port),
        frontend: (event.frontend != NO_ADDR).then(|| end(&event.frontend, event.frontend_port)),
        decided_by: decided_by(event, lookup),
        length: event.len,
    }
}

fn verdict(event: &Event, reason: Option<Reason>) -> PacketVerdict {
    match reason.map(Reason::verdict) {
        Some(Verdict::Forward) if reason == Some(Reason::PolicyAudited) => PacketVerdict::Audited,
        Some(Verdict::Forward) => PacketVerdict::Forwarded,
        Some(Verdict::Refuse) => PacketVerdict::Refused,
        Some(Verdict::Drop) => PacketVerdict::Dropped,
        // A newer program's reason: its kind still tells.
        None if event.kind == EventKind::Flow as u8 => PacketVerdict::Forwarded,
        None => PacketVerdict::Dropped,
    }
}

fn hook(number: u8) -> Arc<str> {
    let hook = Hook::ALL.into_iter().find(|hook| *hook as u8 == number);
    hook.map_or_else(|| format!("hook_{number}").into(), |hook| hook.name().into())
}

fn protocol(number: u8, source: IpAddr) -> Arc<str> {
    match (number, source) {
        (6, _) => "TCP".into(),
        (17, _) => "UDP".into(),
        (132, _) => "SCTP".into(),
        (1, IpAddr::V4(_)) => "ICMP".into(),
        (58, IpAddr::V6(_)) => "ICMPv6".into(),
        (number, _) => number.to_string().into(),
    }
}

/// Who decided: the rule that allowed it, else the policies that isolate the pod.
fn decided_by(event: &Event, lookup: &dyn Lookup) -> Option<DecidedBy> {
    let direction = match event.stage {
        FLOW_STAGE_EGRESS => Direction::Egress,
        FLOW_STAGE_INGRESS => Direction::Ingress,
        _ => return None,
    };
    let set = lookup.set(event.set);
    let selected_by: Vec<_> = set.iter().flat_map(|set| set.isolated_by(direction)).cloned().collect();
    match lookup.origin(event.origin) {
        Some(origin) => {
            Some(DecidedBy { policy: origin.policy, direction, rule: Some(origin.rule), selected_by })
        }
        None => {
            let policy = selected_by.first()?.clone();
            Some(DecidedBy { policy, direction, rule: None, selected_by })
        }
    }
}

#[cfg(test)]
mod tests;
