//! The cluster's DNS zone: Services, their endpoints and Pods by name (Kubernetes DNS-Based Service Discovery 1.1.0,
//! <https://github.com/kubernetes/dns/blob/master/docs/specification.md>; sections are of that document).

mod service;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use sheetbend_model::plan::{Record, Zone, ZoneKey};
use sheetbend_model::state::{Pod, Snapshot};
use sheetbend_model::types::ObjectKey;

use crate::changes::Changes;
use crate::slices::{Slices, service_of};
use service::Names;

/// The version of the specification, as `dns-version.<zone>` says it (§2.2).
pub const SCHEMA_VERSION: &str = "1.1.0";

/// The whole zone of `cluster`. `origin` is the zone's name, such as `cluster.local`.
pub fn zone(cluster: &Snapshot, origin: &str) -> Zone {
    let mut compiler = ZoneCompiler::new(origin, PodNames::Known);
    compiler.update(cluster);
    compiler.zone().clone()
}

/// Which Pods have names of their own (`10-244-0-9.<namespace>.pod.<zone>`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNames {
    /// Those of the Snapshot.
    Known,
    /// Any address of any Namespace, for a Snapshot that holds no Pods.
    Any,
}

/// How much was compiled. It shows that an update costs what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneCounters {
    /// Services whose names were written.
    pub services: u64,
    /// Pods whose names were written.
    pub pods: u64,
}

/// Follows a cluster: each update rewrites the names of what changed.
pub struct ZoneCompiler {
    origin: Arc<str>,
    snapshot: Snapshot,
    slices: Slices,
    zone: Zone,
    pod_names: PodNames,
    counters: ZoneCounters,
}

impl ZoneCompiler {
    /// A compiler that has seen nothing.
    pub fn new(origin: &str, pod_names: PodNames) -> Self {
        Self {
            origin: origin.to_ascii_lowercase().into(),
            snapshot: Snapshot::default(),
            slices: Slices::default(),
            zone: Zone::default(),
            pod_names,
            counters: ZoneCounters::default(),
        }
    }

    /// The zone as of the last update.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// How much was compiled so far.
    pub fn counters(&self) -> ZoneCounters {
        self.counters
    }

    /// Takes in `next`; whether any name changed.
    pub fn update(&mut self, next: &Snapshot) -> bool {
        let old = std::mem::replace(&mut self.snapshot, next.clone());
        let changes = Changes::between(&old, next);
        let mut dirty: BTreeSet<ObjectKey> =
            changes.services.iter().map(|change| change.key.clone()).collect();
        for change in &changes.endpoint_slices {
            dirty
                .extend([change.old, change.new].into_iter().flatten().filter_map(|slice| service_of(slice)));
        }
        let had: Vec<Names> = dirty.iter().map(|key| self.names(&old, key)).collect();
        self.slices.update(&changes);
        let mut changed = self.set_version(*next != Snapshot::default());
        for (key, had) in dirty.iter().zip(had) {
            self.counters.services += 1;
            let has = self.names(next, key);
            if had != has {
                changed = true;
                self.withdraw(&had);
                self.publish(has);
            }
        }
        self.name_pods(&changes) || changed
    }

    /// Whether any name of a Pod changed.
    fn name_pods(&mut self, changes: &Changes<'_>) -> bool {
        let mut changed = false;
        if self.pod_names == PodNames::Any {
            for change in
                changes.namespaces.iter().filter(|change| change.old.is_none() != change.new.is_none())
            {
                changed = true;
                self.zone.set_open(change.key, change.new.is_some());
            }
            return changed;
        }
        for change in &changes.pods {
            let (had, has) = (addresses(change.old), addresses(change.new));
            if had != has {
                changed = true;
                self.counters.pods += 1;
                had.iter().for_each(|addr| self.zone.remove_pod(&change.key.namespace, *addr));
                has.iter().for_each(|addr| self.zone.add_pod(&change.key.namespace, *addr));
            }
        }
        changed
    }

    /// §2.2. A cluster without any object is one that nobody has seen yet. Whether that changed.
    fn set_version(&mut self, known: bool) -> bool {
        let Some(key) = ZoneKey::of("dns-version") else { return false };
        let was = self.zone.find(&key).is_some();
        if was != known {
            let version = known.then(|| Record::Txt(SCHEMA_VERSION.into()));
            self.zone.set(key, version.into_iter().collect());
        }
        was != known
    }

    fn names(&self, snapshot: &Snapshot, key: &ObjectKey) -> Names {
        let Some(service) = snapshot.services.get(key) else { return Names::default() };
        service::names(service, self.slices.of(snapshot, key), &self.origin)
    }

    fn withdraw(&mut self, names: &Names) {
        for key in names.records.keys() {
            self.zone.set(key.clone(), Vec::new());
        }
        for (addr, name) in &names.pointers {
            self.zone.remove_pointer(*addr, name);
        }
    }

    fn publish(&mut self, names: Names) {
        for (key, records) in names.records {
            self.zone.set(key, records);
        }
        for (addr, name) in names.pointers {
            self.zone.add_pointer(addr, name);
        }
    }
}

impl fmt::Debug for ZoneCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneCompiler")
            .field("origin", &self.origin)
            .field("counters", &self.counters)
            .finish()
    }
}

/// The addresses by which a Pod has a `pod` name: none once it has ended, for they may be another's.
fn addresses(pod: Option<&Arc<Pod>>) -> BTreeSet<IpAddr> {
    let living = pod.filter(|pod| !pod.phase.is_terminal());
    living.into_iter().flat_map(|pod| pod.addresses.iter()).map(|addr| addr.to_canonical()).collect()
}
