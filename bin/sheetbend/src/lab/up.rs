//! `sheetbend lab up`, and the part of `demo` that is the same.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use sheetbend_model::state::NetworkMode;

use super::command::{Shape, Up};
use super::failure::{Failure, MANIFEST, Outcome, USAGE};
use super::launch::{self, LabRequest, Owner};
use super::owner::{Interrupts, finish};
use super::state::{self, LabDir};
use super::wire::{LabStatus, Request, ask};
use super::{objects, status, supervisor};

/// Runs the command.
pub(crate) fn run(args: Up) -> Outcome<ExitCode> {
    let plan = Plan::new(&args.shape, args.name)?;
    let interrupts = Interrupts::listen()?;
    let (owner, status) = plan.bring_up(&interrupts, |text| eprintln!("{text}"))?;
    owner.detach()?;
    status::summary(&mut std::io::stdout().lock(), &status)?;
    Ok(ExitCode::SUCCESS)
}

/// A lab that can be brought up: its manifests are right, its name is free.
pub(crate) struct Plan {
    request: LabRequest,
    files: Vec<PathBuf>,
}

impl Plan {
    /// Checks everything that can be checked before anything is made.
    pub(crate) fn new(shape: &Shape, name: String) -> Outcome<Self> {
        state::check_name(&name)?;
        let mode: NetworkMode = shape.mode.parse().map_err(|error| Failure::new(USAGE, error))?;
        launch::check_rights()?;
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let request = LabRequest {
            name,
            nodes: shape.nodes,
            mode: mode.to_string(),
            keep_addresses: shape.keep_addresses,
            pod_cidrs: Vec::new(),
            began,
        };
        Ok(Self { request, files: shape.files.clone() })
    }

    /// Brings the lab up; returns when every pod has answered. On error or interruption nothing is left.
    pub(crate) fn bring_up(
        mut self,
        interrupts: &Interrupts,
        progress: impl Fn(&str) + Send + 'static,
    ) -> Outcome<(Owner, LabStatus)> {
        for name in state::sweep()? {
            progress(&format!("removed what was left of lab {name}"));
        }
        let manifests = objects::read(&self.files)?;
        let LabRequest { nodes, keep_addresses, .. } = self.request;
        self.request.pod_cidrs = objects::pod_cidrs(&manifests, nodes, keep_addresses)?;
        let dir = LabDir::of(&self.request.name);
        let cluster = objects::build(&manifests, &dir, &self.request)?;
        supervisor::check(&cluster, &self.request).map_err(|error| Failure { code: MANIFEST, error })?;
        for remark in objects::remarks(&manifests, &cluster.notices) {
            progress(&format!("note: {remark}"));
        }
        for condition in cluster.conditions() {
            progress(&format!("note: {condition}"));
        }
        let dir = LabDir::create(&launch::first_file(&self.request)?)?;
        let started = objects::store(&dir, &manifests)
            .map_err(Failure::from)
            .and_then(|()| Owner::start(dir.clone(), &self.request));
        let owner = match started {
            Ok(owner) => owner,
            Err(failure) => {
                dir.remove()?;
                return Err(failure);
            }
        };
        let watched = dir.clone();
        let outcome = interrupts.guard(move || ask(&watched, &Request::Watch, progress));
        match outcome {
            Ok(status) => Ok((owner, status)),
            Err(failure) => {
                let supervisor = owner.supervisor.clone();
                drop(owner);
                finish(&dir, &supervisor)?;
                Err(failure)
            }
        }
    }
}

/// Writes a line at once, so that a pipe shows it too.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that left needs no more.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
