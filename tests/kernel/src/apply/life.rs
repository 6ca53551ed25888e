//! Pins, layouts and links over the life of several agents.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::maps::{Array, Map, MapData};
use sheetbend_apply::bpf::{BpfError, Kernel, KernelConfig, Link};
use sheetbend_ebpf_abi::{Hook, LAYOUT_VERSION, NodeConfig, SOCKET_PROGRAMS};
use sheetbend_model::plan::Dataplane;

use super::{Place, links};

pub(super) fn a_pinned_map_of_another_layout_is_refused(place: &Place) -> anyhow::Result<()> {
    drop(place.open("layout")?);
    let mut config = place.config("layout");
    config.limits.insert("RULES".into(), 77);
    match Kernel::open(config) {
        Err(error @ BpfError::Layout { have: 1_048_576, want: 77, .. }) => {
            let text = error.to_string();
            ensure!(text.contains("RULES") && text.contains("limit") && text.contains("remove"), "{text}");
        }
        Err(error) => anyhow::bail!("another error: {error}"),
        Ok(_) => anyhow::bail!("a map with another limit was taken"),
    }
    // Somebody else's map under our name.
    let pins = place.bpffs().join(format!("sheetbend/layout/v{LAYOUT_VERSION}"));
    fs::remove_file(pins.join("PODS"))?;
    fs::rename(pins.join("CLASSES"), pins.join("PODS"))?;
    match place.open("layout").map_err(|error| error.root_cause().to_string()) {
        Err(text) => ensure!(text.contains("PODS") && text.contains("key size"), "{text}"),
        Ok(_) => anyhow::bail!("a map with another key was taken"),
    }
    Ok(())
}

/// Uplink, MTUs and ports of masquerade stay in use until the next agent has found them itself.
pub(super) fn facts_of_the_node_outlive_the_agent(place: &Place) -> anyhow::Result<()> {
    let pin = place.bpffs().join(format!("sheetbend/facts/v{LAYOUT_VERSION}/CONFIG"));
    let read = || -> anyhow::Result<[u8; size_of::<NodeConfig>()]> {
        let map = Array::<_, [u8; size_of::<NodeConfig>()]>::try_from(Map::Array(MapData::from_pin(&pin)?))?;
        Ok(map.get(&0, 0)?)
    };
    let mut kernel = place.open("facts")?;
    kernel.sync(&Dataplane::default(), &links)?;
    let facts =
        NodeConfig { uplink_ifindex: 7, tunnel_ifindex: 8, nat_port_count: 9, ..NodeConfig::default() };
    kernel.configure(facts)?;
    let before = read()?;
    drop(kernel);
    let unknown = KernelConfig { node: NodeConfig::default(), ..place.config("facts") };
    drop(Kernel::open(unknown)?);
    ensure!(read()? == before, "the next agent knows nothing yet, and has written that");
    Ok(())
}

pub(super) fn no_bpffs_is_refused(place: &Place) -> anyhow::Result<()> {
    let config = KernelConfig { bpffs: "/tmp".into(), ..place.config("nowhere") };
    match Kernel::open(config) {
        Err(BpfError::NoBpffs { path }) => ensure!(path.ends_with("tmp"), "{path:?}"),
        Err(error) => anyhow::bail!("another error: {error}"),
        Ok(_) => anyhow::bail!("pins outside a bpffs"),
    }
    Ok(())
}

/// An object that is another version: the same programs with other bytes.
pub(super) fn other_version() -> anyhow::Result<tempfile::NamedTempFile> {
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/ebpf/object/sheetbend.o");
    let mut bytes = fs::read(object).with_context(|| object.to_owned())?;
    bytes.extend_from_slice(&[0; 8]);
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), bytes)?;
    Ok(file)
}

/// (device, hook, link), (program) of every link.
fn split(links: &[Link]) -> (Vec<(u32, Hook, u32)>, Vec<u32>) {
    links.iter().map(|link| ((link.ifindex, link.hook, link.id), link.program_id)).unzip()
}

