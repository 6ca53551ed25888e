//! Two namespaces and one veth pair: nothing can be faster.

use crate::contest::Way;
use crate::netns::Netns;
use crate::traffic::Responder;

/// Name of this way in the tables.
pub(crate) const NAME: &str = "bare veth";

/// Builds it.
pub(crate) fn build() -> anyhow::Result<Way> {
    let client = Netns::create("sbb-wire-c")?;
    let server = Netns::create("sbb-wire-s")?;
    client.ip("link add eth0 type veth peer name eth0 netns sbb-wire-s")?;
    for (netns, last) in [(&client, 1), (&server, 2)] {
        netns.ip(&format!(
            "addr add 10.90.0.{last}/24 dev eth0\naddr add fd90::{last}/64 dev eth0 nodad\nlink set eth0 up"
        ))?;
    }
    let servers = ["10.90.0.2".parse()?, "fd90::2".parse()?];
    for address in servers {
        Responder::start(&server, address)?;
    }
    Ok(Way { name: NAME, client, servers })
}
