//! Carrying out Plans and whole Dataplanes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use sheetbend_model::plan::{Entry, EntryKey, Place, Plan, Step, Wanted};
use sheetbend_model::state::AttachmentId;
use sheetbend_model::types::AddrKey;

use super::error::BpfError;
use super::kernel::Kernel;
use super::policy::rule_key_of;
use super::rows::{self, PodLink};
use super::shut::Shut;

/// Finds MAC and MTU of a pod's veth by its attachment.
pub type Links<'a> = &'a dyn Fn(&AttachmentId) -> Option<PodLink>;

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// Map name → (rows written, rows deleted); only maps that changed.
    pub written: BTreeMap<&'static str, (u64, u64)>,
    /// Steps that failed. They stay wanted: the next run tries them again.
    pub failed: Vec<Failure>,
    /// Whether established flows are judged anew.
    pub epoch_raised: bool,
}

/// A step that failed.
#[derive(Debug)]
pub struct Failure {
    /// The step, as in the Plan's text.
    pub step: String,
    /// Why.
    pub error: BpfError,
}

impl Report {
    /// Whether every step is true now.
    pub fn is_done(&self) -> bool {
        self.failed.is_empty()
    }

    /// Rows written and deleted in all tables.
    pub fn writes(&self) -> u64 {
        self.written.values().map(|(puts, deletes)| puts + deletes).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, (puts, deletes)) in &self.written {
            write!(f, "{table} +{puts} -{deletes} ")?;
        }
        write!(f, "failed {}", self.failed.len())?;
        if self.epoch_raised { f.write_str(", flows judged anew") } else { Ok(()) }
    }
}

impl Kernel {
    /// Makes the kernel hold exactly `want`: writes what is missing or other, in the order of a Plan's phases, touches
    /// nothing that is right, and removes what is not wanted. The first call makes this version's programs live.
    pub fn sync(&mut self, want: &dyn Wanted, links: Links<'_>) -> Result<Report, BpfError> {
        self.write_all(want, links, true)
    }

    /// As [`Kernel::sync`], and removes nothing: `want` may lack what an earlier process knew. Other Plans may follow,
    /// but only a [`Kernel::sync`] finds what is too much.
    pub fn sync_without_removing(&mut self, want: &dyn Wanted, links: Links<'_>) -> Result<Report, BpfError> {
        self.write_all(want, links, false)
    }

    fn write_all(&mut self, want: &dyn Wanted, links: Links<'_>, remove: bool) -> Result<Report, BpfError> {
        self.begin();
        self.waiting.clear();
        // Every row is put, and those that are not there found anew.
        self.shut = Shut::default();
        self.services.checking = true;
        let mut run = Run { kernel: self, links, failed: Vec::new() };
        run.sync(want, remove);
        let failed = run.failed;
        self.services.checking = false;
        self.synced = true;
        let report = self.finish(false, failed)?;
        if !self.live {
            self.go_live()?;
        }
        Ok(report)
    }

    /// As [`Kernel::sync`], for the part of `want` that begins at `place` only, so that a comparison of everything can be
    /// spread over time; Plans may be carried out between parts. What is not wanted goes with the first part, or with the
    /// last what only a look through the kernel's tables finds. Returns where to go on; `None` = that was all. Only after the
    /// first [`Kernel::sync`].
    pub fn compare(
        &mut self,
        want: &dyn Wanted,
        place: &Place,
        links: Links<'_>,
    ) -> Result<(Report, Option<Place>), BpfError> {
        if !self.synced {
            return Err(BpfError::NotSynced);
        }
        self.begin();
        self.retire_due()?;
        self.services.checking = true;
        let mut run = Run { kernel: self, links, failed: Vec::new() };
        let mut rules = BTreeSet::new();
        let next = run.part(want, place, &mut rules);
        let removed = if *place == Place::Base { run.kernel.remove_unwanted_rules(&rules) } else { Ok(()) };
        let removed = removed.and_then(|()| match next {
            Some(_) => Ok(()),
            None => run.kernel.remove_unwanted(want),
        });
        run.note_removal(removed);
        let failed = run.failed;
        self.services.checking = false;
        Ok((self.finish(false, failed)?, next))
    }

