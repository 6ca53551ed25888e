//! Pods of this node: their row, and where their addresses are.

use sheetbend_ebpf_abi as abi;
use sheetbend_ebpf_abi::SymbolKind;
use sheetbend_model::plan::{LocalPod, Posture};
use sheetbend_model::state::AttachmentId;
use sheetbend_model::types::AddrKey;

use super::error::BpfError;
use super::kernel::{Kernel, PodRows};
use super::rows::{self, PodLink};

impl Kernel {
    /// The pod shall be this. A pod whose set has no number is closed.
    pub(super) fn put_pod(
        &mut self,
        id: &AttachmentId,
        pod: &LocalPod,
        link: Option<PodLink>,
    ) -> Result<(), BpfError> {
        let link =
            link.ok_or_else(|| BpfError::UnknownAttachment { container_id: id.container_id.to_string() })?;
        let number = match &pod.posture {
            Posture::Closed => Ok(0),
            Posture::Judged(set) => self.set_number(set),
        };
        match number {
            Ok(set) => self.write_pod(id, pod, link, set),
            Err(error) => {
                let closed = LocalPod { posture: Posture::Closed, ..pod.clone() };
                self.write_pod(id, &closed, link, 0)?;
                Err(error)
            }
        }
    }

    fn write_pod(
        &mut self,
        id: &AttachmentId,
        pod: &LocalPod,
        link: PodLink,
        set: u32,
    ) -> Result<(), BpfError> {
        let row = rows::pod(pod, link, set);
        let tiers = match &pod.posture {
            Posture::Judged(set) => Some(set).filter(|set| !set.tiers.is_empty()).cloned(),
            Posture::Closed => None,
        };
        self.show_pod(pod.host_ifindex, self.shut.shown(row, tiers.as_ref()))?;
        for address in &pod.addresses {
            self.publish(address, pod.host_ifindex)?;
        }
        let rows = PodRows {
            ifindex: pod.host_ifindex,
            addresses: pod.addresses.clone(),
            row,
            tiers,
            pod: pod.pod.clone(),
        };
        if let Some(old) = self.pods.insert(id.clone(), rows) {
            self.drop_rows(&old)?;
        }
        Ok(())
    }

    /// The row of `PODS` shall be this.
    pub(super) fn show_pod(&mut self, ifindex: u32, row: abi::PodEntry) -> Result<(), BpfError> {
        let before = self.tables.pods.get(&ifindex)?;
        if before != Some(row) {
            self.tables.pods.put(&ifindex, &row)?;
            self.verdicts_changed |= before.is_some_and(|old| (old.set, old.flags) != (row.set, row.flags));
            self.numbers.hold(SymbolKind::PolicySet, row.set);
            self.numbers.let_go(SymbolKind::PolicySet, before.map_or(0, |old| old.set));
        }
        Ok(())
    }

    /// The pod shall not be.
    pub(super) fn delete_pod(&mut self, id: &AttachmentId) -> Result<(), BpfError> {
        let Some(old) = self.pods.remove(id) else { return Ok(()) };
        let result = self.drop_rows(&old);
        if result.is_err() {
            self.pods.insert(id.clone(), old);
        }
        result
    }

    /// Removes the rows of `old` that no pod has any more.
    fn drop_rows(&mut self, old: &PodRows) -> Result<(), BpfError> {
        for address in &old.addresses {
            let still =
                self.pods.values().any(|pod| pod.ifindex == old.ifindex && pod.addresses.contains(address));
            if !still && self.tables.local.get(&rows::class_key(address))? == Some(old.ifindex) {
                self.withdraw(address)?;
            }
        }
        if self.pods.values().any(|pod| pod.ifindex == old.ifindex) {
            Ok(())
        } else {
            self.drop_pod_row(old.ifindex)
        }
    }

    pub(super) fn drop_pod_row(&mut self, ifindex: u32) -> Result<(), BpfError> {
        if let Some(row) = self.tables.pods.get(&ifindex)? {
            self.tables.pods.delete(&ifindex)?;
            self.numbers.let_go(SymbolKind::PolicySet, row.set);
        }
        Ok(())
    }

    /// The address is at this device. Flows of the pod that had it before are forgotten first, or the new pod would
    /// inherit their verdicts.
    fn publish(&mut self, address: &AddrKey, ifindex: u32) -> Result<(), BpfError> {
        let key = rows::class_key(address);
        let before = self.tables.local.get(&key)?;
        if before == Some(ifindex) {
            return Ok(());
        }
        if before.is_some() {
            self.note_gone(address);
        }
        self.forget_flows_of(address)?;
        self.tables.local.put(&key, &ifindex)
    }

    pub(super) fn withdraw(&mut self, address: &AddrKey) -> Result<(), BpfError> {
        self.tables.local.delete(&rows::class_key(address))?;
        self.note_gone(address);
        Ok(())
    }
}
