//! What policies say in vain, on no matter which node: each is looked at once per version.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use sheetbend_intake::file::{Kind, ObjectId};
use sheetbend_model::state::{NetworkPolicy, Snapshot};
use sheetbend_model::types::ObjectKey;

use super::report::Fault;

/// The policies of the last Snapshot, and what is wrong with them.
#[derive(Default)]
pub(super) struct Policies {
    seen: OrdMap<ObjectKey, Arc<NetworkPolicy>>,
    faults: BTreeMap<ObjectKey, Vec<Fault>>,
}

impl Policies {
    /// Looks at the policies that changed, and returns what is wrong with all.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) -> impl Iterator<Item = Fault> {
        for item in self.seen.diff(&snapshot.policies) {
            let (key, found) = match item {
                DiffItem::Add(key, policy) | DiffItem::Update { new: (key, policy), .. } => {
                    (key, faults(policy))
                }
                DiffItem::Remove(key, _) => (key, Vec::new()),
            };
            if found.is_empty() {
                self.faults.remove(key);
            } else {
                self.faults.insert(key.clone(), found);
            }
        }
        self.seen = snapshot.policies.clone();
        self.faults.values().flatten().cloned()
    }
}

fn faults(policy: &NetworkPolicy) -> Vec<Fault> {
    let id = ObjectId::new(Kind::NetworkPolicy, &policy.key.namespace, &policy.key.name);
    let found = sheetbend_compile::unusable_blocks(policy).into_iter();
    found
        .map(|condition| Fault { object: id.clone(), reason: condition.reason, message: condition.message })
        .collect()
}
