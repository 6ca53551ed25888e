//! The supervisor: process 1 of a lab. It makes the wires, runs the agents, and plays API server and kubelet.

mod api;
mod cluster;
mod control;
mod fabric;
mod journal;
mod lab;
mod node;
mod plugin;
mod pod;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use nix::mount::{MsFlags, mount};

use self::lab::Lab;
use crate::lab::children;
use crate::lab::launch::LabRequest;
use crate::lab::objects::Cluster;
use crate::lab::state::LabDir;

/// `sheetbend lab supervise DIR`.
pub(crate) fn run(dir: &Path) -> ExitCode {
    match supervise(&LabDir { path: dir.to_owned() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(crate::lab::failure::OWN_FAULT)
        }
    }
}

/// Whether every pod of `cluster` can be run: what the supervisor would find out too late.
pub(crate) fn check(cluster: &Cluster, request: &LabRequest) -> anyhow::Result<()> {
    api::plans(cluster, request.keep_addresses).map(drop)
}

fn supervise(dir: &LabDir) -> anyhow::Result<()> {
    if std::process::id() != 1 {
        bail!("`lab supervise` is started by `lab up` only");
    }
    let none = None::<&str>;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).context("cannot mount /proc")?;
    let mut owner = BufReader::new(std::io::stdin()).lines();
    if !owner.next().is_some_and(|line| line.is_ok_and(|line| line == "go")) {
        bail!("the owner left before it said go");
    }
    let request = serde_json::from_slice(&fs::read(dir.join("request.json"))?)?;
    children::reap_orphans();
    let lab = Arc::new(Lab::new(request, dir.clone())?);
    control::serve(&lab, UnixListener::bind(dir.control())?);
    let watched = lab.clone();
    std::thread::spawn(move || {
        if !owner.next().is_some_and(|line| line.is_ok_and(|line| line == "detach")) {
            watched.journal.detail("the owner left");
            watched.end();
        }
    });
    let built = lab.clone();
    std::thread::spawn(move || built.bring_up());
    lab.wait_end();
    lab.journal.detail("ending");
    // The answer to `down` is on its way.
    std::thread::sleep(Duration::from_millis(10));
    // The kernel ends processes, namespaces, devices and pins with process 1.
    std::process::exit(0)
}

/// Now, as `metadata.deletionTimestamp` writes it.
fn now_rfc3339() -> anyhow::Result<String> {
    let now: Time = serde_json::from_value(serde_json::json!("1970-01-01T00:00:00Z"))?;
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let time = Time(now.0 + Duration::from_secs(seconds));
    Ok(serde_json::to_value(time)?.as_str().unwrap_or_default().to_owned())
}
