#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use sheetbend_ebpf_abi::mapped;
use sheetbend_model::plan::PolicyRef;
use sheetbend_model::types::ObjectKey;

use super::*;

struct Known;

impl Lookup for Known {
    fn origin(&self, number: u32) -> Option<Origin> {
        let policy = ObjectKey::new("shop", "allow-web");
        (number == 9).then_some(Origin { policy, direction: Direction::Ingress, rule: 2 })
    }

    fn set(&self, number: u32) -> Option<PolicySet> {
        let policy = |name: &str, ingress| PolicyRef {
            policy: ObjectKey::new("shop", name),
            digest: 0,
            ingress,
            egress: !ingress,
        };
        let policies = [policy("allow-web", true), policy("default-deny", true), policy("egress", false)];
        (number == 5).then(|| PolicySet { policies: policies.into(), ..PolicySet::default() })
    }

    fn name(&self, addr: AddrKey) -> Option<Arc<str>> {
        (addr.addr.to_string() == "10.244.1.2").then(|| "shop/web-0".into())
    }
}

fn event() -> Event {
    Event {
        time: 7,
        ifindex: 3,
        network: 0,
        set: 5,
        class: 1,
        origin: 0,
        len: 74,
        src: mapped([10, 244, 2, 3]),
        dst: mapped([10, 244, 1, 2]),
        frontend: NO_ADDR,
        src_port: 40000,
        dst_port: 80,
        frontend_port: 0,
        reason: Reason::PolicyDenied as u16,
        kind: EventKind::Drop as u8,
        hook: Hook::FromTunnel as u8,
        stage: FLOW_STAGE_INGRESS,
        protocol: 6,
        pad: [0; 4],
    }
}

#[test]
fn a_default_deny_names_the_policies_that_isolate_the_pod() {
    let decoded = decode(&event(), &"node-1".into(), &Known);
    assert_eq!(decoded.verdict, PacketVerdict::Dropped);
    assert_eq!(&*decoded.reason, "policy_denied");
    assert_eq!(decoded.destination.name.as_deref(), Some("shop/web-0"));
    assert_eq!(decoded.source.name, None);
    let by = decoded.decided_by.unwrap();
    assert_eq!(by.rule, None);
    assert_eq!(by.selected_by, [ObjectKey::new("shop", "allow-web"), ObjectKey::new("shop", "default-deny")]);
}

#[test]
fn an_allowed_flow_names_the_rule() {
    let allowed =
        Event { origin: 9, reason: Reason::Forwarded as u16, kind: EventKind::Flow as u8, ..event() };
    let decoded = decode(&allowed, &"node-1".into(), &Known);
    assert_eq!(decoded.verdict, PacketVerdict::Forwarded);
    assert_eq!(decoded.decided_by.unwrap().rule, Some(2));
}

#[test]
fn parse_reads_what_the_kernel_wrote() {
    let event = Event { frontend: [7; 16], frontend_port: 53, ..event() };
    let mut bytes = Vec::new();
    bytes.extend(event.time.to_ne_bytes());
    for number in [event.ifindex, event.network, event.set, event.class, event.origin, event.len] {
        bytes.extend(number.to_ne_bytes());
    }
    [event.src, event.dst, event.frontend].iter().for_each(|addr| bytes.extend(addr));
    for number in [event.src_port, event.dst_port, event.frontend_port, event.reason] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend([event.kind, event.hook, event.stage, event.protocol, 0, 0, 0, 0]);
    assert_eq!(bytes.len(), EVENT_BYTES);
    assert_eq!(parse(&bytes), Some(event));
    assert_eq!(parse(&bytes[1..]), None);
}

#[test]
fn unknown_numbers_are_shown_not_lost() {
    let strange = Event { reason: 999, hook: 99, protocol: 47, set: 1, ..event() };
    let decoded = decode(&strange, &"node-1".into(), &Known);
    assert_eq!((&*decoded.reason, &*decoded.hook, &*decoded.protocol), ("reason_999", "hook_99", "47"));
    assert_eq!(decoded.verdict, PacketVerdict::Dropped);
    assert_eq!(decoded.decided_by, None);
}
