#![allow(unsafe_code, reason = "an agent that is killed is a fork of this process")]
//! Tables of flows that grow: steps, agents that die between and inside them, and who reads flows meanwhile.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, ensure};
use aya::maps::MapInfo;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use sheetbend_apply::bpf::{Growth, Kernel, KernelConfig};
use sheetbend_apply::store::FAIL_POINT_VARIABLE;
use sheetbend_ebpf_abi as abi;
use sheetbend_model::plan::Dataplane;

use super::flows::{Ct, Flows, Snat, TCP, ct_key, one_pod, snat_key};
use super::{Place, links};

/// Flows in tables of 1,024: more than 70 % of what the kernel's LRU can hold in all cases on few CPUs.
const FLOWS: u16 = 600;
/// More steps than any growth has.
const STEPS: usize = 100;

fn config(place: &Place, instance: &str) -> KernelConfig {
    let ceilings = ["CT", "SERVICE_FLOWS", "SNAT"].map(|name| (name.to_owned(), 8_192)).into();
    KernelConfig { ceilings, ..place.config(instance) }
}

fn open(place: &Place, instance: &str, want: &Dataplane) -> anyhow::Result<Kernel> {
    let mut kernel = Kernel::open(config(place, instance))?;
    ensure!(kernel.sync(want, &links)?.is_done(), "sync");
    Ok(kernel)
}

fn fill(flows: &Flows, ports: std::ops::Range<u16>) -> anyhow::Result<()> {
    ports.into_iter().try_for_each(|port| flows.put(TCP, port, abi::CT_REPLIED, 0))
}

/// Ports whose flow, or whose masquerade, is in no table.
fn missing(flows: &Flows, ports: std::ops::Range<u16>) -> anyhow::Result<Vec<u16>> {
    let ct: Vec<Ct> = ["CT", "CT_NEXT"].iter().filter_map(|name| flows.open(name).ok()).collect();
    let snat: Vec<Snat> = ["SNAT", "SNAT_NEXT"].iter().filter_map(|name| flows.open(name).ok()).collect();
    ensure!(!ct.is_empty() && !snat.is_empty(), "no tables");
    let is_there = |port: &u16| {
        ct.iter().any(|map| map.get(&ct_key(TCP, *port), 0).is_ok())
            && snat.iter().any(|map| map.get(&snat_key(TCP, *port + 10_000), 0).is_ok())
    };
    Ok(ports.filter(|port| !is_there(port)).collect())
}

fn size(flows: &Flows, name: &str) -> anyhow::Result<u32> {
    Ok(MapInfo::from_pin(flows.pins.join(name))?.max_entries())
}

/// Growth is at its end: the tables have their names, and one version of programs is left, on every link.
fn ensure_done(place: &Place, kernel: &Kernel, instance: &str) -> anyhow::Result<()> {
    let flows = Flows::of(place, instance);
    for name in ["CT_NEXT", "SNAT_NEXT", "SERVICE_FLOWS_NEXT"] {
        ensure!(!flows.pins.join(name).exists(), "{name} is left");
    }
    let programs = place.bpffs().join("sheetbend").join(instance).join("programs");
    let versions = fs::read_dir(&programs)?.collect::<Result<Vec<_>, _>>()?;
    ensure!(
        versions.len() == 1 && versions[0].file_name().to_str() == Some(kernel.version()),
        "{versions:?}"
    );
    let own = fs::read_dir(versions[0].path())?
        .filter_map(|entry| aya::programs::ProgramInfo::from_pin(entry.ok()?.path()).ok())
        .map(|info| info.id())
        .collect::<BTreeSet<u32>>();
    let links = kernel.links()?;
    ensure!(links.len() == 4 && links.iter().all(|link| own.contains(&link.program_id)), "{links:?} {own:?}");
    Ok(())
}

/// Removes an instance, so that the kernel frees its programs now and not those of all tests at once.
fn remove(place: &Place, instance: &str) -> anyhow::Result<()> {
    Ok(fs::remove_dir_all(place.bpffs().join("sheetbend").join(instance))?)
}

/// A new agent takes each step.
pub(super) fn flow_tables_grow_and_keep_every_flow(place: &Place) -> anyhow::Result<()> {
    const NAME: &str = "growth";
    let (pod, uplink) = (place.device()?, place.device()?);
    let want = one_pod("a", pod)?;
    let flows = Flows::of(place, NAME);
    let mut kernel = open(place, NAME, &want)?;
    kernel.attach_pod(pod)?;
    kernel.attach_uplink(uplink)?;
    ensure!(kernel.grow()? == Growth::Rest, "empty tables grow");
    fill(&flows, 1..FLOWS)?;
    let (mut steps, mut replaced) = (0, 0);
    loop {
        let step = kernel.grow()?;
        ensure!(
            missing(&flows, 1..FLOWS)?.is_empty(),
            "after step {steps}: {:?}",
            missing(&flows, 1..FLOWS)?
        );
        if step == Growth::Rest {
            break;
        }
        replaced += usize::from(step == Growth::Replaced);
        steps += 1;
        ensure!(steps < STEPS, "growth does not end");
        drop(kernel);
        kernel = open(place, NAME, &want)?;
    }
    ensure!(replaced >= 2, "{replaced}");
    ensure_done(place, &kernel, NAME)?;
    ensure!((size(&flows, "CT")?, size(&flows, "SNAT")?) == (2_048, 2_048), "not twice as large");
    ensure!(size(&flows, "SERVICE_FLOWS")? == 1_024, "what is empty stays");
    let states = kernel.flow_tables().to_vec();
    let ct = states.iter().find(|state| state.table == "CT").context("CT")?;
    ensure!((ct.size, ct.ceiling, ct.growing) == (2_048, 8_192, false), "{states:?}");
    ensure!(ct.used == u64::from(FLOWS) - 1, "{states:?}");

    // To its ceiling, and no further; a configuration with less takes what is there.
    for (ports, size_then) in [(FLOWS..1_400, 4_096), (1_400..3_000, 8_192), (3_000..6_000, 8_192)] {
        fill(&flows, ports.clone())?;
        while kernel.grow()? != Growth::Rest {}
        ensure!(size(&flows, "CT")? == size_then, "{} with {ports:?}", size(&flows, "CT")?);
        ensure!(missing(&flows, 1..ports.end)?.is_empty(), "{:?}", missing(&flows, 1..ports.end)?);
    }
    drop(kernel);
    let kernel = open(place, NAME, &want)?;
    ensure_done(place, &kernel, NAME)?;
    remove(place, NAME)
}