pub(super) fn link_replacement_keeps_the_link(place: &Place) -> anyhow::Result<()> {
    let (pod, uplink) = (place.device()?, place.device()?);
    let want = Dataplane::default();
    let first = {
        let mut kernel = place.open("links")?;
        kernel.attach_pod(pod)?;
        kernel.attach_uplink(uplink)?;
        kernel.sync(&want, &links)?;
        kernel.links()?
    };
    ensure!(first.len() == 4, "{first:?}");

    // The same version again: nothing is loaded, nothing replaced.
    let mut kernel = place.open("links")?;
    kernel.sync(&want, &links)?;
    kernel.attach_pod(pod)?;
    ensure!(kernel.links()? == first, "{:?} was {first:?}", kernel.links()?);
    let old_version = kernel.version().to_owned();
    drop(kernel);

    // Another version: the same links run other programs, from the first sync on.
    let object = other_version()?;
    let config = || KernelConfig { object: Some(object.path().to_owned()), ..place.config("links") };
    let mut kernel = Kernel::open(config())?;
    ensure!(kernel.links()? == first, "replaced before the first sync");
    kernel.sync(&want, &links)?;
    let second = kernel.links()?;
    let ((old, old_programs), (new, new_programs)) = (split(&first), split(&second));
    ensure!(old == new, "{second:?} was {first:?}");
    ensure!(old_programs.iter().all(|program| !new_programs.contains(program)), "{second:?} was {first:?}");
    let versions = place.bpffs().join("sheetbend/links/programs");
    let left: Vec<_> = fs::read_dir(versions)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    ensure!(left.len() == 1 && left[0].to_str() != Some(&old_version), "{left:?}");

    place.delete_device(pod)?;
    kernel.sweep()?;
    let left = kernel.links()?;
    ensure!(left.len() == 2 && left.iter().all(|link| link.ifindex == uplink), "{left:?}");
    Ok(())
}

/// A directory of a cgroup v2 file system, removed with the value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root =
            mount.filter(|words| words.get(2) == Some(&"cgroup2")).find_map(|words| words.get(1).copied());
        let root = PathBuf::from(root.context("a cgroup v2 file system must be mounted")?);
        let path = root.join(format!("sheetbend-apply-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nothing runs in it; what cannot be removed is seen by whoever makes it anew.
        let _ = fs::remove_dir(&self.0);
    }
}

pub(super) fn programs_of_sockets_outlive_the_agent(place: &Place) -> anyhow::Result<()> {
    let cgroup = Cgroup::new()?;
    let want = Dataplane::default();
    let mut kernel = place.open("sockets")?;
    kernel.sync(&want, &links)?;
    kernel.attach_cgroup(&cgroup.0)?;
    let first = kernel.socket_links()?;
    ensure!(first.len() == SOCKET_PROGRAMS.len(), "{first:?}");
    drop(kernel);

    // The same version again, and then another: the links stay, and run the other's programs.
    let mut kernel = place.open("sockets")?;
    kernel.sync(&want, &links)?;
    kernel.attach_cgroup(&cgroup.0)?;
    ensure!(kernel.socket_links()? == first, "{:?} was {first:?}", kernel.socket_links()?);
    drop(kernel);
    let object = other_version()?;
    let config = KernelConfig { object: Some(object.path().to_owned()), ..place.config("sockets") };
    let mut kernel = Kernel::open(config)?;
    kernel.sync(&want, &links)?;
    let second = kernel.socket_links()?;
    let is_replaced = |(old, new): (&(u32, u32), &(u32, u32))| old.0 == new.0 && old.1 != new.1;
    ensure!(first.iter().zip(&second).all(is_replaced), "{second:?} was {first:?}");

    // Another instance may not translate the same calls once more.
    let mut other = place.open("sockets-other")?;
    match other.attach_cgroup(&cgroup.0) {
        Err(error @ BpfError::CgroupClaimed { .. }) => {
            ensure!(error.to_string().contains("another instance"), "{error}");
        }
        taken => anyhow::bail!("a directory that another instance claims: {taken:?}"),
    }
    match other.attach_cgroup(place.bpffs()) {
        Err(BpfError::NoCgroup { .. }) => {}
        taken => anyhow::bail!("no cgroup: {taken:?}"),
    }
    kernel.detach_cgroup()?;
    ensure!(kernel.socket_links()?.is_empty());
    // The kernel takes programs of a link that nobody holds away in its own time.
    let end = Instant::now() + Duration::from_secs(10);
    while let Err(error) = other.attach_cgroup(&cgroup.0) {
        ensure!(matches!(error, BpfError::CgroupClaimed { .. }) && Instant::now() < end, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    other.detach_cgroup()?;
    Ok(())
}

pub(super) fn links_of_gone_devices_are_removed(place: &Place) -> anyhow::Result<()> {
    let pod = place.device()?;
    let mut kernel = place.open("gone")?;
    kernel.sync(&Dataplane::default(), &links)?;
    kernel.attach_pod(pod)?;
    place.delete_device(pod)?;
    ensure!(kernel.links()?.iter().all(|link| link.ifindex == 0), "{:?}", kernel.links()?);
    kernel.sweep()?;
    ensure!(kernel.links()?.is_empty(), "{:?}", kernel.links()?);
    match kernel.attach_pod(pod) {
        Err(error @ BpfError::Attach { .. }) => {
            ensure!(error.to_string().contains(&pod.to_string()), "{error}")
        }
        other => anyhow::bail!("a device that is gone: {other:?}"),
    }
    Ok(())
}
