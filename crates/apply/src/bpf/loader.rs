//! Pins, maps and programs: what outlives the agent, and what of it this version may use.
//!
//! ```text
//! <bpffs>/sheetbend/<instance>/v<LAYOUT_VERSION>/<MAP>      maps, kept over versions of the programs; see `growth`
//!                              programs/<digest>/<program>  one version's programs, with its program array STAGES
//!                              links/<ifindex>-<hook>       which program a device runs
//!                              links/cgroup-<program>       the programs of the node's processes
//! ```
//! An unpinned program array is emptied when its last user space owner dies: so STAGES is pinned per version, last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, ProgramArray};
use aya::programs::{CgroupSock, CgroupSockAddr, Program, ProgramInfo, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use sheetbend_ebpf_abi::{Hook, LAYOUT_VERSION, SOCKET_PROGRAMS, STAGE_PROGRAMS, names};

use super::error::BpfError;
use super::growth::{FlowTable, Maps};
use super::object::{MapLayout, PINNED, ProgramObject};
use super::sys;

/// Magic number of bpffs (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Where things are pinned.
#[derive(Debug)]
pub(super) struct Pins {
    pub(super) maps: PathBuf,
    pub(super) links: PathBuf,
    pub(super) programs: PathBuf,
}

impl Pins {
    /// The directories of `instance`, made where they are missing.
    pub(super) fn open(bpffs: &Path, instance: &str) -> Result<Self, BpfError> {
        let magic = nix::sys::statfs::statfs(bpffs).map(|stat| stat.filesystem_type().0);
        if magic.ok() != Some(BPF_FS_MAGIC) {
            return Err(BpfError::NoBpffs { path: bpffs.to_owned() });
        }
        // bpffs refuses dots in names; a Kubernetes name has no colon.
        let base = bpffs.join("sheetbend").join(instance.replace('.', ":"));
        let pins = Self {
            maps: base.join(format!("v{LAYOUT_VERSION}")),
            links: base.join("links"),
            programs: base.join("programs"),
        };
        for directory in [&pins.maps, &pins.links, &pins.programs] {
            fs::create_dir_all(directory).map_err(|source| pin_error(directory, source))?;
        }
        Ok(pins)
    }

    /// Where map `name` is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }
}

/// A program at a hook.
pub(super) struct HookProgram {
    pub(super) fd: OwnedFd,
    /// The kernel's id of the program.
    pub(super) id: u32,
}

/// One version's programs, loaded and pinned.
pub(super) struct Version {
    /// Its directory below `programs`.
    pub(super) directory: PathBuf,
    /// Hook → program.
    pub(super) hooks: BTreeMap<Hook, HookProgram>,
    /// Name → program for sockets.
    pub(super) sockets: BTreeMap<&'static str, HookProgram>,
}

/// Refuses pinned maps that `object` cannot use. (aya takes whatever is pinned under the name.)
pub(super) fn check_layouts(pins: &Pins, object: &ProgramObject) -> Result<(), BpfError> {
    for (name, _) in PINNED {
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let have = read_layout(name, &path)?;
        let want = object.maps[name];
        let parts = [
            ("its type", have.kind, want.kind),
            ("the key size", have.key_size, want.key_size),
            ("the value size", have.value_size, want.value_size),
            ("its limit", have.max_entries, if grows(name) { have.max_entries } else { want.max_entries }),
            ("its flags", have.flags, want.flags),
        ];
        if let Some((what, have, want)) = parts.into_iter().find(|(_, have, want)| have != want) {
            let (have, want) = (have.into(), want.into());
            return Err(BpfError::Layout { name: name.to_owned(), path, what, have, want });
        }
    }
    Ok(())
}

/// Whether the table may have any size: it grew, or will.
pub(super) fn grows(name: &str) -> bool {
    FlowTable::ALL.iter().any(|table| table.name() == name)
}

pub(super) fn read_layout(name: &str, path: &Path) -> Result<MapLayout, BpfError> {
    let load = |error: aya::maps::MapError| load_error(name, &error);
    let info = MapInfo::from_pin(path).map_err(load)?;
    Ok(MapLayout {
        kind: info.map_type().map_err(load)? as u32,
        key_size: info.key_size(),
        value_size: info.value_size(),
        max_entries: info.max_entries(),
        flags: info.map_flags(),
    })
}

/// This version's programs for `maps`: those an earlier process of the same version left, or newly loaded ones beside
/// them.
pub(super) fn programs(
    pins: &Pins,
    object: &ProgramObject,
    limits: &BTreeMap<String, u32>,
    maps: &Maps,
) -> Result<Version, BpfError> {
    let places = maps.places(pins);
    let name = match maps.growing() {
        0 => object.digest.clone(),
        growing => format!("{}-growing-{growing}", object.digest),
    };
    for attempt in 0.. {
        let directory = match attempt {
            0 => pins.programs.join(&name),
            // What lies there is half made, or uses other maps, and may be in use: leave it and go beside it.
            _ => pins.programs.join(format!("{name}-{attempt}")),
        };
        if !directory.exists() {
            fs::create_dir_all(&directory).map_err(|source| pin_error(&directory, source))?;
            load(&places, object, limits, maps.growing(), &directory)?;
            return open_version(directory);
        }
        if is_whole(&places, object, &directory) {
            return open_version(directory);
        }
    }
    unreachable!("an endless range has ended")
}

/// The kernel keeps so many bytes of a map's name.
const MAP_NAME: usize = 15;

/// Whether every program is pinned in `directory` and uses the maps that are pinned in these `places`.
fn is_whole(places: &BTreeMap<&str, PathBuf>, object: &ProgramObject, directory: &Path) -> bool {
    let known = |name: &str| name[..name.len().min(MAP_NAME)].to_owned();
    let Ok(pinned) = places
        .iter()
        .map(|(name, path)| MapInfo::from_pin(path).map(|info| (known(name), info.id())))
        .collect::<Result<BTreeMap<String, u32>, _>>()
    else {
        return false;
    };
    directory.join(names::STAGES).exists()
        && object.programs.iter().all(|program| {
            let Ok(Some(ids)) =
                ProgramInfo::from_pin(directory.join(program)).and_then(|info| info.map_ids())
            else {
                return false;
            };
            ids.into_iter().all(|id| {
                MapInfo::from_id(id).is_ok_and(|info| {
                    let name = info.name_as_str().unwrap_or_default();
                    pinned.get(name).is_none_or(|pinned| *pinned == id)
                })
            })
        })
}

fn load(
    places: &BTreeMap<&str, PathBuf>,
    object: &ProgramObject,
    limits: &BTreeMap<String, u32>,
    growing: u32,
    directory: &Path,
) -> Result<(), BpfError> {
    let mut loader = EbpfLoader::new();
    for (name, path) in places {
        loader.map_pin_path(name, path);
    }
    loader.override_global("GROWING", &growing, true);
    for (name, limit) in limits {
        loader.map_max_entries(name, *limit);
    }
    let mut ebpf = loader.load(object.bytes()).map_err(|error| load_error("maps", &error))?;
    for name in &object.programs {
        let path = directory.join(name);
        let pinned = match ebpf.program_mut(name) {
            Some(Program::CgroupSockAddr(program)) => {
                program.load().map_err(|error| load_error(name, &error))?;
                CgroupSockAddr::pin(program, &path)
            }
            Some(Program::CgroupSock(program)) => {
                program.load().map_err(|error| load_error(name, &error))?;
                CgroupSock::pin(program, &path)
            }
            _ => {
                let program = classifier(&mut ebpf, name)?;
                program.load().map_err(|error| load_error(name, &error))?;
                program.pin(&path)
            }
        };
        pinned.map_err(|error| pin_error(&path, io::Error::other(error)))?;
    }
    let stages = ebpf.take_map(names::STAGES);
    let stages = stages.ok_or_else(|| BpfError::Object { reason: "it has no map STAGES".into() })?;
    let mut stages = ProgramArray::try_from(stages).map_err(|error| load_error(names::STAGES, &error))?;
    for (slot, name) in (0..).zip(STAGE_PROGRAMS) {
        let fd = classifier(&mut ebpf, name)?.fd().and_then(|fd| Ok(fd.try_clone()?));
        let fd = fd.map_err(|error| load_error(name, &error))?;
        stages.set(slot, &fd, 0).map_err(|error| load_error(names::STAGES, &error))?;
    }
    let path = directory.join(names::STAGES);
    stages.pin(&path).map_err(|error| pin_error(&path, io::Error::other(error)))
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, BpfError> {
    let missing = || BpfError::Object { reason: format!("it has no classifier {name}") };
    ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(|_| missing())
}

fn open_version(directory: PathBuf) -> Result<Version, BpfError> {
    let open = |name: &str| -> Result<HookProgram, BpfError> {
        let path = directory.join(name);
        let info = ProgramInfo::from_pin(&path).map_err(|error| load_error(name, &error))?;
        let fd = sys::open_pin(&path).map_err(|source| pin_error(&path, source))?;
        Ok(HookProgram { fd, id: info.id() })
    };
    let hooks = Hook::ALL.into_iter().map(|hook| Ok((hook, open(hook.name())?)));
    let hooks = hooks.collect::<Result<_, BpfError>>()?;
    let sockets = SOCKET_PROGRAMS.iter().map(|(name, _)| Ok((*name, open(name)?)));
    let sockets = sockets.collect::<Result<_, BpfError>>()?;
    Ok(Version { directory, hooks, sockets })
}

impl Version {
    /// Lets every link run this version's programs, one atomic replacement a device; removes links whose device is gone.
    pub(super) fn go_live(&self, pins: &Pins) -> Result<(), BpfError> {
        for (path, _, hook) in links(pins)? {
            let link = sys::open_pin(&path).map_err(|source| pin_error(&path, source))?;
            let info = sys::link_info(link.as_fd()).map_err(|source| pin_error(&path, source))?;
            if info.ifindex == 0 {
                fs::remove_file(&path).map_err(|source| pin_error(&path, source))?;
            } else {
                self.replace(hook, &link, &info)?;
            }
        }
        self.replace_sockets(pins)?;
        Ok(())
    }

    /// Removes the other versions. Nothing may run them any more, and no packet be under way in them: their program arrays
    /// are emptied.
    pub(super) fn remove_others(&self, pins: &Pins) -> Result<(), BpfError> {
        for entry in read_directory(&pins.programs)? {
            if entry != self.directory {
                fs::remove_dir_all(&entry).map_err(|source| pin_error(&entry, source))?;
            }
        }
        Ok(())
    }

    /// Puts the program of `hook` on device `ifindex` of the caller's network namespace.
    pub(super) fn attach(&self, pins: &Pins, hook: Hook, ifindex: u32) -> Result<(), BpfError> {
        let path = link_path(pins, hook, ifindex);
        match sys::open_pin(&path) {
            Ok(link) => {
                let info = sys::link_info(link.as_fd()).map_err(|source| pin_error(&path, source))?;
                if info.ifindex == ifindex {
                    return self.replace(hook, &link, &info);
                }
                fs::remove_file(&path).map_err(|source| pin_error(&path, source))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(pin_error(&path, source)),
        }
        let attach_type = match hook {
            Hook::FromPod | Hook::FromUplink | Hook::FromTunnel => sys::TCX_INGRESS,
            Hook::ToPod | Hook::ToUplink | Hook::ToTunnel => sys::TCX_EGRESS,
        };
        let link = sys::link_create(self.hooks[&hook].fd.as_fd(), ifindex, attach_type)
            .map_err(|source| BpfError::Attach { hook: hook.name(), ifindex, source })?;
        sys::pin(link.as_fd(), &path).map_err(|source| pin_error(&path, source))
    }

    fn replace(&self, hook: Hook, link: &OwnedFd, info: &sys::LinkInfo) -> Result<(), BpfError> {
        let program = &self.hooks[&hook];
        if info.prog_id == program.id {
            return Ok(());
        }
        sys::link_update(link.as_fd(), program.fd.as_fd()).map_err(|source| BpfError::Attach {
            hook: hook.name(),
            ifindex: info.ifindex,
            source,
        })
    }
}

/// A pinned link, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The device; 0 when it is gone.
    pub ifindex: u32,
    /// Which hook.
    pub hook: Hook,
    /// The kernel's id of the link: it stays when the program is replaced.
    pub id: u32,
    /// The kernel's id of its program.
    pub program_id: u32,
}

/// What is pinned as a link, by (device, hook).
pub(super) fn read_links(pins: &Pins) -> Result<Vec<Link>, BpfError> {
    let mut found = Vec::new();
    for (path, _, hook) in links(pins)? {
        let link = sys::open_pin(&path).map_err(|source| pin_error(&path, source))?;
        let info = sys::link_info(link.as_fd()).map_err(|source| pin_error(&path, source))?;
        found.push(Link { ifindex: info.ifindex, hook, id: info.id, program_id: info.prog_id });
    }
    found.sort_by_key(|link| (link.ifindex, link.hook));
    Ok(found)
}

/// Pins whose link is on another device than they are named after, or on one that is not among `devices`.
pub(super) fn stray(pins: &Pins, devices: &BTreeSet<u32>) -> Result<Vec<String>, BpfError> {
    let mut found = Vec::new();
    for (path, device, _) in links(pins)? {
        let link = match sys::open_pin(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|source| pin_error(&path, source))?,
        };
        let info = sys::link_info(link.as_fd()).map_err(|source| pin_error(&path, source))?;
        if info.ifindex != device || !devices.contains(&device) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

/// Whether a link of ours is on device `ifindex`.
pub(super) fn has_link(pins: &Pins, hook: Hook, ifindex: u32) -> Result<bool, BpfError> {
    let path = link_path(pins, hook, ifindex);
    match sys::open_pin(&path) {
        Ok(link) => {
            let info = sys::link_info(link.as_fd()).map_err(|source| pin_error(&path, source))?;
            Ok(info.ifindex == ifindex)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(pin_error(&path, source)),
    }
}

fn link_path(pins: &Pins, hook: Hook, ifindex: u32) -> PathBuf {
    pins.links.join(format!("{ifindex}-{}", hook.name()))
}

/// Removes the pins of links whose device is gone.
pub(super) fn remove_stale(pins: &Pins) -> Result<(), BpfError> {
    for (path, _, _) in links(pins)? {
        let link = sys::open_pin(&path).map_err(|source| pin_error(&path, source))?;
        if sys::link_info(link.as_fd()).is_ok_and(|info| info.ifindex == 0) {
            fs::remove_file(&path).map_err(|source| pin_error(&path, source))?;
        }
    }
    Ok(())
}

/// (pin, device, hook) of every link of ours.
fn links(pins: &Pins) -> Result<Vec<(PathBuf, u32, Hook)>, BpfError> {
    let parse = |path: PathBuf| {
        let (device, name) = path.file_name()?.to_str()?.split_once('-')?;
        let hook = Hook::ALL.into_iter().find(|hook| hook.name() == name)?;
        let device = device.parse().ok()?;
        Some((path, device, hook))
    };
    Ok(read_directory(&pins.links)?.into_iter().filter_map(parse).collect())
}

fn read_directory(path: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let entries = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.map_err(|source| pin_error(path, source))
}

pub(super) fn pin_error(path: &Path, source: io::Error) -> BpfError {
    BpfError::Pin { path: path.to_owned(), source }
}

/// The whole chain of causes, of a verifier's log only its end.
fn load_error(what: &str, error: &dyn std::error::Error) -> BpfError {
    const LOG_END: usize = 2_000;
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        reason = format!("{reason}: {next}");
        cause = next.source();
    }
    if let Some((cut, _)) = reason.char_indices().rev().nth(LOG_END) {
        reason = format!("…{}", &reason[cut..]);
    }
    BpfError::Load { what: what.to_owned(), reason }
}
