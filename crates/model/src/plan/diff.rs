//! Plans: the steps from one [`Dataplane`] to the next.

use std::collections::BTreeMap;
use std::fmt;

use super::{
    AddressHolder, Class, Dataplane, Frontend, LocalPod, Overlay, Posture, Route, RuleKey, Ruling,
    ServiceEntry,
};
use crate::state::AttachmentId;
use crate::types::{AddrKey, BlockKey};

/// One row of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `Dataplane::overlay`.
    Overlay(Overlay),
    /// A row of `Dataplane::routes`.
    Route(BlockKey, Route),
    /// A row of `Dataplane::rules`.
    Rule(RuleKey, Ruling),
    /// A row of `Dataplane::blocks`.
    Block(BlockKey, Class),
    /// A row of `Dataplane::classes`.
    Class(AddrKey, Class),
    /// A row of `Dataplane::services`.
    Service(Frontend, ServiceEntry),
    /// A row of `Dataplane::service_addresses`.
    ServiceAddress(AddrKey, AddressHolder),
    /// A row of `Dataplane::pods`.
    Pod(AttachmentId, LocalPod),
}

/// Names one row of one table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKey {
    /// Of `Dataplane::pods`.
    Pod(AttachmentId),
    /// Of `Dataplane::services`.
    Service(Frontend),
    /// Of `Dataplane::service_addresses`.
    ServiceAddress(AddrKey),
    /// Of `Dataplane::classes`.
    Class(AddrKey),
    /// Of `Dataplane::blocks`.
    Block(BlockKey),
    /// Of `Dataplane::rules`.
    Rule(RuleKey),
    /// Of `Dataplane::routes`.
    Route(BlockKey),
}

/// One write. A step that is already true does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The row shall be this.
    Put(Entry),
    /// The row shall not be.
    Delete(EntryKey),
}

/// Three phases, each in order (`design.md` §2). A failed step stays wanted; what depends on it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// New things come to be beside the old, which keep their verdicts.
    pub refine: Vec<Step>,
    /// One write per pod or Service makes the new state true.
    pub swap: Vec<Step>,
    /// The old goes; numbers it held rest before they are used again.
    pub retire: Vec<Step>,
    /// Whether verdicts may have changed: the last step then raises `policy_epoch`, so that established flows are
    /// judged anew.
    pub raise_epoch: bool,
}

impl Plan {
    /// Number of steps in all phases.
    pub fn len(&self) -> usize {
        self.refine.len() + self.swap.len() + self.retire.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All steps in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.refine.iter().chain(&self.swap).chain(&self.retire)
    }
}

impl Dataplane {
    /// Carries out a plan on the symbolic tables, as `apply` does on the kernel's.
    pub fn apply(&mut self, plan: &Plan) {
        for step in plan.steps() {
            match step {
                Step::Put(entry) => self.put(entry.clone()),
                Step::Delete(key) => self.delete(key),
            }
        }
    }

    /// The row shall be this.
    pub fn put(&mut self, entry: Entry) {
        match entry {
            Entry::Overlay(overlay) => self.overlay = overlay,
            Entry::Route(key, route) => drop(self.routes.insert(key, route)),
            Entry::Rule(key, ruling) => drop(self.rules.insert(key, ruling)),
            Entry::Block(key, class) => drop(self.blocks.insert(key, class)),
            Entry::Class(key, class) => drop(self.classes.insert(key, class)),
            Entry::Service(key, service) => drop(self.services.insert(key, service)),
            Entry::ServiceAddress(key, holder) => drop(self.service_addresses.insert(key, holder)),
            Entry::Pod(key, pod) => drop(self.pods.insert(key, pod)),
        }
    }

    fn delete(&mut self, key: &EntryKey) {
        match key {
            EntryKey::Pod(key) => drop(self.pods.remove(key)),
            EntryKey::Service(key) => drop(self.services.remove(key)),
            EntryKey::ServiceAddress(key) => drop(self.service_addresses.remove(key)),
            EntryKey::Class(key) => drop(self.classes.remove(key)),
            EntryKey::Block(key) => drop(self.blocks.remove(key)),
            EntryKey::Rule(key) => drop(self.rules.remove(key)),
            EntryKey::Route(key) => drop(self.routes.remove(key)),
        }
    }
}

