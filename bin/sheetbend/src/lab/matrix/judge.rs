//! Expected beside observed.

use sheetbend_model::types::Family;
use sheetbend_oracle::{End, Expected};

use super::cell::{Cell, Decided, Verdict};
use super::plan::Planned;
use crate::lab::probe::{Observation, Seen};

/// The cell of a plan and what was observed.
pub(super) fn judge(plan: &Planned, observation: Option<Observation>) -> Cell {
    let mut cell = Cell {
        source: plan.source.clone(),
        destination: plan.destination.clone(),
        service: plan.service.clone(),
        address: plan.address,
        family: Family::of(plan.address),
        protocol: plan.protocol.to_string(),
        port: plan.port,
        expected: verdict(first(&plan.expected)),
        observed: Verdict::Skipped,
        answered_by: None,
        source_seen: None,
        reason: plan.skip.map(ToOwned::to_owned),
        decided_by: None,
        matches: plan.skip.is_some(),
        way: plan.way.to_owned(),
    };
    let Some(Observation { seen, event }) = observation else { return cell };
    if let Some(event) = &event {
        cell.reason = Some(event.reason.to_string());
        cell.decided_by = event.decided_by.as_ref().map(Decided::from);
    }
    match seen {
        Seen::Answer(answer) => {
            cell.observed = Verdict::Allow;
            cell.source_seen = answer.as_ref().map(|answer| answer.client);
            cell.answered_by = answer.map(|answer| answer.pod);
        }
        Seen::Refused(text) => {
            cell.observed = Verdict::Refuse;
            cell.reason.get_or_insert(text);
        }
        Seen::Nothing if event.is_some() => cell.observed = Verdict::Deny,
        Seen::Nothing => {
            cell.observed = Verdict::Silent;
            cell.reason = Some("no answer and no drop event".to_owned());
        }
        Seen::Failed(text) => {
            cell.observed = Verdict::Silent;
            cell.reason = Some(text);
        }
    }
    let outcomes = if let Expected::OneOf(outcomes) = &plan.expected {
        outcomes.as_slice()
    } else {
        std::slice::from_ref(&plan.expected)
    };
    let fitting = outcomes.iter().find(|expected| fits(expected, &cell));
    cell.matches = fitting.is_some();
    if let Some(expected) = fitting {
        cell.expected = verdict(expected);
    }
    cell
}

/// Whether what was observed is what was expected: the verdict, and who answered or who decided.
fn fits(expected: &Expected, cell: &Cell) -> bool {
    if verdict(expected) != cell.observed {
        return false;
    }
    match expected {
        Expected::Allow { by } => {
            cell.answered_by.as_ref().is_none_or(|pod| by.iter().any(|end| is(end, pod)))
        }
        Expected::Deny { selected_by, direction } => cell.decided_by.as_ref().is_some_and(|decided| {
            let selected: Vec<String> = selected_by.iter().map(ToString::to_string).collect();
            decided.direction == *direction && decided.selected_by == selected && decided.rule.is_none()
        }),
        Expected::DenyByRule { policy, rule, direction } => cell.decided_by.as_ref().is_some_and(|decided| {
            let by = (decided.policy.as_str(), decided.rule, decided.direction);
            by == (policy.to_string().as_str(), Some(*rule), *direction)
        }),
        Expected::Drop => {
            let reason = if cell.service.is_some() { "no_local_endpoints" } else { "no_such_service" };
            cell.decided_by.is_none() && cell.reason.as_deref() == Some(reason)
        }
        Expected::Refuse | Expected::OneOf(_) | Expected::Unspecified => true,
    }
}

fn is(end: &End, pod: &str) -> bool {
    match end {
        End::Pod(key) => key.to_string() == pod,
        End::World(_) => pod == "world",
        End::Node(_) => false,
    }
}

fn first(expected: &Expected) -> &Expected {
    match expected {
        Expected::OneOf(outcomes) => outcomes.first().unwrap_or(expected),
        Expected::Allow { .. }
        | Expected::Deny { .. }
        | Expected::DenyByRule { .. }
        | Expected::Drop
        | Expected::Refuse
        | Expected::Unspecified => expected,
    }
}

fn verdict(expected: &Expected) -> Verdict {
    match expected {
        Expected::Allow { .. } => Verdict::Allow,
        Expected::Deny { .. } | Expected::DenyByRule { .. } | Expected::Drop => Verdict::Deny,
        Expected::Refuse => Verdict::Refuse,
        Expected::OneOf(_) | Expected::Unspecified => Verdict::Skipped,
    }
}
