//! `sheetbend lab matrix`: every source against every destination, expected beside observed.
//!
//! `expected` comes from the oracle, which reads the Kubernetes objects; `observed` from sockets in the source's
//! namespace and the events of the nodes. Neither reads the other's tables.

mod cell;
mod judge;
mod places;
mod plan;
mod report;

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use sheetbend_intake::file;
use sheetbend_model::events::{PacketEvent, PacketVerdict};
use sheetbend_model::state::Snapshot;

use super::command;
use super::failure::{MISMATCH, Outcome};
use super::netns::{Netns, outside_path};
use super::probe::{DropWatch, Feed, Job, Limits, run as probe_all};
use super::state::{self, LabDir, LabFile};
use super::wire::{LabStatus, Request, ask};
use super::{names, objects, sockets_of};

pub(crate) use cell::Matrix;
pub(crate) use places::named_ports;
pub(crate) use report::{mismatches, summary};

/// How many drops are remembered for showing.
const REMEMBERED: usize = 4096;

/// Runs the command.
pub(crate) fn run(args: &command::Matrix) -> Outcome<ExitCode> {
    let (dir, file) = state::find(args.which.name.as_deref())?;
    let bench = Bench::new(&dir, &file)?;
    let matrix = bench.matrix(args.sample, &|_, _| ())?;
    report::print(&mut std::io::stdout().lock(), &matrix, args.output)?;
    Ok(if matrix.summary.mismatches == 0 { ExitCode::SUCCESS } else { ExitCode::from(MISMATCH) })
}

/// A lab as a prober sees it: its objects, its namespaces, its events.
pub(crate) struct Bench {
    /// What the API server serves.
    pub(crate) snapshot: Snapshot,
    /// How the lab stands.
    pub(crate) status: LabStatus,
    watch: DropWatch,
    drops: Arc<Mutex<VecDeque<PacketEvent>>>,
    supervisor: u32,
    _feed: Feed,
}

impl Bench {
    /// Reads the lab's objects and subscribes to its events.
    pub(crate) fn new(dir: &LabDir, file: &LabFile) -> Outcome<Self> {
        let manifests = objects::read(&[dir.cluster()])?;
        let mut snapshot = file::snapshot(manifests.objects.values().map(|manifest| &*manifest.object));
        names::hide(&mut snapshot);
        let (watch, drops) = (DropWatch::default(), Arc::new(Mutex::new(VecDeque::new())));
        let (dispatch, remember) = (watch.clone(), drops.clone());
        let feed = Feed::start(&sockets_of(dir, "events.sock")?, move |event: PacketEvent| {
            if event.verdict == PacketVerdict::Dropped {
                let mut drops = remember.lock().unwrap_or_else(PoisonError::into_inner);
                drops.push_back(event.clone());
                if drops.len() > REMEMBERED {
                    drops.pop_front();
                }
            }
            dispatch.dispatch(event);
        })
        .context("cannot listen to the nodes' events; does every agent run? see `sheetbend lab status`")?;
        let status = ask(dir, &Request::Status, |_| ())?;
        Ok(Self { snapshot, status, watch, drops, supervisor: file.supervisor.pid, _feed: feed })
    }

    /// The namespace `name` of the lab.
    pub(crate) fn netns(&self, name: &str) -> anyhow::Result<Netns> {
        Netns::open(&outside_path(self.supervisor, name))
    }

    /// The drops seen so far, oldest first.
    pub(crate) fn drops(&self) -> Vec<PacketEvent> {
        self.drops.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Runs `jobs`; see [`probe_all`].
    pub(crate) fn probe(
        &self,
        jobs: Vec<Job>,
        tick: &(impl Fn() + Sync),
    ) -> anyhow::Result<Vec<Option<super::probe::Observation>>> {
        probe_all(jobs, &self.watch, Limits::default(), tick)
    }

    /// Probes every cell, or `sample` of them. `progress` gets (done, all).
    pub(crate) fn matrix(
        &self,
        sample: Option<usize>,
        progress: &(impl Fn(usize, usize) + Sync),
    ) -> Outcome<Matrix> {
        let places = places::Places::of(&self.snapshot, &self.status)?;
        let mut plan = plan::cells(&self.snapshot, &places);
        let all = plan.len();
        if let Some(wanted) = sample.filter(|wanted| *wanted < all) {
            // Spread evenly: every (all / wanted)-th.
            let kept = plan
                .into_iter()
                .enumerate()
                .filter(|(place, _)| place * wanted / all != (place + 1) * wanted / all);
            plan = kept.map(|(_, cell)| cell).collect();
        }
        let mut jobs: BTreeMap<&str, Job> = BTreeMap::new();
        for (place, cell) in plan.iter().enumerate() {
            let Some(probe) = cell.probe() else { continue };
            let netns = cell.netns.as_str();
            if !jobs.contains_key(netns) {
                jobs.insert(netns, Job { netns: Some(self.netns(netns)?), probes: Vec::new() });
            }
            if let Some(job) = jobs.get_mut(netns) {
                job.probes.push((place, probe));
            }
        }
        let count = plan.len();
        let done = std::sync::atomic::AtomicUsize::new(0);
        let tick = || progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, count);
        let mut observed = self.probe(jobs.into_values().collect(), &tick)?;
        observed.resize(count, None);
        let cells =
            plan.iter().zip(observed).map(|(plan, observation)| judge::judge(plan, observation)).collect();
        Ok(Matrix::new(&self.status, cells, (all != count).then_some(all)))
    }
}

#[cfg(test)]
mod tests;