/// Runs growth in a process that is killed at `point`.
#[allow(clippy::disallowed_methods, reason = "the fork has one thread, and its own environment")]
fn die_at(place: &Place, instance: &str, want: &Dataplane, point: &str) -> anyhow::Result<()> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: as above.
            unsafe { std::env::set_var(FAIL_POINT_VARIABLE, point) };
            let run = || -> anyhow::Result<()> {
                let mut kernel = open(place, instance, want)?;
                for _ in 0..STEPS {
                    kernel.grow()?;
                }
                Ok(())
            };
            let code = i32::from(run().is_err());
            // SAFETY: nothing of the parent's may run.
            unsafe { nix::libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            let ended = waitpid(child, None)?;
            let is_killed = matches!(ended, WaitStatus::Signaled(_, Signal::SIGKILL, _));
            ensure!(is_killed, "{point} was not reached: {ended:?}");
            Ok(())
        }
    }
}

/// `kill -9` inside every step.
pub(super) fn growth_goes_on_wherever_an_agent_was_killed(place: &Place) -> anyhow::Result<()> {
    const POINTS: [&str; 8] = [
        "growth-writes-old",
        "growth-begin",
        "growth-read-both",
        "growth-writes-both",
        "growth-writes-new",
        "growth-move",
        "growth-finish",
        "growth-renamed",
    ];
    for point in POINTS {
        let (pod, uplink) = (place.device()?, place.device()?);
        let want = one_pod("a", pod)?;
        let flows = Flows::of(place, point);
        let kernel = open(place, point, &want)?;
        kernel.attach_pod(pod)?;
        kernel.attach_uplink(uplink)?;
        fill(&flows, 1..FLOWS)?;
        drop(kernel);
        die_at(place, point, &want, point)?;
        ensure!(missing(&flows, 1..FLOWS)?.is_empty(), "{point}: {:?}", missing(&flows, 1..FLOWS)?);
        let mut kernel = open(place, point, &want).with_context(|| point)?;
        let mut steps = 0;
        while kernel.grow().with_context(|| point)? != Growth::Rest {
            steps += 1;
            ensure!(steps < STEPS, "{point}: growth does not end");
        }
        ensure_done(place, &kernel, point).with_context(|| point)?;
        ensure!(missing(&flows, 1..FLOWS)?.is_empty(), "{point}: {:?}", missing(&flows, 1..FLOWS)?);
        ensure!((size(&flows, "CT")?, size(&flows, "SNAT")?) == (2_048, 2_048), "{point}");
        remove(place, point)?;
        place.delete_device(pod)?;
        place.delete_device(uplink)?;
    }
    Ok(())
}

/// A sweep and the removal of a pod find flows in either table.
pub(super) fn what_reads_flows_reads_both_tables(place: &Place) -> anyhow::Result<()> {
    const NAME: &str = "growth-readers";
    let want = one_pod("a", 90)?;
    let mut kernel = open(place, NAME, &want)?;
    let flows = Flows::of(place, NAME);
    fill(&flows, 1..FLOWS)?;
    for port in [FLOWS, FLOWS + 1] {
        flows.put(TCP, port, abi::CT_RST, 11)?;
    }
    ensure!(kernel.grow()? == Growth::Replaced, "no growth");
    // As programs write it by now: one closed flow lies in the newer table.
    let (mut old, mut new): (Ct, Ct) = (flows.open("CT")?, flows.open("CT_NEXT")?);
    new.insert(ct_key(TCP, FLOWS), old.get(&ct_key(TCP, FLOWS), 0)?, 0)?;
    old.remove(&ct_key(TCP, FLOWS))?;
    let sweep = kernel.sweep()?;
    let left = u64::from(FLOWS) - 1;
    // A port of SNAT goes with its flow, and is not counted.
    ensure!(sweep.freed["CT"] == 2 && sweep.freed["SNAT"] == 0, "{sweep:?}");
    ensure!(sweep.flows["CT"] == left && sweep.flows["SNAT"] == left, "{sweep:?}");
    let state = kernel.flow_tables().iter().find(|state| state.table == "CT").cloned().context("CT")?;
    ensure!(state.growing && state.size == 2_048, "{state:?}");
    // The pod goes, and another gets its address.
    let mut nobody = want.clone();
    nobody.pods.clear();
    kernel.sync(&nobody, &links)?;
    kernel.sync(&one_pod("b", 91)?, &links)?;
    let left = missing(&flows, 1..FLOWS)?.len();
    ensure!(left == usize::from(FLOWS) - 1, "the new pod inherits {} flows", usize::from(FLOWS) - 1 - left);
    while kernel.grow()? != Growth::Rest {}
    remove(place, NAME)
}
