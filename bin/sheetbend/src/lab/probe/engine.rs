//! Runs many probes at once, gently: a few namespaces at a time, a few dozen probes in each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::exchange::{Ports, Prepared};
use super::{DropWatch, Observation, Probe, Seen};
use crate::lab::netns::Netns;

/// The probes of one source.
#[derive(Debug)]
pub(crate) struct Job {
    /// Where their sockets are made; `None` = the caller's namespace.
    pub(crate) netns: Option<Netns>,
    /// (place in the result, probe).
    pub(crate) probes: Vec<(usize, Probe)>,
}

/// How fast and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Namespaces at a time.
    pub(crate) sources: usize,
    /// Probes at a time in each.
    pub(crate) probes: usize,
    /// How long a probe without answer and without drop event waits. Longer than TCP's first repetition (1 s).
    pub(crate) patience: Duration,
    /// How long a probe still listens after a node has reported its drop.
    pub(crate) grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { sources: 4, probes: 32, patience: Duration::from_secs(3), grace: Duration::from_millis(40) }
    }
}

/// Runs every job; the result holds the observation of each probe at its place. `tick` is called after each probe.
pub(crate) fn run(
    jobs: Vec<Job>,
    watch: &DropWatch,
    limits: Limits,
    tick: &(impl Fn() + Sync),
) -> anyhow::Result<Vec<Option<Observation>>> {
    let places = jobs.iter().flat_map(|job| &job.probes).map(|(place, _)| place + 1).max().unwrap_or(0);
    let results = Mutex::new(vec![None; places]);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..limits.sources.min(jobs.len()))
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Some(netns) = &job.netns {
                            netns.enter()?;
                        }
                        let done = run_job(job, watch, limits, tick)?;
                        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                        for (place, observation) in done {
                            if let Some(slot) = results.get_mut(place) {
                                *slot = Some(observation);
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs one source's probes on this thread, whose namespace is the source's.
fn run_job(
    job: &Job,
    watch: &DropWatch,
    limits: Limits,
    tick: &(impl Fn() + Sync),
) -> anyhow::Result<Vec<(usize, Observation)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ports = Arc::new(Ports::new(rand::random()));
    let slots = Arc::new(Semaphore::new(limits.probes));
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for (place, probe) in job.probes.iter().cloned() {
            let (ports, slots, watch) = (ports.clone(), slots.clone(), watch.clone());
            tasks.spawn(async move {
                let _slot = slots.acquire().await;
                (place, observe(&probe, &ports, &watch, limits).await)
            });
        }
        let mut done = Vec::with_capacity(job.probes.len());
        while let Some(result) = tasks.join_next().await {
            done.push(result?);
            tick();
        }
        Ok(done)
    })
}

async fn observe(probe: &Probe, ports: &Ports, watch: &DropWatch, limits: Limits) -> Observation {
    let prepared = match Prepared::bind(probe.speech, probe.from, ports) {
        Ok(prepared) => prepared,
        Err(error) => return Observation { seen: Seen::Failed(error.to_string()), event: None },
    };
    let ends = std::iter::once(probe.to).chain(probe.behind.iter().copied()).collect();
    let mut claim = watch.claim(probe.speech, prepared.local(), ends);
    let mut event = None;
    let deadline = tokio::time::sleep(limits.patience);
    let asked = prepared.ask(probe.to);
    tokio::pin!(deadline, asked);
    let seen = loop {
        tokio::select! {
            biased;
            seen = &mut asked => break seen,
            reported = claim.next(), if event.is_none() => {
                event = Some(reported);
                deadline.as_mut().reset(tokio::time::Instant::now() + limits.grace);
            }
            () = &mut deadline => break Seen::Nothing,
        }
    };
    if event.is_none() && matches!(seen, Seen::Refused(_)) {
        // The node's report of its own refusal is on its way; a pod's own RST has none.
        event = tokio::time::timeout(limits.grace, claim.next()).await.ok();
    }
    Observation { seen, event }
}
