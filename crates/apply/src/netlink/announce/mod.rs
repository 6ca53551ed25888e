//! Answers ARP and neighbour discovery for addresses that no device of the node has, for as long as this value lives:
//! its sockets end with the process, and so do the answers (docs/adr/0005).

mod frame;
mod socket;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use sheetbend_model::types::Mac;

use super::NetlinkError;
use super::connection::Connection;
use super::read_back::{addresses, find_link};
use frame::Question;
use socket::{Groups, Packets};

/// Largest question that is read: an Ethernet header, IPv6, and a neighbour solicitation with options.
const QUESTION: usize = 256;

/// One interface on which addresses are announced.
#[derive(Debug)]
pub struct Announcer {
    name: String,
    ifindex: u32,
    mac: Mac,
    /// Source of unasked neighbour advertisements (RFC 4861, section 7.2.6: an address of the interface).
    link_local: Option<Ipv6Addr>,
    arp: Packets,
    /// `None` where the kernel has no IPv6.
    discovery: Option<(Packets, Groups)>,
    addresses: BTreeSet<IpAddr>,
}

impl Announcer {
    /// Listens on the interface `name` for questions; nothing is answered yet.
    ///
    /// # Errors
    /// There is no such interface, it is no Ethernet, or the process lacks CAP_NET_RAW.
    pub fn open(name: &str) -> Result<Self, NetlinkError> {
        let mut connection = Connection::open()?;
        let missing = || NetlinkError::NoLink { name: name.to_owned() };
        let link = find_link(&mut connection, name)?.ok_or_else(missing)?;
        let refused = |what: &str, source| NetlinkError::Refused {
            what: format!("{what} on {name}"),
            source,
            hint: "the agent needs CAP_NET_RAW".to_owned(),
        };
        let mac = link
            .mac
            .ok_or_else(|| refused("announce addresses", io::Error::other("it has no Ethernet address")))?;
        let link_local =
            addresses(&mut connection)?.into_iter().find_map(|address| match address.block.addr() {
                IpAddr::V6(addr) if address.index == link.index && addr.is_unicast_link_local() => Some(addr),
                IpAddr::V6(_) | IpAddr::V4(_) => None,
            });
        let arp = Packets::arp(link.index).map_err(|error| refused("listen for ARP", error))?;
        let discovery = match Groups::open(link.index) {
            Ok(groups) => {
                let packets = Packets::solicitations(link.index)
                    .map_err(|error| refused("listen for neighbour solicitations", error))?;
                Some((packets, groups))
            }
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(refused("join multicast groups", error)),
        };
        let (name, ifindex) = (name.to_owned(), link.index);
        Ok(Self { name, ifindex, mac, link_local, arp, discovery, addresses: BTreeSet::new() })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index: another means that the interface was made anew, and that this value is of no more use.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The sockets to wait for: readable when there may be a question.
    pub fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        let discovery = self.discovery.as_ref().map(|(packets, _)| packets.as_fd());
        std::iter::once(self.arp.as_fd()).chain(discovery).collect()
    }

    /// What is answered for.
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// Answers for `wanted` and nothing else from here on.
    ///
    /// # Errors
    /// A multicast group cannot be joined: too many (`net.ipv6.mld_max_msf`), or the interface is gone. The others are.
    pub fn set(&mut self, wanted: &BTreeSet<IpAddr>) -> io::Result<()> {
        let mut result = Ok(());
        if let Some((_, groups)) = &mut self.discovery {
            let wanted = wanted.iter().filter_map(|addr| match addr {
                IpAddr::V6(addr) => Some(frame::solicited_node(*addr)),
                IpAddr::V4(_) => None,
            });
            result = groups.set(wanted.collect());
        }
        self.addresses.clone_from(wanted);
        result
    }

    /// Tells the whole link, unasked, that `addr` is here: gratuitous ARP as request and reply (RFC 5227 section 3; some
    /// listen to one of them only), or a neighbour advertisement (RFC 4861, section 7.2.6).
    ///
    /// # Errors
    /// The frame cannot be sent.
    pub fn announce(&self, addr: IpAddr) -> io::Result<()> {
        match (addr, &self.discovery) {
            (IpAddr::V4(addr), _) => {
                frame::gratuitous(self.mac, addr).iter().try_for_each(|frame| self.arp.send(frame))
            }
            (IpAddr::V6(addr), Some((packets, _))) => {
                packets.send(&frame::unasked_advertisement(self.mac, self.link_local.unwrap_or(addr), addr))
            }
            (IpAddr::V6(_), None) => Ok(()),
        }
    }

    /// Answers every question that waits and is for an address of ours. Returns how many.
    ///
    /// # Errors
    /// The interface is down or gone.
    pub fn answer(&self) -> io::Result<usize> {
        let mut answered = 0;
        let mut buffer = [0; QUESTION];
        let sockets = std::iter::once(&self.arp).chain(self.discovery.as_ref().map(|(packets, _)| packets));
        for packets in sockets {
            while let Some(length) = packets.receive(&mut buffer)? {
                let asked = buffer.get(..length).and_then(|frame| Question::read(frame, self.mac));
                if let Some(question) = asked.filter(|question| self.addresses.contains(&question.target())) {
                    packets.send(&question.answer(self.mac))?;
                    answered += 1;
                }
            }
        }
        Ok(answered)
    }
}
