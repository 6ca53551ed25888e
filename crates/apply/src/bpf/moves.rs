//! Pods' devices on their way from filters ([`crate::netlink::PodPrograms`]) to TCX links of ours.
//!
//! Each device moves in three steps, any of which a crash may follow: a link from the pod, a link to the pod, the
//! filters go. The next process finds the filters that are left and goes on.

use std::collections::BTreeSet;
use std::sync::Arc;

use sheetbend_ebpf_abi::Hook;

use super::error::BpfError;
use super::kernel::Kernel;
use super::loader::{self, Pins, Version};
use crate::netlink::{self, NetlinkError, PodPrograms};
use crate::store::fail_point;

/// Devices with filters of ours.
pub(super) struct Moves {
    pub(super) programs: PodPrograms,
    devices: BTreeSet<u32>,
    /// Other programs than these have been handed out.
    renewed: bool,
}

impl Moves {
    /// Nothing moves; new filters will run `version`.
    pub(super) fn new(instance: &str, version: &Version) -> Result<Self, BpfError> {
        Ok(Self {
            programs: pod_programs(instance.into(), version)?,
            devices: BTreeSet::new(),
            renewed: false,
        })
    }

    /// From now on filters run `version`, those that are there too.
    pub(super) fn renew(&mut self, version: &Version) -> Result<(), BpfError> {
        self.programs = pod_programs(Arc::clone(&self.programs.instance), version)?;
        self.renewed = true;
        Ok(self.adopt()?)
    }

    /// Finds the filters that an earlier process left, and lets them run this version's programs.
    pub(super) fn adopt(&mut self) -> Result<(), NetlinkError> {
        for ifindex in netlink::filtered_devices(&self.programs.instance)? {
            if netlink::replace_filters(ifindex, &self.programs)? {
                self.devices.insert(ifindex);
            }
        }
        Ok(())
    }

    /// Whether the device is on its way.
    pub(super) fn contains(&self, ifindex: u32) -> bool {
        self.devices.contains(&ifindex)
    }

    /// The device has filters, and shall have links.
    pub(super) fn add(&mut self, ifindex: u32) {
        self.devices.insert(ifindex);
    }

    /// The device goes, or stays as it is.
    pub(super) fn forget(&mut self, ifindex: u32) {
        self.devices.remove(&ifindex);
    }

    /// One step for the first device.
    fn step(&mut self, pins: &Pins, version: &Version) -> Result<(), BpfError> {
        let Some(ifindex) = self.devices.first().copied() else { return Ok(()) };
        for hook in [Hook::FromPod, Hook::ToPod] {
            if !loader::has_link(pins, hook, ifindex)? {
                version.attach(pins, hook, ifindex)?;
                fail_point(if hook == Hook::FromPod { "move-from-pod" } else { "move-to-pod" });
                return Ok(());
            }
        }
        netlink::remove_filters(ifindex, &self.programs.instance)?;
        fail_point("move-done");
        self.devices.remove(&ifindex);
        Ok(())
    }
}

fn pod_programs(instance: Arc<str>, version: &Version) -> Result<PodPrograms, BpfError> {
    let program = |hook: Hook| {
        let fd = version.hooks[&hook].fd.try_clone();
        fd.map(Arc::new).map_err(|source| loader::pin_error(&version.directory.join(hook.name()), source))
    };
    Ok(PodPrograms { instance, from_pod: program(Hook::FromPod)?, to_pod: program(Hook::ToPod)? })
}

impl Kernel {
    /// This version's programs of pods, for [`netlink::attach`].
    pub fn pod_programs(&self) -> PodPrograms {
        self.moves.programs.clone()
    }

    /// The programs are on this pod's device as filters: [`Kernel::move_one`] shall make links of them.
    ///
    /// # Errors
    /// When they are no longer this version's, and the kernel refuses to replace them.
    pub fn note_filtered(&mut self, ifindex: u32) -> Result<(), BpfError> {
        if self.moves.renewed && !netlink::replace_filters(ifindex, &self.moves.programs)? {
            return Ok(()); // The device is gone.
        }
        self.moves.add(ifindex);
        Ok(())
    }

    /// How many devices of pods have filters that shall become links.
    pub fn moving(&self) -> usize {
        self.moves.devices.len()
    }

    /// One step of one move: at most one wait for an RCU grace period, about 10 ms, with rtnl held.
    ///
    /// # Errors
    /// The kernel refuses a link. The device keeps its filters, which do the same, until the next process starts.
    pub fn move_one(&mut self) -> Result<(), BpfError> {
        let first = self.moves.devices.first().copied();
        let moved = self.moves.step(&self.pins, &self.version);
        if let (Err(_), Some(ifindex)) = (&moved, first) {
            self.moves.forget(ifindex);
        }
        moved
    }
}
