//! The tables a part at a time, without ever writing them out whole.

use std::ops::Bound;

use sheetbend_model::plan::{Entry, Frontend, LocalPod, Place, Wanted};
use sheetbend_model::state::AttachmentId;
use sheetbend_model::types::{AddrKey, BlockKey};

use crate::compiler::Compiler;

/// Classes, and Services, in one part: some milliseconds of work for who writes or compares them.
const CLASSES: usize = 1024;
const SERVICES: usize = 64;

impl Wanted for Compiler {
    fn part(&self, place: &Place) -> (Vec<Entry>, Option<Place>) {
        match place {
            Place::Base => {
                let mut entries = vec![Entry::Overlay(self.overlay().clone())];
                entries.extend(self.routes().iter().map(|(key, route)| Entry::Route(*key, route.clone())));
                entries.extend(self.policy.base());
                (entries, Some(Place::Classes(None)))
            }
            Place::Classes(after) => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let rows = self.policy.classes_from(from).take(CLASSES);
                let entries: Vec<Entry> =
                    rows.map(|(addr, class)| Entry::Class(*addr, class.clone())).collect();
                let last = match entries.last() {
                    Some(Entry::Class(addr, _)) if entries.len() == CLASSES => Some(*addr),
                    _ => None,
                };
                let next = last.map_or(Place::Services(None), |last| Place::Classes(Some(last)));
                (entries, Some(next))
            }
            Place::Services(after) => {
                let mut entries = Vec::new();
                let mut each = |entry| entries.push(entry);
                let last = self.services.part(self.snapshot(), after.as_ref(), SERVICES, &mut each);
                let next = last.map_or(Place::Pods, |last| Place::Services(Some(last)));
                (entries, Some(next))
            }
            Place::Pods => {
                let pods = self.policy.pods().map(|(id, pod)| Entry::Pod(id.clone(), pod.clone()));
                (pods.collect(), None)
            }
        }
    }

    fn pods(&self) -> Box<dyn Iterator<Item = (&AttachmentId, &LocalPod)> + '_> {
        Box::new(self.policy.pods())
    }

    fn has_route(&self, key: &BlockKey) -> bool {
        self.routes().contains_key(key)
    }

    fn has_block(&self, key: &BlockKey) -> bool {
        self.policy.has_block(key)
    }

    fn has_class(&self, key: &AddrKey) -> bool {
        self.policy.has_class(key)
    }

    fn has_service(&self, key: &Frontend) -> bool {
        self.services.has(self.snapshot(), key)
    }

    fn has_service_address(&self, key: &AddrKey) -> bool {
        self.services.has_address(key)
    }
}
