//! What the kernel shall hold, a part at a time: all tables of a large cluster, written out, are larger than what they are
//! computed from.

use super::{Dataplane, Entry, Frontend, LocalPod};
use crate::state::AttachmentId;
use crate::types::{AddrKey, BlockKey, ObjectKey};

/// Where the parts of the tables begin, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The overlay, routes, rules and blocks.
    Base,
    /// Classes of addresses behind this one; `None` = from the first.
    Classes(Option<AddrKey>),
    /// Services behind this one, then host ports; `None` = from the first.
    Services(Option<ObjectKey>),
    /// The pods.
    Pods,
}

/// Whoever knows all rows that the kernel shall hold.
pub trait Wanted {
    /// Rows of one part, in the order in which they are to be written, and where the next part begins. The texts and lists
    /// behind their classes and policy sets stay in place while `self` is borrowed.
    fn part(&self, place: &Place) -> (Vec<Entry>, Option<Place>);
    /// Every pod.
    fn pods(&self) -> Box<dyn Iterator<Item = (&AttachmentId, &LocalPod)> + '_>;
    /// Whether there is such a row.
    fn has_route(&self, key: &BlockKey) -> bool;
    /// Whether there is such a row.
    fn has_block(&self, key: &BlockKey) -> bool;
    /// Whether there is such a row.
    fn has_class(&self, key: &AddrKey) -> bool;
    /// Whether there is such a row.
    fn has_service(&self, key: &Frontend) -> bool;
    /// Whether there is such a row.
    fn has_service_address(&self, key: &AddrKey) -> bool;
}

impl Wanted for Dataplane {
    /// All in one: it is written out already.
    fn part(&self, _place: &Place) -> (Vec<Entry>, Option<Place>) {
        let mut entries = vec![Entry::Overlay(self.overlay.clone())];
        entries.extend(self.routes.iter().map(|(key, route)| Entry::Route(*key, route.clone())));
        entries.extend(self.rules.iter().map(|(key, origin)| Entry::Rule(key.clone(), origin.clone())));
        entries.extend(self.blocks.iter().map(|(key, class)| Entry::Block(*key, class.clone())));
        entries.extend(self.classes.iter().map(|(key, class)| Entry::Class(*key, class.clone())));
        entries.extend(self.services.iter().map(|(key, entry)| Entry::Service(*key, entry.clone())));
        let addresses = self.service_addresses.iter();
        entries.extend(addresses.map(|(key, holder)| Entry::ServiceAddress(*key, *holder)));
        entries.extend(self.pods.iter().map(|(id, pod)| Entry::Pod(id.clone(), pod.clone())));
        (entries, None)
    }

    fn pods(&self) -> Box<dyn Iterator<Item = (&AttachmentId, &LocalPod)> + '_> {
        Box::new(self.pods.iter())
    }

    fn has_route(&self, key: &BlockKey) -> bool {
        self.routes.contains_key(key)
    }

    fn has_block(&self, key: &BlockKey) -> bool {
        self.blocks.contains_key(key)
    }

    fn has_class(&self, key: &AddrKey) -> bool {
        self.classes.contains_key(key)
    }

    fn has_service(&self, key: &Frontend) -> bool {
        self.services.contains_key(key)
    }
    fn has_service_address(&self, key: &AddrKey) -> bool {
        self.service_addresses.contains_key(key)
    }
}
