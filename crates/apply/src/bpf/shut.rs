//! Pods that are shut because rows which may be theirs do not fit.
//!
//! In a set with tiers a missing row may be one that denies, and a missing class one that is denied: what is left would
//! allow. Such a pod is shut before anything that refers to the missing row is written, and opens when nothing is
//! missing any more.

use std::collections::{BTreeMap, BTreeSet};

use sheetbend_ebpf_abi as abi;
use sheetbend_model::plan::{PolicySet, RuleKey};
use sheetbend_model::types::BlockKey;

use super::error::BpfError;
use super::kernel::Kernel;
use super::plan::Failure;

/// What is missing.
#[derive(Debug, Default)]
pub(super) struct Shut {
    /// Rows of sets with tiers.
    rules: BTreeMap<PolicySet, BTreeSet<RuleKey>>,
    /// Addresses and blocks without the class they should have.
    classes: BTreeSet<BlockKey>,
}

impl Shut {
    fn is_shut(&self, tiers: Option<&PolicySet>) -> bool {
        tiers.is_some_and(|set| !self.classes.is_empty() || self.rules.contains_key(set))
    }

    /// What the kernel shall hold for a pod whose row is `row` while nothing is missing.
    pub(super) fn shown(&self, row: abi::PodEntry, tiers: Option<&PolicySet>) -> abi::PodEntry {
        if self.is_shut(tiers) { abi::PodEntry { flags: row.flags & !abi::POD_READY, ..row } } else { row }
    }
}

impl Kernel {
    /// Notes whether a row of `RULES` is there, if its set has tiers.
    pub(super) fn rule_is_in_place(&mut self, rule: &RuleKey, is_there: bool) -> Result<(), BpfError> {
        if rule.set.tiers.is_empty() || (is_there && self.shut.rules.is_empty()) {
            return Ok(());
        }
        let was_shut = self.shut.rules.contains_key(&rule.set);
        if !is_there {
            self.shut.rules.entry(rule.set.clone()).or_default().insert(rule.clone());
        } else if let Some(missing) = self.shut.rules.get_mut(&rule.set) {
            missing.remove(rule);
            if missing.is_empty() {
                self.shut.rules.remove(&rule.set);
            }
        }
        if was_shut == self.shut.rules.contains_key(&rule.set) { Ok(()) } else { self.show_pods() }
    }

    /// Notes whether an address or block has its class.
    pub(super) fn class_is_in_place(&mut self, key: BlockKey, is_there: bool) -> Result<(), BpfError> {
        let was_whole = self.shut.classes.is_empty();
        if is_there {
            self.shut.classes.remove(&key);
        } else {
            self.shut.classes.insert(key);
        }
        if was_whole == self.shut.classes.is_empty() { Ok(()) } else { self.show_pods() }
    }

    /// Shuts and opens the pods that have sets with tiers.
    fn show_pods(&mut self) -> Result<(), BpfError> {
        let rows: Vec<(u32, abi::PodEntry)> = self
            .pods
            .values()
            .filter(|pod| pod.tiers.is_some())
            .map(|pod| (pod.ifindex, self.shut.shown(pod.row, pod.tiers.as_ref())))
            .collect();
        rows.into_iter().try_for_each(|(ifindex, row)| self.show_pod(ifindex, row))
    }

    /// A failure for each pod that is shut now.
    pub(super) fn shut_pods(&self) -> impl Iterator<Item = Failure> {
        let shut = self.pods.iter().filter(|(_, pod)| self.shut.is_shut(pod.tiers.as_ref()));
        shut.map(|(id, pod)| {
            let name = pod.pod.as_ref().map_or_else(|| id.container_id.to_string(), ToString::to_string);
            Failure { step: format!("open pod {name}"), error: BpfError::PodShut { pod: name } }
        })
    }
}
