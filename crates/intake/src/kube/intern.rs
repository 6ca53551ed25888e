//! Equal label sets share memory: the pods of one workload have them in common.

use std::collections::HashSet;
use std::sync::Arc;

use sheetbend_model::types::Labels;

/// Label sets in use.
#[derive(Debug, Default)]
pub(super) struct Interner {
    known: HashSet<Arc<Labels>>,
    /// Looked through when it has grown to this.
    limit: usize,
}

impl Interner {
    /// The one copy of `labels`.
    pub(super) fn share(&mut self, labels: Arc<Labels>) -> Arc<Labels> {
        if let Some(known) = self.known.get(&labels) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.limit {
            self.known.retain(|labels| Arc::strong_count(labels) > 1);
            self.limit = (2 * self.known.len()).max(64);
        }
        self.known.insert(Arc::clone(&labels));
        labels
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
