//! One row of the matrix, as `-o json` writes it (`docs/user/matrix.schema.json`).

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sheetbend_model::events::DecidedBy;
use sheetbend_model::types::{Direction, Family};

use crate::lab::wire::LabStatus;

/// What a source saw, or should have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// The right pod answered.
    Allow,
    /// No answer, and a drop event of this flow.
    Deny,
    /// RST or ICMP.
    Refuse,
    /// No answer, and no event: matches nothing.
    Silent,
    /// Not tried; the reason says why.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
            Verdict::Refuse => "refuse",
            Verdict::Silent => "silent",
            Verdict::Skipped => "skipped",
        })
    }
}

/// Who decided, with names as users write them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Decided {
    /// `namespace/name`.
    pub(crate) policy: String,
    /// Of the pod.
    pub(crate) direction: Direction,
    /// `None` = default deny.
    pub(crate) rule: Option<u32>,
    /// Policies that isolate the pod.
    pub(crate) selected_by: Vec<String>,
}

impl From<&DecidedBy> for Decided {
    fn from(decided: &DecidedBy) -> Self {
        Self {
            policy: decided.policy.to_string(),
            direction: decided.direction,
            rule: decided.rule,
            selected_by: decided.selected_by.iter().map(ToString::to_string).collect(),
        }
    }
}

/// One source, one destination, one protocol, one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cell {
    /// `namespace/name` of a pod, or `world/ADDRESS`.
    pub(crate) source: String,
    /// The same, or `namespace/name` of the Service.
    pub(crate) destination: String,
    /// `namespace/name` of the Service whose address was asked.
    pub(crate) service: Option<String>,
    /// The address that was asked.
    pub(crate) address: IpAddr,
    /// Its family.
    pub(crate) family: Family,
    /// `TCP`, `UDP`, `SCTP` or `ICMP`.
    pub(crate) protocol: String,
    /// 0 for ICMP.
    pub(crate) port: u16,
    /// By the Kubernetes objects.
    pub(crate) expected: Verdict,
    /// By the source's socket.
    pub(crate) observed: Verdict,
    /// Which pod answered.
    pub(crate) answered_by: Option<String>,
    /// Which source address it saw.
    pub(crate) source_seen: Option<IpAddr>,
    /// Why: the event's reason, the socket's error, or why it was skipped.
    pub(crate) reason: Option<String>,
    /// The policy that denied, as the event names it.
    pub(crate) decided_by: Option<Decided>,
    /// Whether both agree.
    #[serde(rename = "match")]
    pub(crate) matches: bool,
    /// `same-node`, `cross-node`, `world` or `service`; for the summary.
    #[serde(skip)]
    pub(crate) way: String,
}

/// Totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// All cells.
    pub(crate) cells: usize,
    /// Cells where expected and observed differ.
    pub(crate) mismatches: usize,
    /// Cells that were not tried.
    pub(crate) skipped: usize,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Matrix {
    /// `sheetbend.dev/v1alpha1`.
    pub(crate) api_version: String,
    /// `Matrix`.
    pub(crate) kind: String,
    /// The lab.
    pub(crate) lab: String,
    /// `vxlan` or `host-gw`.
    pub(crate) mode: String,
    /// Sorted by source, destination, family, protocol, port.
    pub(crate) cells: Vec<Cell>,
    /// Totals.
    pub(crate) summary: Summary,
    /// How many cells a full matrix has, when `--sample` left some out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sampled_from: Option<usize>,
}

impl Matrix {
    /// The matrix of `cells`.
    pub(crate) fn new(status: &LabStatus, mut cells: Vec<Cell>, sampled_from: Option<usize>) -> Self {
        cells.sort_by(|a, b| {
            let key = |cell: &Cell| (cell.family, cell.protocol.clone(), cell.port, cell.address);
            (&a.source, &a.destination).cmp(&(&b.source, &b.destination)).then_with(|| key(a).cmp(&key(b)))
        });
        let summary = Summary {
            cells: cells.len(),
            mismatches: cells
                .iter()
                .filter(|cell| !cell.matches && cell.observed != Verdict::Skipped)
                .count(),
            skipped: cells.iter().filter(|cell| cell.observed == Verdict::Skipped).count(),
        };
        Self {
            api_version: "sheetbend.dev/v1alpha1".to_owned(),
            kind: "Matrix".to_owned(),
            lab: status.name.clone(),
            mode: status.mode.clone(),
            cells,
            summary,
            sampled_from,
        }
    }
}
