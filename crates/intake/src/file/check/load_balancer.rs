//! LoadBalancerPool and L2Announcement: what their schemas say, and what a schema cannot.

use std::net::IpAddr;

use sheetbend_model::state::AddressRange;

use super::{Check, selector};
use crate::file::field::Field;
use crate::resources::{AddressBlock, L2Announcement, LoadBalancerPool};

/// Longest name of an interface (IFNAMSIZ - 1).
const INTERFACE_NAME: usize = 15;

pub(super) fn pool(check: &mut Check<'_>, pool: &LoadBalancerPool) {
    let field = Field::Root.key("spec");
    let Some(spec) = &pool.spec else { return check.missing(&field, "write blocks in it") };
    let blocks = field.key("blocks");
    if spec.blocks.is_empty() {
        check.missing(&blocks, "write at least one, as in - cidr: 192.0.2.0/26");
    }
    for (index, block) in spec.blocks.iter().enumerate() {
        self::block(check, &blocks.index(index), block);
    }
    for (name, labels) in
        [("serviceSelector", &spec.service_selector), ("namespaceSelector", &spec.namespace_selector)]
    {
        if let Some(labels) = labels {
            selector::check(check, &field.key(name), labels);
        }
    }
}

fn block(check: &mut Check<'_>, field: &Field<'_>, block: &AddressBlock) {
    let (cidr, start, end) = (field.key("cidr"), field.key("start"), field.key("end"));
    match (&block.cidr, &block.start, &block.end) {
        (Some(text), None, None) => {
            if let Some(block) = check.block(&cidr, text)
                && block.trunc() != block
            {
                check.invalid(&cidr, text, "has host bits set", format!("write {}", block.trunc()));
            }
        }
        (None, Some(first), Some(last)) => {
            let (first_addr, last_addr) = (check.address(&start, first), check.address(&end, last));
            let (Some(first_addr), Some(last_addr)): (Option<IpAddr>, Option<IpAddr>) =
                (first_addr, last_addr)
            else {
                return;
            };
            if AddressRange::new(first_addr, last_addr).is_err() {
                let why = format!("is no end of a range that starts at {first}");
                check.invalid(&end, last, why, "write an address of the same family, not below start");
            }
        }
        _ => check.conflict(
            field,
            "a block is either a cidr, or a start and an end",
            "write - cidr: 192.0.2.0/26, or - {start: 192.0.2.10, end: 192.0.2.20}",
        ),
    }
}

pub(super) fn announcement(check: &mut Check<'_>, announcement: &L2Announcement) {
    let field = Field::Root.key("spec");
    let Some(spec) = &announcement.spec else {
        return check
            .missing(&field, "write spec: {} to announce every load balancer address from every node");
    };
    for (name, labels) in [("serviceSelector", &spec.service_selector), ("nodeSelector", &spec.node_selector)]
    {
        if let Some(labels) = labels {
            selector::check(check, &field.key(name), labels);
        }
    }
    let interfaces = field.key("interfaces");
    for (index, name) in spec.interfaces.iter().flatten().enumerate() {
        let plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
        if name.is_empty() || name.len() > INTERFACE_NAME || !name.chars().all(plain) {
            let fix = "write a name such as eth0, as `ip link` lists it";
            check.invalid(&interfaces.index(index), name, "is no name of an interface", fix);
        }
    }
    if spec.load_balancer_ips == Some(false) && spec.external_ips != Some(true) {
        let why = "neither loadBalancerIPs nor externalIPs is to be announced";
        check.conflict(&field, why, "set one of them, or remove the L2Announcement");
    }
}
