//! The slow, obvious twin: a list of every address with its history.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

/// One address: held, or released at some moment, or never used.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Fresh,
    Held,
    Released(Duration),
}

/// One pool, as a list in address order.
pub(super) struct Twin {
    addresses: Vec<(IpAddr, State)>,
    reuse_delay: Duration,
}

impl Twin {
    pub(super) fn new(block: IpNet, reuse_delay: Duration) -> Self {
        // ipnet's `hosts` leaves out network and broadcast of IPv4; of IPv6 it leaves out nothing.
        let hosts = block.hosts().filter(|addr| *addr != block.network());
        let addresses = hosts.skip(1).map(|addr| (addr, State::Fresh)).collect();
        Self { addresses, reuse_delay }
    }

    pub(super) fn allocate(&mut self, now: Duration) -> Option<IpAddr> {
        let fresh = self.addresses.iter().position(|(_, state)| *state == State::Fresh);
        let rested = || {
            let mut released: Vec<(Duration, usize)> = Vec::new();
            for (index, (_, state)) in self.addresses.iter().enumerate() {
                if let State::Released(at) = state
                    && now >= *at + self.reuse_delay
                {
                    released.push((*at, index));
                }
            }
            released.sort_unstable();
            released.first().map(|(_, index)| *index)
        };
        let index = fresh.or_else(rested)?;
        self.addresses[index].1 = State::Held;
        Some(self.addresses[index].0)
    }

    pub(super) fn release(&mut self, addr: IpAddr, now: Duration) {
        for (candidate, state) in &mut self.addresses {
            if *candidate == addr && *state == State::Held {
                *state = State::Released(now);
            }
        }
    }

    pub(super) fn all_held(&self) -> bool {
        self.addresses.iter().all(|(_, state)| *state == State::Held)
    }

    pub(super) fn size(&self) -> usize {
        self.addresses.len()
    }
}
