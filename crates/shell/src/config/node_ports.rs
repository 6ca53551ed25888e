//! `services.nodePortAddresses`.

use ipnet::IpNet;
use sheetbend_model::state::NodePortAddresses;

use super::parse_cidr;
use super::source::Sources;

const KEY: &str = "services.nodePortAddresses";
const PRIMARY: &str = "primary";

pub(super) fn load(sources: &mut Sources) -> NodePortAddresses {
    // None = the word.
    let words: Vec<Option<IpNet>> = sources.list(KEY, |text| match text {
        PRIMARY => Ok(None),
        _ => parse_cidr(text).map(Some).map_err(|error| format!("{error}, or {PRIMARY} alone")),
    });
    let blocks: Vec<IpNet> = words.iter().flatten().copied().collect();
    match (words.len(), blocks.len()) {
        (0, _) => NodePortAddresses::All,
        (1, 0) => NodePortAddresses::Primary,
        (all, some) if all == some => NodePortAddresses::Within(blocks),
        _ => {
            sources.wrong(KEY, format!("{KEY} has {PRIMARY} beside others; write it alone, or blocks only"));
            NodePortAddresses::All
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;
    use crate::config::Config;

    fn load(text: &str) -> Result<NodePortAddresses, String> {
        let config = Config::load(Sources::default().flag(KEY, Some(text)));
        config.map(|config| config.network.node_port_addresses).map_err(|errors| errors.to_string())
    }

    #[test]
    fn blocks_or_the_word_alone() {
        assert_eq!(Config::default().network.node_port_addresses, NodePortAddresses::All);
        assert_eq!(load("primary"), Ok(NodePortAddresses::Primary));
        let blocks = ["192.0.2.0/24", "2001:db8::/32"].map(|text| text.parse().unwrap());
        assert_eq!(load("192.0.2.0/24, 2001:db8::/32"), Ok(NodePortAddresses::Within(blocks.to_vec())));
        for (text, advice) in [
            ("primary, 192.0.2.0/24", "write it alone"),
            ("primary, primary", "write it alone"),
            ("192.0.2.1/24", "write 192.0.2.0/24"),
            ("Primary", "or primary alone"),
            ("eth0", "or primary alone"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(advice), "{text}: {error}");
        }
    }
}