    /// Carries out `plan`, and before it what earlier runs could not do. Only after the first [`Kernel::sync`].
    pub fn run(&mut self, plan: &Plan, links: Links<'_>) -> Result<Report, BpfError> {
        if !self.synced {
            return Err(BpfError::NotSynced);
        }
        self.begin();
        self.retire_due()?;
        let waiting = std::mem::take(&mut self.waiting);
        let superseded: BTreeSet<Option<EntryKey>> =
            if waiting.is_empty() { BTreeSet::new() } else { plan.steps().map(key_of).collect() };
        let waiting: Vec<Step> =
            waiting.into_iter().filter(|step| !superseded.contains(&key_of(step))).collect();
        let mut run = Run { kernel: self, links, failed: Vec::new() };
        waiting.iter().chain(plan.steps()).for_each(|step| run.step(step));
        let failed = run.failed;
        self.finish(plan.raise_epoch, failed)
    }

    /// Removes what the last runs took out of use, when its grace period has passed; returns when to call again.
    pub fn tick(&mut self) -> Result<Option<Duration>, BpfError> {
        self.begin();
        self.retire_due()?;
        self.tables.take_counts();
        let next = self.services.retiring.front();
        Ok(next.map(|(due, _)| Duration::from_nanos(due.saturating_sub(self.numbers.now))))
    }

    fn finish(&mut self, raise_epoch: bool, mut failed: Vec<Failure>) -> Result<Report, BpfError> {
        failed.extend(self.shut_pods());
        let epoch_raised = raise_epoch || self.verdicts_changed;
        if epoch_raised {
            let epoch = self.tables.epoch.get(&0)?.unwrap_or(0);
            // 0 in a flow means "never judged".
            self.tables.epoch.put(&0, &epoch.checked_add(1).unwrap_or(1))?;
        }
        self.verdicts_changed = false;
        self.seen = super::kernel::Seen::default();
        let counts = self.tables.take_counts().into_iter();
        let written = counts.filter(|(_, puts, deletes)| puts + deletes > 0);
        let written = written.map(|(table, puts, deletes)| (table, (puts, deletes))).collect();
        Ok(Report { written, failed, epoch_raised })
    }
}

/// One run under way.
struct Run<'a> {
    kernel: &'a mut Kernel,
    links: Links<'a>,
    failed: Vec<Failure>,
}

impl Run<'_> {
    /// Full: every row is put, which writes nothing where it is right; then what is not wanted goes.
    fn sync(&mut self, want: &dyn Wanted, remove: bool) {
        let mut rules = BTreeSet::new();
        let mut place = Some(Place::Base);
        while let Some(at) = place {
            place = self.part(want, &at, &mut rules);
        }
        if remove {
            let removed = self.kernel.remove_unwanted(want);
            self.note_removal(removed);
            let removed = self.kernel.remove_unwanted_rules(&rules);
            self.note_removal(removed);
        }
    }

    /// Puts the rows of one part; the keys of rules into `rules`.
    fn part(&mut self, want: &dyn Wanted, place: &Place, rules: &mut BTreeSet<[u8; 16]>) -> Option<Place> {
        let (entries, next) = want.part(place);
        for entry in &entries {
            let result = if let Entry::Rule(key, ruling) = entry {
                self.kernel.put_rule(key, ruling).map(|row| rules.extend([row]))
            } else {
                self.put(entry)
            };
            self.note(result, || Step::Put(entry.clone()));
        }
        next
    }

    fn note_removal(&mut self, result: Result<(), BpfError>) {
        if let Err(error) = result {
            self.failed.push(Failure { step: "remove what is not wanted".into(), error });
        }
    }

    fn put(&mut self, entry: &Entry) -> Result<(), BpfError> {
        let kernel = &mut *self.kernel;
        match entry {
            Entry::Overlay(overlay) => kernel.put_overlay(overlay),
            Entry::Route(key, route) => kernel.put_route(key, route),
            Entry::Rule(key, ruling) => kernel.put_rule(key, ruling).map(drop),
            Entry::Block(key, class) => kernel.put_block(key, class),
            Entry::Class(key, class) => kernel.put_class(key, class),
            Entry::Service(key, entry) => kernel.put_service(key, entry),
            Entry::ServiceAddress(key, holder) => kernel.put_service_address(key, *holder),
            Entry::Pod(id, pod) => kernel.put_pod(id, pod, (self.links)(id)),
        }
    }

    fn step(&mut self, step: &Step) {
        let kernel = &mut *self.kernel;
        let result = match step {
            Step::Put(entry) => self.put(entry),
            Step::Delete(EntryKey::Pod(id)) => kernel.delete_pod(id),
            Step::Delete(EntryKey::Service(key)) => kernel.delete_service(key),
            Step::Delete(EntryKey::ServiceAddress(key)) => kernel.delete_service_address(key),
            Step::Delete(EntryKey::Class(key)) => kernel.delete_class(key),
            Step::Delete(EntryKey::Block(key)) => kernel.delete_block(key),
            Step::Delete(EntryKey::Rule(key)) => kernel.delete_rule(key),
            Step::Delete(EntryKey::Route(key)) => kernel.delete_route(key),
        };
        self.note(result, || step.clone());
    }

    fn note(&mut self, result: Result<(), BpfError>, step: impl Fn() -> Step) {
        if let Err(error) = result {
            let step = step();
            let text = match &step {
                Step::Put(entry) => format!("+ {entry}"),
                Step::Delete(key) => format!("- {key}"),
            };
            self.failed.push(Failure { step: text, error });
            self.kernel.waiting.push(step);
        }
    }
}