/// The plan from `have` to `want`, by comparing whole tables: the obvious twin of what incremental compile emits, and
/// what a restarted agent uses.
pub fn diff(have: &Dataplane, want: &Dataplane) -> Plan {
    let mut plan = Plan::default();
    if have.overlay != want.overlay {
        plan.refine.push(Step::Put(Entry::Overlay(want.overlay.clone())));
    }
    let (routes, gone_routes) = rows(&have.routes, &want.routes, Entry::Route, EntryKey::Route);
    let (rules, gone_rules) = rows(&have.rules, &want.rules, Entry::Rule, EntryKey::Rule);
    let (blocks, gone_blocks) = rows(&have.blocks, &want.blocks, Entry::Block, EntryKey::Block);
    let (classes, gone_classes) = rows(&have.classes, &want.classes, Entry::Class, EntryKey::Class);
    let (services, gone_services) = rows(&have.services, &want.services, Entry::Service, EntryKey::Service);
    let (addresses, gone_addresses) = rows(
        &have.service_addresses,
        &want.service_addresses,
        Entry::ServiceAddress,
        EntryKey::ServiceAddress,
    );
    let (pods, gone_pods) = rows(&have.pods, &want.pods, Entry::Pod, EntryKey::Pod);
    plan.raise_epoch = !(rules.is_empty()
        && gone_rules.is_empty()
        && blocks.is_empty()
        && gone_blocks.is_empty()
        && classes.is_empty()
        && gone_classes.is_empty())
        || want.pods.iter().any(|(id, pod)| have.pods.get(id).is_some_and(|old| !old.judges_as(pod)));
    plan.refine.extend(routes.into_iter().chain(rules).chain(blocks).chain(classes));
    plan.swap.extend(services.into_iter().chain(addresses).chain(pods));
    plan.retire.extend(gone_pods.into_iter().chain(gone_services).chain(gone_addresses));
    plan.retire.extend(gone_classes.into_iter().chain(gone_blocks).chain(gone_rules));
    plan.retire.extend(gone_routes);
    plan
}

fn rows<K: Ord + Clone, V: PartialEq + Clone>(
    have: &BTreeMap<K, V>,
    want: &BTreeMap<K, V>,
    entry: fn(K, V) -> Entry,
    key: fn(K) -> EntryKey,
) -> (Vec<Step>, Vec<Step>) {
    let put = want
        .iter()
        .filter(|(k, v)| have.get(k) != Some(v))
        .map(|(k, v)| Step::Put(entry(k.clone(), v.clone())))
        .collect();
    let delete =
        have.keys().filter(|k| !want.contains_key(k)).map(|k| Step::Delete(key(k.clone()))).collect();
    (put, delete)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Overlay(overlay) => write!(f, "overlay {}", overlay.mode),
            Entry::Route(key, route) => match route {
                Route::Local => write!(f, "route {key} local"),
                Route::Node { node, via, .. } => write!(f, "route {key} via {via} ({node})"),
                Route::Unowned => write!(f, "route {key} unreachable"),
                Route::NodeAddress { node, other, node_ports } => {
                    write!(f, "route {key} is node {node}")?;
                    other.iter().try_for_each(|other| write!(f, ", also {other}"))?;
                    if *node_ports { Ok(()) } else { f.write_str(", without node ports") }
                }
                Route::NoMasquerade => write!(f, "route {key} no masquerade"),
                Route::Service => write!(f, "route {key} is of Services"),
            },
            Entry::Rule(key, ruling) => write!(f, "rule {key} → {ruling}"),
            Entry::Block(key, class) => write!(f, "block {key} → {class}"),
            Entry::Class(key, class) => write!(f, "class {key} → {class}"),
            Entry::Service(key, entry) => {
                write!(f, "service {key} {} {} → ", entry.service, entry.algorithm)?;
                f.debug_list().entries(entry.backends.iter().map(|b| format!("{b}"))).finish()?;
                if !entry.weights.is_empty() {
                    write!(f, " weights={:?}", entry.weights)?;
                }
                if let Some(timeout) = entry.affinity_timeout {
                    write!(f, " affinity={timeout}s")?;
                }
                Ok(())
            }
            Entry::ServiceAddress(key, holder) => write!(f, "service address {key} {holder}"),
            Entry::Pod(id, pod) => {
                match &pod.pod {
                    Some(key) => write!(f, "pod {key}")?,
                    None => write!(f, "container {}", id.container_id)?,
                }
                match &pod.posture {
                    Posture::Closed => f.write_str(" closed")?,
                    Posture::Judged(set) => write!(f, " {set}")?,
                }
                if pod.audited {
                    f.write_str(" in audit")?;
                }
                if pod.asks_names { f.write_str(" asks for names here") } else { Ok(()) }
            }
        }
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryKey::Pod(id) => write!(f, "container {}", id.container_id),
            EntryKey::Service(key) => write!(f, "service {key}"),
            EntryKey::ServiceAddress(key) => write!(f, "service address {key}"),
            EntryKey::Class(key) => write!(f, "class {key}"),
            EntryKey::Block(key) => write!(f, "block {key}"),
            EntryKey::Rule(key) => write!(f, "rule {key}"),
            EntryKey::Route(key) => write!(f, "route {key}"),
        }
    }
}

