//! New pods' devices on their way from filters to links, over the life of several agents.

use std::fs;

use anyhow::{Context, ensure};
use sheetbend_apply::bpf::{Kernel, KernelConfig};
use sheetbend_apply::netlink;
use sheetbend_ebpf_abi::Hook;
use sheetbend_model::plan::Dataplane;

use super::life::other_version;
use super::place::command;
use super::{Place, links};

/// A pod's device with filters that run `kernel`'s programs, as ADD leaves it.
fn filtered_device(place: &Place, kernel: &Kernel) -> anyhow::Result<u32> {
    let pod = place.device()?;
    let name = place.name(pod)?;
    command("tc", &["qdisc", "add", "dev", &name, "clsact"])?;
    ensure!(netlink::replace_filters(pod, &kernel.pod_programs())?, "{name} is gone");
    Ok(pod)
}

/// `id` of the program of each filter on a device, ingress then egress.
fn filter_programs(place: &Place, pod: u32) -> anyhow::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for direction in ["ingress", "egress"] {
        let text = command("tc", &["-j", "filter", "show", "dev", &place.name(pod)?, direction])?;
        let filters: serde_json::Value = serde_json::from_str(&text)?;
        let options = filters.as_array().into_iter().flatten().map(|filter| &filter["options"]["prog"]["id"]);
        ids.extend(options.filter_map(serde_json::Value::as_u64));
    }
    Ok(ids)
}

fn move_all(kernel: &mut Kernel) -> anyhow::Result<()> {
    for _ in 0..kernel.moving() * 3 {
        kernel.move_one()?;
    }
    ensure!(kernel.moving() == 0, "{} devices have not moved in three steps", kernel.moving());
    Ok(())
}

pub(super) fn filters_become_links(place: &Place) -> anyhow::Result<()> {
    let want = Dataplane::default();
    let mut kernel = place.open("moves")?;
    kernel.sync(&want, &links)?;
    let (first, second) = (filtered_device(place, &kernel)?, filtered_device(place, &kernel)?);
    let old = filter_programs(place, first)?;
    ensure!(old.len() == 2, "{old:?}");
    kernel.note_filtered(first)?;
    // Killed after the first link: the next process finds both devices, whatever the first one knew.
    kernel.move_one()?;
    ensure!(kernel.links()?.len() == 1, "{:?}", kernel.links()?);
    drop(kernel);

    // Another version: its programs run at once, and the old ones are removed.
    let object = other_version()?;
    let mut kernel =
        Kernel::open(KernelConfig { object: Some(object.path().to_owned()), ..place.config("moves") })?;
    kernel.sync(&want, &links)?;
    let new = filter_programs(place, second)?;
    ensure!(new.len() == 2 && new.iter().all(|program| !old.contains(program)), "{new:?} was {old:?}");
    ensure!(fs::read_dir(place.bpffs().join("sheetbend/moves/programs"))?.count() == 1);
    kernel.attach_pod(second)?;
    ensure!(kernel.moving() == 2 && kernel.links()?.len() == 1, "{} {:?}", kernel.moving(), kernel.links()?);
    move_all(&mut kernel)?;
    let linked: Vec<(u32, Hook)> = kernel.links()?.iter().map(|link| (link.ifindex, link.hook)).collect();
    let wanted = [first, second].map(|pod| [(pod, Hook::FromPod), (pod, Hook::ToPod)]);
    ensure!(linked == wanted.concat(), "{linked:?}");
    ensure!(netlink::filtered_devices("moves")?.is_empty());
    for pod in [first, second] {
        for direction in ["ingress", "egress"] {
            let filters = command("tc", &["filter", "show", "dev", &place.name(pod)?, direction])?;
            ensure!(!filters.contains("sheetbend"), "{filters}");
        }
    }
    Ok(())
}

pub(super) fn filters_of_others_stay(place: &Place) -> anyhow::Result<()> {
    let mut kernel = place.open("others")?;
    kernel.sync(&Dataplane::default(), &links)?;
    let pod = filtered_device(place, &kernel)?;
    let name = place.name(pod)?;
    // The same program as somebody else's filter.
    let program = place.bpffs().join("sheetbend/others/programs").join(kernel.version()).join("from_pod");
    let program = program.to_str().context("a path of ours")?;
    let foreign =
        ["filter", "add", "dev", &name, "ingress", "pref", "7", "bpf", "da", "object-pinned", program];
    command("tc", &foreign)?;
    ensure!(netlink::filtered_devices("another")?.is_empty(), "another instance's filters are not ours");
    kernel.note_filtered(pod)?;
    move_all(&mut kernel)?;
    ensure!(netlink::filtered_devices("others")?.is_empty());
    let left = filter_programs(place, pod)?;
    ensure!(left.len() == 1, "{left:?}");
    Ok(())
}

pub(super) fn a_device_that_goes_while_it_moves_is_forgotten(place: &Place) -> anyhow::Result<()> {
    let mut kernel = place.open("going")?;
    kernel.sync(&Dataplane::default(), &links)?;
    let pod = filtered_device(place, &kernel)?;
    kernel.note_filtered(pod)?;
    kernel.move_one()?;
    place.delete_device(pod)?;
    ensure!(kernel.move_one().is_err(), "a link on a device that is gone");
    ensure!(kernel.moving() == 0);
    kernel.sweep()?;
    ensure!(kernel.links()?.is_empty(), "{:?}", kernel.links()?);
    Ok(())
}
