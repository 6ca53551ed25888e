//! What the kernel threw away because a process did not read its socket in time: a busy machine's losses, not the network's.

use anyhow::{Context as _, Result};

use super::pods::Place;

/// Datagrams and connections that arrived and found no room (proc_net(5), SNMP and TCP extended counters).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FullSockets {
    pub(super) datagrams: u64,
    pub(super) connections: u64,
}

impl FullSockets {
    /// Since these pods began.
    pub(super) fn of(places: &[Place]) -> Result<Self> {
        let mut sum = Self::default();
        for place in places {
            let [snmp, snmp6, netstat] = place.run(|| {
                let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
                Ok([read("snmp")?, read("snmp6")?, read("netstat")?])
            })?;
            sum.datagrams += column(&snmp, "Udp:", "RcvbufErrors")? + line(&snmp6, "Udp6RcvbufErrors")?;
            sum.connections += column(&netstat, "TcpExt:", "ListenDrops")?;
        }
        Ok(sum)
    }

    /// What came since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            datagrams: self.datagrams - earlier.datagrams,
            connections: self.connections - earlier.connections,
        }
    }
}

/// A counter of a file in which a line of names precedes the line of values.
fn column(text: &str, group: &str, name: &str) -> Result<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = lines.next().zip(lines.next()).with_context(|| format!("no group {group}"))?;
    let at = names.split_whitespace().position(|one| one == name);
    let value = at.and_then(|at| values.split_whitespace().nth(at));
    Ok(value.with_context(|| format!("no counter {group} {name}"))?.parse()?)
}

/// A counter of a file with a name and a value on each line.
fn line(text: &str, name: &str) -> Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    Ok(value.with_context(|| format!("no counter {name}"))?.parse()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::{column, line};

    #[test]
    fn counters_are_found_by_name() {
        let snmp = "Tcp: RtoMin\nTcp: 200\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 7 0 3\nUdpLite: RcvbufErrors\nUdpLite: 9\n";
        assert_eq!(column(snmp, "Udp:", "RcvbufErrors").unwrap(), 3);
        assert!(column(snmp, "Udp:", "Sndbuf").is_err());
        assert_eq!(line("Ip6InReceives   1\nUdp6RcvbufErrors  \t5\n", "Udp6RcvbufErrors").unwrap(), 5);
        assert!(line("Udp6RcvbufErrorsMore 1\n", "Udp6InErrors").is_err());
    }
}
