//! Other people's packet filters that drop what our programs hand to the node's stack.
//!
//! The fast path passes netfilter by, the slow one does not: packets to the world, those that are too big, and the
//! node's own towards pods meet whatever rules the machine has. And since its connection tracking sees only parts of
//! our flows, `ct state invalid` there means "ours". We change no rule of others; we name them.

mod attribute;

use std::fmt;
use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::NetlinkError;
use attribute::{Attributes, find, text, word};

/// `NFNL_SUBSYS_NFTABLES << 8` of linux/netfilter/nfnetlink.h.
const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_GETCHAIN` and `NFT_MSG_GETRULE` of linux/netfilter/nf_tables.h.
const GET_CHAIN: u16 = NFTABLES | 4;
const GET_RULE: u16 = NFTABLES | 7;
/// `NLMSG_ERROR`, `NLMSG_DONE`, `NLM_F_REQUEST | NLM_F_DUMP` of linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP: u16 = 0x301;
/// `struct nlmsghdr`, then `struct nfgenmsg`.
const HEADER_BYTES: usize = 16;
const GENERIC_BYTES: usize = 4;
const RECEIVE_BYTES: usize = 64 * 1024;
/// `NF_INET_FORWARD`, and `NF_DROP`.
const FORWARD: u32 = 2;
const DROP: u32 = 0;
/// Legacy iptables keeps its rules elsewhere; these files name the tables that are in use.
const LEGACY: [(&str, &str); 2] =
    [("/proc/net/ip_tables_names", "iptables-legacy"), ("/proc/net/ip6_tables_names", "ip6tables-legacy")];

/// A rule of somebody else, and what it does to us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForeignDrop {
    /// A chain at the forward hook drops what no rule accepts.
    Policy {
        /// `ip`, `ip6` or `inet`.
        family: &'static str,
        /// Its table.
        table: String,
        /// Its chain.
        chain: String,
    },
    /// A rule drops what the node's connection tracking calls invalid.
    Invalid {
        /// `ip`, `ip6` or `inet`.
        family: &'static str,
        /// Its table.
        table: String,
        /// Its chain.
        chain: String,
        /// Its handle, as `nft -a list ruleset` shows it.
        handle: u64,
    },
    /// Legacy iptables has a filter table, which we do not read.
    Legacy {
        /// The command that lists it.
        command: &'static str,
    },
}

impl fmt::Display for ForeignDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForeignDrop::Policy { family, table, chain } => write!(
                f,
                "table {family} {table}, chain {chain}: policy drop at the forward hook drops pods' packets to the world and \
                 those that are too big; put a rule before it that accepts pod addresses (nft insert rule {family} {table} \
                 {chain} iifname \"sb*\" accept, and the same with oifname)"
            ),
            ForeignDrop::Invalid { family, table, chain, handle } => write!(
                f,
                "table {family} {table}, chain {chain}, handle {handle}: drops `ct state invalid`, which is what parts of our \
                 flows look like to the node; remove it (nft delete rule {family} {table} {chain} handle {handle}) or accept \
                 pod addresses before it"
            ),
            ForeignDrop::Legacy { command } => write!(
                f,
                "legacy iptables has a filter table that is not examined; see `{command} -S FORWARD`: it must accept pod addresses"
            ),
        }
    }
}

/// Looks at the nftables rules (iptables-nft's included) of the calling thread's network namespace. `ct state vmap`
/// maps are not looked into. A kernel without nftables has none.
///
/// # Errors
/// The socket fails, or the kernel's answer cannot be read.
pub fn foreign_drops() -> Result<Vec<ForeignDrop>, NetlinkError> {
    let mut found = Vec::new();
    dump(GET_CHAIN, |family, attributes| found.extend(policy(family, attributes)))?;
    dump(GET_RULE, |family, attributes| found.extend(invalid(family, attributes)))?;
    found.extend(
        LEGACY
            .iter()
            .filter(|(path, _)| has_filter(path))
            .map(|(_, command)| ForeignDrop::Legacy { command }),
    );
    found.sort_unstable();
    Ok(found)
}

/// A chain of the packet filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// Every chain of every family, iptables-nft's included, of the calling thread's network namespace.
///
/// # Errors
/// As [`foreign_drops`].
pub fn packet_filter_chains() -> Result<Vec<Chain>, NetlinkError> {
    let mut chains = Vec::new();
    dump(GET_CHAIN, |_, chain| {
        if let (Some(table), Some(name)) = (find(chain, 1), find(chain, 3)) {
            chains.push(Chain { table: text(table), name: text(name) });
        }
    })?;
    chains.sort_unstable();
    Ok(chains)
}

fn has_filter(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

/// Name of an `NFPROTO_*` whose forward hook sees pods' packets.
fn family_name(family: u8) -> Option<&'static str> {
    match family {
        1 => Some("inet"),
        2 => Some("ip"),
        10 => Some("ip6"),
        _ => None,
    }
}

/// Chain: `NFTA_CHAIN_TABLE` 1, `_NAME` 3, `_HOOK` 4 (`NFTA_HOOK_HOOKNUM` 1), `_POLICY` 5.
fn policy(family: u8, chain: Attributes<'_>) -> Option<ForeignDrop> {
    let family = family_name(family)?;
    let hook = word(find(Attributes::new(find(chain, 4)?), 1)?)?;
    if hook != FORWARD || word(find(chain, 5)?)? != DROP {
        return None;
    }
    Some(ForeignDrop::Policy { family, table: text(find(chain, 1)?), chain: text(find(chain, 3)?) })
}

/// Rule: `NFTA_RULE_TABLE` 1, `_CHAIN` 2, `_HANDLE` 3, `_EXPRESSIONS` 4.
fn invalid(family: u8, rule: Attributes<'_>) -> Option<ForeignDrop> {
    let family = family_name(family)?;
    let mut asks = false;
    let mut drops = false;
    for (_, expression) in Attributes::new(find(rule, 4)?) {
        // NFTA_EXPR_NAME 1, NFTA_EXPR_DATA 2.
        let expression = Attributes::new(expression);
        let data = Attributes::new(find(expression, 2).unwrap_or_default());
        match text(find(expression, 1)?).as_str() {
            "ct" => asks = word(find(data, 2)?)? == 0, // NFTA_CT_KEY = NFT_CT_STATE
            "bitwise" => asks = asks && is_invalid_mask(data),
            "match" => asks |= is_invalid_match(data),
            "immediate" => drops = is_drop(data),
            _ => {}
        }
    }
    if !(asks && drops) {
        return None;
    }
    let handle = find(rule, 3)?.try_into().map(u64::from_be_bytes).ok()?;
    Some(ForeignDrop::Invalid { family, table: text(find(rule, 1)?), chain: text(find(rule, 2)?), handle })
}

/// `NFTA_BITWISE_MASK` 4, in it `NFTA_DATA_VALUE` 1: a word of the machine with `NF_CT_STATE_INVALID_BIT`.
fn is_invalid_mask(bitwise: Attributes<'_>) -> bool {
    let mask = find(bitwise, 4).and_then(|mask| find(Attributes::new(mask), 1));
    mask.and_then(|mask| mask.try_into().ok()).is_some_and(|mask| u32::from_ne_bytes(mask) & 1 != 0)
}

/// iptables-nft: `NFTA_MATCH_NAME` 1 `conntrack`, `NFTA_MATCH_INFO` 3 a `struct xt_conntrack_mtinfo3` with its
/// `state_mask` at byte 150.
fn is_invalid_match(extension: Attributes<'_>) -> bool {
    let named = find(extension, 1).is_some_and(|name| text(name) == "conntrack");
    let mask = find(extension, 3).and_then(|info| info.get(150..152)?.try_into().ok());
    named && mask.is_some_and(|mask| u16::from_ne_bytes(mask) & 1 != 0)
}

/// `NFTA_IMMEDIATE_DATA` 2, in it `NFTA_DATA_VERDICT` 2, in it `NFTA_VERDICT_CODE` 1.
fn is_drop(immediate: Attributes<'_>) -> bool {
    let verdict = find(immediate, 2).and_then(|data| find(Attributes::new(data), 2));
    verdict.and_then(|verdict| word(find(Attributes::new(verdict), 1)?)) == Some(DROP)
}

/// Hands every object that a dump of `kind` answers to `take`, with its family.
fn dump(kind: u16, mut take: impl FnMut(u8, Attributes<'_>)) -> Result<(), NetlinkError> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = Vec::with_capacity(HEADER_BYTES + GENERIC_BYTES);
    request.extend_from_slice(&20_u32.to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&DUMP.to_ne_bytes());
    // Sequence and port numbers, then NFPROTO_UNSPEC, version 0 and no resource.
    request.extend_from_slice(&[0; 12]);
    socket.send(&request, 0)?;
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..length];
        while let Some((message, kind)) = next_message(&mut rest)? {
            match kind {
                DONE => return Ok(()),
                ERROR => return refusal(message),
                _ if message.len() >= GENERIC_BYTES => {
                    take(message[0], Attributes::new(&message[GENERIC_BYTES..]));
                }
                _ => {}
            }
        }
    }
}

/// The next message's body and type; `rest` goes behind it.
fn next_message<'a>(rest: &mut &'a [u8]) -> Result<Option<(&'a [u8], u16)>, NetlinkError> {
    if rest.len() < HEADER_BYTES {
        return Ok(None);
    }
    let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
    let Some(message) = rest.get(HEADER_BYTES..size) else {
        return Err(NetlinkError::Decode(format!("a message of {size} bytes in {} bytes", rest.len())));
    };
    let kind = u16::from_ne_bytes([rest[4], rest[5]]);
    *rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some((message, kind)))
}

/// A kernel without nftables refuses the subsystem: then there are no rules.
fn refusal(message: &[u8]) -> Result<(), NetlinkError> {
    let code = message.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    match -code {
        0 | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT => Ok(()),
        errno => Err(NetlinkError::Refused {
            what: "list nftables rules".to_owned(),
            source: io::Error::from_raw_os_error(errno),
            hint: String::new(),
        }),
    }
}
