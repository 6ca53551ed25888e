//! Kernel settings of the whole node.

use std::fmt;
use std::ops::RangeInclusive;

use super::super::{NetlinkError, sysctl};
use super::NodeSpec;

const RESERVED_PORTS: &str = "ipv4/ip_local_reserved_ports";

/// A kernel setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Below /proc/sys/net, as `ipv4/ip_forward`.
    pub name: String,
    /// What it was.
    pub before: String,
    /// What it was set to.
    pub after: String,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set net.{} = {} (was {})", self.name.replace('/', "."), self.after, self.before)
    }
}

/// Puts a setting back, where it still is what it was set to.
pub(super) fn restore(setting: &Setting) -> Result<bool, NetlinkError> {
    let ours = sysctl::read(&setting.name)?.as_deref() == Some(&*setting.after);
    if ours {
        sysctl::write(&setting.name, &setting.before)?;
    }
    Ok(ours)
}

/// Sets what differs; returns what was set.
pub(super) fn ensure(spec: &NodeSpec<'_>, uplink: &str) -> Result<Vec<Setting>, NetlinkError> {
    let mut steps = Vec::new();
    // Forwarding makes the kernel ignore router advertisements, and with them its default route, unless told (2).
    let accept_ra = format!("ipv6/conf/{uplink}/accept_ra");
    if sysctl::read(&accept_ra)?.as_deref() == Some("1") {
        set(&accept_ra, "2", &mut steps)?;
    }
    set("ipv4/ip_forward", "1", &mut steps)?;
    set("ipv6/conf/all/forwarding", "1", &mut steps)?;
    loosen_reverse_path_filter(&mut steps)?;
    let (first, count) = spec.nat_ports;
    let ports = first..=first.saturating_add(count.saturating_sub(1));
    if let Some(before) = sysctl::read(RESERVED_PORTS)?
        && let Some(after) = reserve(&before, &ports)
    {
        set(RESERVED_PORTS, &after, &mut steps)?;
    }
    Ok(steps)
}

fn set(name: &str, value: &str, steps: &mut Vec<Setting>) -> Result<(), NetlinkError> {
    match sysctl::read(name)? {
        Some(before) if before != value => {
            sysctl::write(name, value)?;
            steps.push(Setting { name: name.to_owned(), before, after: value.to_owned() });
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

/// The kernel takes the larger of a device's and `all`'s value. So that ours can be off, `all` goes to 0 and every
/// other device gets what was in force for it.
fn loosen_reverse_path_filter(steps: &mut Vec<Setting>) -> Result<(), NetlinkError> {
    let all = "ipv4/conf/all/rp_filter";
    let before: u8 = sysctl::read(all)?.and_then(|text| text.parse().ok()).unwrap_or(0);
    if before == 0 {
        return Ok(());
    }
    for device in sysctl::list("ipv4/conf")? {
        let ours = device == super::TUNNEL_DEVICE || super::super::read_back::is_pod_link(&device);
        if device == "all" || ours {
            continue;
        }
        let name = format!("ipv4/conf/{device}/rp_filter");
        let own: u8 = sysctl::read(&name)?.and_then(|text| text.parse().ok()).unwrap_or(0);
        set(&name, &own.max(before).to_string(), steps)?;
    }
    set(all, "0", steps)
}

/// `before` with `ports` added; `None` when they are all in it. Both are lists as `8080,9000-9010`.
fn reserve(before: &str, ports: &RangeInclusive<u16>) -> Option<String> {
    let mut missing = *ports.start();
    let mut ranges: Vec<(u16, u16)> = before.split(',').filter_map(parse_range).collect();
    ranges.sort_unstable();
    for (first, last) in ranges {
        if first <= missing && last >= missing {
            if last >= *ports.end() {
                return None;
            }
            missing = last + 1;
        }
    }
    let added = format!("{}-{}", ports.start(), ports.end());
    Some(if before.is_empty() { added } else { format!("{before},{added}") })
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::reserve;

    #[test]
    fn ports_are_added_once() {
        assert_eq!(reserve("", &(40000..=59999)).as_deref(), Some("40000-59999"));
        assert_eq!(
            reserve("8080,30000-32767", &(40000..=59999)).as_deref(),
            Some("8080,30000-32767,40000-59999")
        );
        assert_eq!(reserve("40000-59999", &(40000..=59999)), None);
        assert_eq!(reserve("30000-50000,50001-60000", &(40000..=59999)), None);
        assert_eq!(reserve("40000-50000", &(40000..=59999)).as_deref(), Some("40000-50000,40000-59999"));
    }
}
