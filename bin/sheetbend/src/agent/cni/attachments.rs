//! Addresses, files and links of the attachments, which change together.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use sheetbend_apply::netlink::{self, AttachSpec};
use sheetbend_apply::store::{Store, boot_id, fail_point};
use sheetbend_compile::ipam::{Ipam, NoAddress};
use sheetbend_ebpf_abi::HOST_MAC;
use sheetbend_intake::cni::wire::{self, Add, CniError, code};
use sheetbend_model::state::{Attachment, AttachmentId, Bandwidth, Rate};
use sheetbend_model::types::{Mac, NetworkId, ObjectKey};
use tracing::{info, warn};

use super::{CniConfig, NodeFacts, id_of};

/// Time since boot, also while the machine slept: what leases of this boot are dated by.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The attachments of this node. Blocking.
pub(super) struct Attachments {
    state: Mutex<State>,
    reuse_delay: Duration,
    /// The kernel has no filters, and the log says so.
    links_only: AtomicBool,
}

struct State {
    ipam: Ipam,
    store: Store,
}

/// What the kernel shall make of an attachment.
pub(super) fn spec(attachment: &Attachment, sources: Vec<IpAddr>) -> AttachSpec {
    let alias = match &attachment.pod {
        Some(pod) => pod.to_string(),
        None => attachment.id.container_id.to_string(),
    };
    AttachSpec {
        netns: (*attachment.netns).into(),
        ifname: attachment.id.ifname.to_string(),
        host_ifname: attachment.host_ifname.to_string(),
        alias,
        mtu: attachment.mtu,
        pod_mac: attachment.pod_mac,
        addresses: attachment.addresses.clone(),
        sources,
        bandwidth: attachment.bandwidth,
    }
}

fn bandwidth(wanted: &wire::Bandwidth) -> Bandwidth {
    let rate = |bits, burst_bits| (bits > 0).then_some(Rate { bits, burst_bits });
    Bandwidth {
        ingress: rate(wanted.ingress_rate, wanted.ingress_burst),
        egress: rate(wanted.egress_rate, wanted.egress_burst),
    }
}

