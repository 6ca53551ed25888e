//! Verdicts over all ports, and where two of them differ.

use std::collections::HashMap;
use std::sync::Arc;

use sheetbend_model::plan::Ruling;
use sheetbend_model::types::{Direction, ObjectKey, Protocol};

use super::Span;
use crate::policy::judge::Rows;

/// What policies can tell apart: the protocols with ports, then ICMP.
const CARRIED: [Option<Protocol>; 4] = [Some(Protocol::Tcp), Some(Protocol::Udp), Some(Protocol::Sctp), None];

/// What one end says of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// Whether it may pass, and the rule that says so; `None` = the end is no pod with policies of its own.
    pub ruling: Option<Ruling>,
    /// Of a default denial: the NetworkPolicies that isolate the pod in this direction, sorted.
    pub isolated_by: Arc<[ObjectKey]>,
    /// It is denied, and passes: the pod is in audit.
    pub audited: bool,
}

impl Verdict {
    /// Whether it may pass this end.
    pub fn allows(&self) -> bool {
        self.audited || self.ruling.as_ref().is_none_or(|ruling| ruling.allows)
    }

    fn new(ruling: Ruling, isolated_by: &Arc<[ObjectKey]>, in_audit: bool) -> Self {
        let is_default = !ruling.allows && ruling.origin.is_none();
        Self {
            audited: in_audit && !ruling.allows,
            ruling: Some(ruling),
            isolated_by: if is_default { Arc::clone(isolated_by) } else { [].into() },
        }
    }
}

/// One end's verdicts on all that a pair may send, as steps: for each of [`CARRIED`], (first port, verdict), ascending
/// from 0. ICMP has one step.
type Steps = [Vec<(u16, usize)>; 4];

/// Steps of which each is kept once, by number.
#[derive(Debug, Default)]
pub(super) struct Known {
    verdicts: Vec<Arc<Verdict>>,
    of_verdict: HashMap<Arc<Verdict>, usize>,
    steps: Vec<Arc<Steps>>,
    of_steps: HashMap<Arc<Steps>, usize>,
    compared: HashMap<[usize; 4], Arc<[Span]>>,
}

impl Known {
    /// The number of the steps that `rows` have in `direction`, for pods that `isolated_by` isolate, and that are in audit.
    pub(super) fn steps(
        &mut self,
        rows: &Rows,
        direction: Direction,
        isolated_by: &Arc<[ObjectKey]>,
        in_audit: bool,
    ) -> usize {
        let steps = CARRIED.map(|protocol| {
            let mut starts = vec![0];
            if protocol.is_some() {
                for prefix in rows.prefixes(direction, protocol).filter(|prefix| prefix.len > 0) {
                    let behind = u32::from(prefix.value) + (1 << (16 - prefix.len));
                    starts.push(prefix.value);
                    starts.extend(u16::try_from(behind).ok());
                }
                starts.sort_unstable();
                starts.dedup();
            }
            let mut steps: Vec<(u16, usize)> = Vec::new();
            for start in starts {
                let ruling = rows.ruling(direction, protocol, start);
                let verdict = self.verdict(Verdict::new(ruling, isolated_by, in_audit));
                if steps.last().is_none_or(|(_, last)| *last != verdict) {
                    steps.push((start, verdict));
                }
            }
            steps
        });
        self.intern(steps)
    }

    /// Those of an end without policies of its own.
    pub(super) fn not_judged(&mut self) -> usize {
        let verdict = self.verdict(Verdict { ruling: None, isolated_by: [].into(), audited: false });
        self.intern(CARRIED.map(|_| vec![(0, verdict)]))
    }

    fn intern(&mut self, steps: Steps) -> usize {
        if let Some(known) = self.of_steps.get(&steps) {
            return *known;
        }
        let (steps, number) = (Arc::new(steps), self.steps.len());
        self.steps.push(Arc::clone(&steps));
        self.of_steps.insert(steps, number);
        number
    }

    fn verdict(&mut self, verdict: Verdict) -> usize {
        if let Some(known) = self.of_verdict.get(&verdict) {
            return *known;
        }
        let (verdict, number) = (Arc::new(verdict), self.verdicts.len());
        self.verdicts.push(Arc::clone(&verdict));
        self.of_verdict.insert(verdict, number);
        number
    }

    /// Where a pair's verdict changes. `egress` and `ingress` are numbers of steps: before, after.
    pub(super) fn compare(&mut self, egress: [usize; 2], ingress: [usize; 2]) -> Arc<[Span]> {
        let key = [egress[0], egress[1], ingress[0], ingress[1]];
        if let Some(known) = self.compared.get(&key) {
            return Arc::clone(known);
        }
        let spans: Arc<[Span]> = if egress[0] == egress[1] && ingress[0] == ingress[1] {
            [].into()
        } else {
            CARRIED.iter().enumerate().flat_map(|(index, of)| self.spans(key, index, *of)).collect()
        };
        self.compared.insert(key, Arc::clone(&spans));
        spans
    }

    fn spans(&self, key: [usize; 4], carried: usize, protocol: Option<Protocol>) -> Vec<Span> {
        let of = key.map(|number| self.steps.get(number).map_or(&[][..], |steps| &steps[carried]));
        let mut starts: Vec<u16> =
            of.iter().flat_map(|steps| steps.iter().map(|(start, _)| *start)).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut spans: Vec<Span> = Vec::new();
        for (index, start) in starts.iter().enumerate() {
            let last = match starts.get(index + 1) {
                Some(next) => next - 1,
                None if protocol.is_some() => u16::MAX,
                None => 0,
            };
            // No packet is for port 0.
            let first = if protocol.is_some() { (*start).max(1) } else { 0 };
            if first > last {
                continue;
            }
            let Some(span) = self.span(of, *start, (first, last), protocol) else { continue };
            match spans.last_mut() {
                Some(known) if known.last.checked_add(1) == Some(first) && known.is_like(&span) => {
                    known.last = last;
                }
                _ => spans.push(span),
            }
        }
        spans
    }

    fn span(
        &self,
        of: [&[(u16, usize)]; 4],
        at: u16,
        (first, last): (u16, u16),
        protocol: Option<Protocol>,
    ) -> Option<Span> {
        let [egress_before, egress_after, ingress_before, ingress_after] = of.map(|steps| {
            let known = steps.partition_point(|(start, _)| *start <= at).checked_sub(1);
            known.and_then(|index| self.verdicts.get(steps.get(index)?.1))
        });
        let egress = (egress_before?, egress_after?);
        let ingress = (ingress_before?, ingress_after?);
        let before = egress.0.allows() && ingress.0.allows();
        let after = egress.1.allows() && ingress.1.allows();
        if before == after {
            return None;
        }
        // The end that stands, or stood, in the way.
        let closed_by_egress = if after { !egress.0.allows() } else { !egress.1.allows() };
        let (direction, of) =
            if closed_by_egress { (Direction::Egress, egress) } else { (Direction::Ingress, ingress) };
        let (before, now) = (Arc::clone(of.0), Arc::clone(of.1));
        Some(Span { protocol, first, last, opens: after, direction, before, after: now })
    }
}