/// One line per step, the text of a dry run, of the log and of golden files.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (phase, steps) in [("refine", &self.refine), ("swap", &self.swap), ("retire", &self.retire)] {
            for step in steps {
                match step {
                    Step::Put(entry) => writeln!(f, "{phase}: + {entry}")?,
                    Step::Delete(key) => writeln!(f, "{phase}: - {key}")?,
                }
            }
        }
        if self.raise_epoch { writeln!(f, "retire: raise policy_epoch") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::{Origin, PolicyRef, PolicySet, Term};
    use crate::types::{Direction, ObjectKey, PortPrefix};

    fn set(digest: u64) -> PolicySet {
        let policy = ObjectKey::new("shop", "deny");
        PolicySet {
            policies: Arc::from([PolicyRef { policy, digest, ingress: true, egress: false }]),
            ..Default::default()
        }
    }

    fn web() -> Class {
        Class::new(vec![Term::Selector("ns=shop pod=app=web".into())])
    }

    /// One pod under one policy in version `digest`, which allows one class.
    fn tables(digest: u64) -> Dataplane {
        let mut tables = Dataplane::default();
        let id = AttachmentId { container_id: "c1".into(), ifname: "eth0".into() };
        let addresses = vec![AddrKey::new([10, 244, 0, 2].into())];
        let pod = Some(ObjectKey::new("shop", "cart"));
        let posture = Posture::Judged(set(digest));
        tables.pods.insert(
            id,
            LocalPod { pod, addresses, host_ifindex: 7, posture, asks_names: false, audited: false },
        );
        let rule = RuleKey {
            set: set(digest),
            direction: Direction::Ingress,
            class: Some(web()),
            protocol: None,
            ports: PortPrefix::ALL,
        };
        let policy = ObjectKey::new("shop", "deny");
        tables.rules.insert(rule, Ruling::allow(Origin { policy, direction: Direction::Ingress, rule: 0 }));
        tables.classes.insert(AddrKey::new([10, 244, 0, 3].into()), web());
        tables
    }

    #[test]
    fn a_plan_reads_as_what_it_does() {
        let plan = diff(&Dataplane::default(), &tables(1));
        let text = "refine: + rule (shop/deny#00000001) ingress [{ns=shop pod=app=web}] all → allow by shop/deny ingress[0]\n\
                    refine: + class 10.244.0.3 → [{ns=shop pod=app=web}]\n\
                    swap: + pod shop/cart (shop/deny#00000001)\n\
                    retire: raise policy_epoch\n";
        assert_eq!(plan.to_string(), text);
    }

    #[test]
    fn a_changed_policy_is_built_beside_the_old_one() {
        let (old, new) = (tables(1), tables(2));
        let plan = diff(&old, &new);
        assert!(matches!(plan.refine.as_slice(), [Step::Put(Entry::Rule(..))]), "{plan}");
        assert!(matches!(plan.swap.as_slice(), [Step::Put(Entry::Pod(..))]), "{plan}");
        assert!(matches!(plan.retire.as_slice(), [Step::Delete(EntryKey::Rule(_))]), "{plan}");
        assert!(plan.raise_epoch);
        let mut reached = old;
        reached.apply(&plan);
        assert_eq!(reached, new);
    }

    #[test]
    fn the_end_of_audit_judges_flows_anew() {
        let (mut old, new) = (tables(1), tables(1));
        old.pods.values_mut().for_each(|pod| pod.audited = true);
        let plan = diff(&old, &new);
        assert_eq!(
            plan.to_string(),
            "swap: + pod shop/cart (shop/deny#00000001)\nretire: raise policy_epoch\n"
        );
    }

    #[test]
    fn equal_tables_need_no_plan() {
        let plan = diff(&tables(1), &tables(1));
        assert!(plan.is_empty() && !plan.raise_epoch, "{plan}");
    }

    #[test]
    fn down_to_nothing_pods_go_first() {
        let plan = diff(&tables(1), &Dataplane::default());
        assert!(matches!(plan.steps().next(), Some(Step::Delete(EntryKey::Pod(_)))), "{plan}");
        let mut reached = tables(1);
        reached.apply(&plan);
        assert_eq!(reached, Dataplane::default());
    }
}
