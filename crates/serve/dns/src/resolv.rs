//! `/etc/resolv.conf`: where queries for other zones go by default.

use std::net::{IpAddr, SocketAddr};

/// The servers that a resolv.conf(5) names, in its order, each once. Lines that are not understood count for nothing.
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone behind an address (fe80::1%eth0) names a link of this host only.
        let Some(addr) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let server = SocketAddr::new(addr, 53);
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_in_order() {
        let text = "# made by hand\nsearch example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1 # second\n\
                    nameserver fe80::1%eth0\nnameserver 192.0.2.1\nnameserverx 192.0.2.9\noptions ndots:5\n";
        let found: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }
}