impl Attachments {
    /// Reads the files, and compares them with the kernel: attachments that were never finished, whose link is gone or
    /// which are in `deleted` go, and so do links that no attachment knows.
    pub(super) fn open(config: &CniConfig, deleted: &BTreeSet<AttachmentId>) -> anyhow::Result<Self> {
        let (mut store, recovered) = Store::open(&config.state_dir, &boot_id()?, now())?;
        if !recovered.orphans.is_empty() {
            info!(addresses = ?recovered.orphans.keys(), "released leases of requests that were cut short");
        }
        let mut links = netlink::pod_links()?;
        for attachment in store.attachments().cloned().collect::<Vec<_>>() {
            let link = links.remove(&*attachment.host_ifname);
            let lives = link.as_ref().is_some_and(|link| link.host_ifindex == attachment.host_ifindex);
            if lives && !deleted.contains(&attachment.id) {
                continue;
            }
            info!(container = %attachment.id.container_id, link = %attachment.host_ifname, "is gone or was not finished");
            take_down(&mut store, &attachment)?;
        }
        for name in links.keys() {
            warn!(link = name, "belongs to no attachment; removing it");
            netlink::detach(name)?;
        }
        let mut ipam = Ipam::new(&config.pod_cidrs, config.reuse_delay)
            .map_err(|error| anyhow::anyhow!("{error}; change spec.podCIDRs of this Node"))?;
        store.forget_released(now().saturating_sub(config.reuse_delay))?;
        store.leases().keys().for_each(|addr| ipam.restore_held(*addr));
        store.resting().iter().for_each(|(addr, at)| ipam.restore_released(*addr, *at));
        Ok(Self {
            state: Mutex::new(State { ipam, store }),
            reuse_delay: config.reuse_delay,
            links_only: AtomicBool::new(false),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: &AttachmentId) -> Option<Arc<Attachment>> {
        self.state().store.get(id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Attachment>> {
        self.state().store.attachments().cloned().collect()
    }

    /// Leases addresses and writes the attachment down, without an interface index yet.
    pub(super) fn reserve(&self, add: &Add, facts: &NodeFacts) -> Result<Arc<Attachment>, CniError> {
        let id = id_of(&add.attachment);
        let mut state = self.state();
        let State { ipam, store } = &mut *state;
        let time = now();
        let addresses = ipam.allocate_wanted(&add.requested, time).map_err(|error| no_address(&error))?;
        let attachment = Arc::new(Attachment {
            pod: add.pod.as_ref().map(|pod| ObjectKey::new(pod.namespace.as_str(), pod.name.as_str())),
            pod_uid: add.pod_uid.as_deref().map(Into::into),
            netns: add.netns.as_str().into(),
            network: NetworkId::default(),
            addresses: addresses.clone(),
            host_ifname: netlink::host_ifname(&id).into(),
            host_ifindex: 0,
            host_mac: Mac(HOST_MAC),
            pod_mac: netlink::pod_mac(&id),
            mtu: facts.pod_mtu,
            bandwidth: bandwidth(&add.bandwidth),
            id,
        });
        let written = write(store, &attachment);
        if let Err(error) = written {
            for addr in &addresses {
                ipam.release(*addr, time);
                let _ = store.release(*addr, time);
            }
            return Err(CniError::new(code::IO, format!("cannot lease an address: {error}"), ""));
        }
        if let Err(error) = store.forget_released(time.saturating_sub(self.reuse_delay)) {
            warn!("{error}");
        }
        Ok(attachment)
    }

    /// Makes the veth of a reserved attachment, closed, and completes the attachment. Also says whether the pod's
    /// programs are on the veth, as filters.
    pub(super) fn build(
        &self,
        reserved: &Attachment,
        facts: NodeFacts,
    ) -> anyhow::Result<(Arc<Attachment>, bool)> {
        let made = netlink::attach(&spec(reserved, facts.router_addresses), Some(&facts.programs))?;
        if !made.filtered && !self.links_only.swap(true, Ordering::Relaxed) {
            warn!(
                "this kernel has no clsact qdisc or no cls_bpf filter: each ADD waits for two TCX links, about 20 ms"
            );
        }
        fail_point("add-veth");
        let attachment = Arc::new(Attachment { host_ifindex: made.host_ifindex, ..reserved.clone() });
        self.state().store.put(Arc::clone(&attachment))?;
        fail_point("add-complete");
        Ok((attachment, made.filtered))
    }

    /// Removes the veth, then the attachment, then its leases.
    pub(super) fn remove(&self, attachment: &Attachment) -> anyhow::Result<()> {
        netlink::detach(&attachment.host_ifname)?;
        fail_point("del-veth");
        let mut state = self.state();
        let State { ipam, store } = &mut *state;
        forget(store, attachment)?;
        for addr in &attachment.addresses {
            ipam.release(*addr, now());
        }
        Ok(())
    }

    /// Brings up every link that is not, and routes what is not routed.
    pub(super) fn activate_all(&self, sources: &[IpAddr]) -> anyhow::Result<()> {
        let links = netlink::pod_links()?;
        let mut failure = Ok(());
        for attachment in self.all() {
            let Some(link) = links.get(&*attachment.host_ifname) else { continue };
            let open = link.up && attachment.addresses.iter().all(|addr| link.routed.contains(addr));
            if !open && attachment.host_ifindex != 0 {
                let opened = netlink::activate(&spec(&attachment, sources.to_vec()), attachment.host_ifindex);
                failure = failure.and(opened.with_context(|| format!("link {}", attachment.host_ifname)));
            }
        }
        failure
    }
}

fn write(store: &mut Store, attachment: &Arc<Attachment>) -> Result<(), sheetbend_apply::store::StoreError> {
    for addr in &attachment.addresses {
        store.lease(*addr, &attachment.id)?;
        fail_point("add-lease");
    }
    store.put(Arc::clone(attachment))?;
    fail_point("add-attachment");
    Ok(())
}

fn take_down(store: &mut Store, attachment: &Attachment) -> anyhow::Result<()> {
    netlink::detach(&attachment.host_ifname)?;
    forget(store, attachment)
}

fn forget(store: &mut Store, attachment: &Attachment) -> anyhow::Result<()> {
    store.remove(&attachment.id)?;
    fail_point("del-attachment");
    for addr in &attachment.addresses {
        store.release(*addr, now())?;
        fail_point("del-lease");
    }
    Ok(())
}

fn no_address(error: &NoAddress) -> CniError {
    let code = match error {
        NoAddress::Resting { .. } => code::TRY_AGAIN,
        NoAddress::Exhausted { .. } | NoAddress::NoPool => code::EXHAUSTED,
        NoAddress::NotOurs { .. } | NoAddress::Taken(_) => code::INVALID_CONFIG,
    };
    CniError::new(code, error.to_string(), "")
}
