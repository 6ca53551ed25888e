//! A new pod's programs as traffic control filters, until the core moves the veth to TCX links.
//!
//! `BPF_LINK_CREATE` of a TCX link waits for an RCU grace period while it holds rtnl, twice per veth; a `cls_bpf` filter
//! on a `clsact` qdisc runs the same program from the same hook and waits for none. While a veth has both, the TCX
//! program's verdict is final (it never returns `TCX_NEXT`) and the filter sees no packet: adding the link before
//! removing the filter leaves no packet unjudged and judges none twice. Why: `docs/adr/0003-filters-before-links.md`.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::libc::{EINVAL, ENODEV, ENOENT, EOPNOTSUPP};

use super::NetlinkError;
use super::connection::{Change, Connection, Request};

/// `TC_H_CLSACT`'s qdisc on any device: `ffff:`.
const QDISC: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
const KIND: &str = "clsact";
/// The one filter of ours in each direction.
const HANDLE: u32 = 1;
/// Before whatever others add without naming a preference: traffic control gives them 0xc000 and less from there.
const PREFERENCE: u32 = 1;
/// `ETH_P_ALL`, in network byte order.
const ALL_PROTOCOLS: u32 = 0x0003_u16.to_be() as u32;
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
const EGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_EGRESS };

/// The programs of a pod's veth, held open. Clones share them.
#[derive(Clone, Debug)]
pub struct PodPrograms {
    /// The agent's instance: filters carry its name, so that each agent knows its own.
    pub instance: Arc<str>,
    /// What judges packets from the pod.
    pub from_pod: Arc<OwnedFd>,
    /// What judges packets of the node's own stack to the pod.
    pub to_pod: Arc<OwnedFd>,
}

/// The name that a filter of `instance` carries.
fn filter_name(instance: &str) -> String {
    format!("sheetbend/{instance}")
}

fn message(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

fn qdisc(index: u32) -> TcMessage {
    let mut message = message(index, QDISC, TcHandle::CLSACT);
    message.attributes = vec![TcAttribute::Kind(KIND.to_owned())];
    message
}

/// The place of our filter in one direction.
fn place(index: u32, direction: TcHandle) -> TcMessage {
    let mut message = message(index, HANDLE.into(), direction);
    message.header.info = PREFERENCE << 16 | ALL_PROTOCOLS;
    message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
    message
}

fn filter(index: u32, direction: TcHandle, program: &OwnedFd, instance: &str) -> TcMessage {
    let mut message = place(index, direction);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(filter_name(instance))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    message
}

fn requests(index: u32, programs: &PodPrograms) -> Vec<Request> {
    [(INGRESS, &programs.from_pod), (EGRESS, &programs.to_pod)]
        .map(|(direction, program)| {
            let message = filter(index, direction, program, &programs.instance);
            let what = format!("put a filter on device {index}");
            Request::new(what, Change::Replace, RouteNetlinkMessage::NewTrafficFilter(message))
        })
        .into()
}

/// Puts `programs` on a device. `Ok(false)`: this kernel has no `clsact` or no `cls_bpf`, and nothing was changed.
pub(super) fn add(
    connection: &mut Connection,
    index: u32,
    programs: &PodPrograms,
) -> Result<bool, NetlinkError> {
    let new = RouteNetlinkMessage::NewQueueDiscipline(qdisc(index));
    let mut all = vec![Request::new(format!("make a {KIND} qdisc on device {index}"), Change::Create, new)];
    all.extend(requests(index, programs));
    match connection.run(all) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.errno(), Some(ENOENT | EOPNOTSUPP)) => {
            remove_qdisc(connection, index)?;
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn remove_qdisc(connection: &mut Connection, index: u32) -> Result<(), NetlinkError> {
    let what = format!("remove the {KIND} qdisc of device {index}");
    let message = RouteNetlinkMessage::DelQueueDiscipline(qdisc(index));
    match connection.run(vec![Request::new(what, Change::Modify, message)]) {
        // It is not there, or traffic control is not.
        Err(error) if matches!(error.errno(), Some(ENOENT | EINVAL | EOPNOTSUPP)) => Ok(()),
        removed => removed,
    }
}

/// Whether a direction has a filter of ours.
fn find(
    connection: &mut Connection,
    index: u32,
    direction: TcHandle,
    instance: &str,
) -> Result<bool, NetlinkError> {
    let ask = RouteNetlinkMessage::GetTrafficFilter(message(index, TcHandle::UNSPEC, direction));
    let name = TcOption::Bpf(TcFilterBpfOption::ProgName(filter_name(instance)));
    let mut found = false;
    for answer in connection.dump(&format!("list the filters of device {index}"), ask)? {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else { continue };
        // A handle of 0 stands for the list, not for a filter.
        if filter.header.handle == TcHandle::UNSPEC {
            continue;
        }
        let has_name = filter
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, TcAttribute::Options(options) if options.contains(&name)));
        found |= has_name && filter.header.handle == TcHandle::from(HANDLE);
    }
    Ok(found)
}

/// Every device that has a filter of `instance`.
///
/// # Errors
/// Whatever the kernel refuses. A kernel without traffic control has no such device.
pub fn filtered_devices(instance: &str) -> Result<BTreeSet<u32>, NetlinkError> {
    let mut connection = Connection::open()?;
    let ask = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let qdiscs = match connection.dump("list qdiscs", ask) {
        Err(error) if error.errno() == Some(EOPNOTSUPP) => return Ok(BTreeSet::new()),
        answers => answers?,
    };
    let mut devices = BTreeSet::new();
    for answer in qdiscs {
        let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = answer else { continue };
        if !qdisc.attributes.contains(&TcAttribute::Kind(KIND.to_owned())) {
            continue;
        }
        let index = qdisc.header.index.cast_unsigned();
        for direction in [INGRESS, EGRESS] {
            match find(&mut connection, index, direction, instance) {
                Ok(true) => drop(devices.insert(index)),
                Err(error) if error.errno() != Some(ENODEV) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(devices)
}

/// Replaces the programs of a device's filters, each in one step. `Ok(false)`: the device is gone.
///
/// # Errors
/// Whatever the kernel refuses.
pub fn replace_filters(index: u32, programs: &PodPrograms) -> Result<bool, NetlinkError> {
    match Connection::open()?.run(requests(index, programs)) {
        Ok(()) => Ok(true),
        Err(error) if error.errno() == Some(ENODEV) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the filters of `instance` from a device. Their qdisc stays, empty, until the device goes: the kernel stops a
/// device's queues while a qdisc is taken off it, clsact too, and drops what the node's stack sends to the pod then.
/// What is not there need not be removed.
///
/// # Errors
/// Whatever the kernel refuses.
pub fn remove_filters(index: u32, instance: &str) -> Result<(), NetlinkError> {
    let mut connection = Connection::open()?;
    let mut ours = Vec::new();
    for direction in [INGRESS, EGRESS] {
        let found = match find(&mut connection, index, direction, instance) {
            // No such device, no such qdisc, or no traffic control.
            Err(error) if matches!(error.errno(), Some(ENODEV | EINVAL | ENOENT | EOPNOTSUPP)) => {
                return Ok(());
            }
            found => found?,
        };
        if found {
            let what = format!("remove the filter of device {index}");
            let message = RouteNetlinkMessage::DelTrafficFilter(place(index, direction));
            ours.push(Request::new(what, Change::Modify, message).accepting(ENOENT));
        }
    }
    connection.run(ours)
}
