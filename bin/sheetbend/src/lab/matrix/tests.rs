#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::BTreeSet;

use serde_json::Value;
use sheetbend_model::events::{DecidedBy, EventEnd, PacketEvent, PacketVerdict};
use sheetbend_model::types::{Direction, ObjectKey};
use sheetbend_oracle::{End, Expected, L4};

use super::cell::{Cell, Matrix, Verdict};
use super::judge::judge;
use super::plan::Planned;
use crate::lab::probe::{Observation, Seen};
use crate::lab::serve::Answer;
use crate::lab::wire::LabStatus;

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).unwrap()
}

fn plan(expected: Expected) -> Planned {
    Planned {
        source: "shop/client".into(),
        netns: "sb-x-shop-client".into(),
        from: "10.244.1.2".parse().unwrap(),
        destination: "shop/web-0".into(),
        service: None,
        behind: Vec::new(),
        address: "10.244.2.2".parse().unwrap(),
        protocol: L4::Tcp,
        port: 80,
        way: "cross-node",
        expected,
        skip: None,
    }
}

fn denied() -> Expected {
    Expected::Deny { selected_by: vec![key("shop/deny")], direction: Direction::Ingress }
}

fn allowed() -> Expected {
    Expected::Allow { by: vec![End::Pod(key("shop/web-0"))] }
}

fn answer(pod: &str) -> Seen {
    Seen::Answer(Some(Answer {
        pod: pod.into(),
        node: "node-2".into(),
        client: "10.244.1.2".parse().unwrap(),
        client_port: 20_000,
        local: "10.244.2.2:80".parse().unwrap(),
        protocol: "TCP".into(),
    }))
}

fn drop_by(policy: &str) -> PacketEvent {
    let end = |at: &str| EventEnd { address: at.parse().unwrap(), port: 80, name: None };
    PacketEvent {
        time: 1,
        node: "node-2".into(),
        verdict: PacketVerdict::Dropped,
        reason: "policy_denied".into(),
        hook: "from_tunnel".into(),
        source: end("10.244.1.2"),
        destination: end("10.244.2.2"),
        frontend: None,
        protocol: "TCP".into(),
        decided_by: Some(DecidedBy {
            policy: key(policy),
            direction: Direction::Ingress,
            rule: None,
            selected_by: vec![key(policy)],
        }),
        length: 74,
    }
}

fn judged(expected: Expected, seen: Seen, event: Option<PacketEvent>) -> Cell {
    judge(&plan(expected), Some(Observation { seen, event }))
}

#[test]
fn only_what_was_expected_matches() {
    assert!(judged(allowed(), answer("shop/web-0"), None).matches);
    assert!(!judged(allowed(), answer("shop/web-1"), None).matches, "the wrong pod answered");
    assert!(!judged(allowed(), Seen::Refused("reset".into()), None).matches);
    assert!(!judged(denied(), answer("shop/web-0"), None).matches, "a policy hole");
    assert!(judged(denied(), Seen::Nothing, Some(drop_by("shop/deny"))).matches);
    assert!(!judged(denied(), Seen::Nothing, Some(drop_by("shop/other"))).matches, "another policy decided");
    assert!(judged(Expected::Refuse, Seen::Refused("reset".into()), None).matches);
}

#[test]
fn silence_matches_nothing() {
    for expected in [allowed(), denied(), Expected::Refuse] {
        let cell = judged(expected, Seen::Nothing, None);
        assert_eq!((cell.observed, cell.matches), (Verdict::Silent, false));
    }
}

/// What no policy decides is told by its reason, which differs between a Service and an address that none has.
#[test]
fn a_drop_that_no_policy_decides_names_its_reason() {
    let judged = |service: Option<&str>, reason: &str| {
        let planned = Planned { service: service.map(ToOwned::to_owned), ..plan(Expected::Drop) };
        let event = PacketEvent { reason: reason.into(), decided_by: None, ..drop_by("shop/deny") };
        judge(&planned, Some(Observation { seen: Seen::Nothing, event: Some(event) })).matches
    };
    assert!(judged(Some("shop/web"), "no_local_endpoints") && judged(None, "no_such_service"));
    assert!(!judged(Some("shop/web"), "no_such_service") && !judged(None, "no_local_endpoints"));
    assert!(!judged(None, "unreachable"));
}

#[test]
fn a_service_with_differing_endpoints_matches_each_of_them() {
    let mixed = || Expected::OneOf(vec![allowed(), denied()]);
    let dropped = judged(mixed(), Seen::Nothing, Some(drop_by("shop/deny")));
    assert_eq!((dropped.expected, dropped.matches), (Verdict::Deny, true));
    assert!(judged(mixed(), answer("shop/web-0"), None).matches);
    assert!(!judged(mixed(), Seen::Refused("reset".into()), None).matches);
}

/// Names and enumerations of the schema and of what is printed are the same, both ways.
#[test]
fn the_json_has_the_schema_of_the_repository() {
    let schema: Value =
        serde_json::from_str(include_str!("../../../../../docs/user/matrix.schema.json")).unwrap();
    let cells = vec![judged(denied(), Seen::Nothing, Some(drop_by("shop/deny")))];
    let status = LabStatus { name: "x".into(), mode: "vxlan".into(), ..LabStatus::default() };
    let matrix = serde_json::to_value(Matrix::new(&status, cells, None)).unwrap();
    assert_eq!(keys(&matrix), words(&schema["required"]));
    assert_eq!(keys(&matrix["summary"]), words(&schema["properties"]["summary"]["required"]));
    let cell = &schema["$defs"]["cell"];
    assert_eq!(keys(&matrix["cells"][0]), words(&cell["required"]));
    assert_eq!(keys(&cell["properties"]), words(&cell["required"]));
    let decided = &cell["properties"]["decidedBy"];
    assert_eq!(keys(&matrix["cells"][0]["decidedBy"]), words(&decided["required"]));
    let verdicts = [Verdict::Allow, Verdict::Deny, Verdict::Refuse, Verdict::Silent, Verdict::Skipped];
    let printed: BTreeSet<String> = verdicts.iter().map(ToString::to_string).collect();
    assert_eq!(printed, words(&cell["properties"]["observed"]["enum"]));
    let full = Matrix::new(&status, Vec::new(), Some(7));
    assert!(keys(&serde_json::to_value(full).unwrap()).is_subset(&keys(&schema["properties"])));
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn words(value: &Value) -> BTreeSet<String> {
    value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}