impl Kernel {
    /// The retire phase of a full sync: rows that `want` does not have go, users before what they use.
    fn remove_unwanted(&mut self, want: &dyn Wanted) -> Result<(), BpfError> {
        self.remove_unwanted_pods(want)?;
        let (mut services, mut strays) = (Vec::new(), Vec::new());
        self.tables.services.for_each(|key, _| match rows::service_key_back(&key) {
            Some(frontend) if want.has_service(&frontend) => {}
            Some(frontend) => services.push(frontend),
            None => strays.push(key),
        })?;
        services.iter().try_for_each(|frontend| self.delete_service(frontend))?;
        strays.iter().try_for_each(|key| self.tables.services.delete(key).map(drop))?;
        self.remove_unwanted_service_addresses(want)?;
        let mut classes = Vec::new();
        self.tables.classes.for_each(|key, _| {
            let key = rows::class_key_back(&key);
            if !want.has_class(&key) {
                classes.push(key);
            }
        })?;
        classes.iter().try_for_each(|key| self.delete_class(key))?;
        let blocks: Vec<_> = self.blocks.keys().filter(|key| !want.has_block(key)).copied().collect();
        for key in blocks {
            if !self.is_block_guard(&key) {
                self.delete_block(&key)?;
            }
        }
        let routes: Vec<_> = self.routes.keys().filter(|key| !want.has_route(key)).copied().collect();
        for key in routes {
            if !self.is_route_guard(&key) {
                self.delete_route(&key)?;
            }
        }
        self.retire_unnamed_backends()?;
        self.retire_unnamed_sources()?;
        self.retire_due()
    }

    /// Rules that are not among `rules` go.
    fn remove_unwanted_rules(&mut self, rules: &BTreeSet<[u8; 16]>) -> Result<(), BpfError> {
        let unwanted: Vec<_> = self.rules.keys().filter(|key| !rules.contains(*key)).copied().collect();
        unwanted.iter().try_for_each(|key| self.delete_rule_row(&rule_key_of(key)))
    }

    fn remove_unwanted_pods(&mut self, want: &dyn Wanted) -> Result<(), BpfError> {
        let wanted: BTreeSet<&AttachmentId> = want.pods().map(|(id, _)| id).collect();
        let known: Vec<_> = self.pods.keys().filter(|id| !wanted.contains(id)).cloned().collect();
        known.iter().try_for_each(|id| self.delete_pod(id))?;
        let addresses: BTreeSet<AddrKey> =
            want.pods().flat_map(|(_, pod)| pod.addresses.iter().copied()).collect();
        for (key, _) in self.tables.local.all()? {
            let address = rows::class_key_back(&key);
            if !addresses.contains(&address) {
                self.withdraw(&address)?;
            }
        }
        let devices: BTreeSet<u32> = want.pods().map(|(_, pod)| pod.host_ifindex).collect();
        for (ifindex, _) in self.tables.pods.all()? {
            if !devices.contains(&ifindex) {
                self.drop_pod_row(ifindex)?;
            }
        }
        Ok(())
    }
}

/// The row a step is about; `None` = the overlay.
fn key_of(step: &Step) -> Option<EntryKey> {
    match step {
        Step::Put(Entry::Overlay(_)) => None,
        Step::Put(Entry::Route(key, _)) => Some(EntryKey::Route(*key)),
        Step::Put(Entry::Rule(key, _)) => Some(EntryKey::Rule(key.clone())),
        Step::Put(Entry::Block(key, _)) => Some(EntryKey::Block(*key)),
        Step::Put(Entry::Class(key, _)) => Some(EntryKey::Class(*key)),
        Step::Put(Entry::Service(key, _)) => Some(EntryKey::Service(*key)),
        Step::Put(Entry::ServiceAddress(key, _)) => Some(EntryKey::ServiceAddress(*key)),
        Step::Put(Entry::Pod(id, _)) => Some(EntryKey::Pod(id.clone())),
        Step::Delete(key) => Some(key.clone()),
    }
}
