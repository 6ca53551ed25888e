//! Whom to ask for the names of other zones.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use anyhow::Context as _;
use sheetbend_dns::nameservers;
use sheetbend_shell::config::{Config, dns};

/// A ConfigMap's key: a JSON list of servers.
pub(super) const UPSTREAMS: &str = "upstreamNameservers";
/// A ConfigMap's key: a JSON object, domain to list of servers.
pub(super) const STUBS: &str = "stubDomains";

/// Servers for every name, and for those of some domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Routes {
    pub(super) upstreams: Vec<SocketAddr>,
    stubs: BTreeMap<String, Vec<SocketAddr>>,
}

impl Routes {
    /// As the responder takes them.
    pub(super) fn routes(&self) -> sheetbend_dns::Routes {
        let stubs = self.stubs.iter().map(|(domain, servers)| (domain.as_str(), servers.clone()));
        sheetbend_dns::Routes::new(self.upstreams.clone(), stubs)
    }

    /// These, but for what the keys of a ConfigMap say.
    ///
    /// # Errors
    /// The key that cannot be understood, and why: then none of it counts.
    pub(super) fn with(&self, data: &BTreeMap<String, String>, config: &Config) -> anyhow::Result<Self> {
        let mut routes = self.clone();
        if let Some(text) = data.get(UPSTREAMS) {
            let servers: Vec<String> = serde_json::from_str(text)
                .with_context(|| format!(r#"{UPSTREAMS} is no JSON list of servers, as ["192.0.2.53"]"#))?;
            routes.upstreams = addresses(&servers).context(UPSTREAMS)?;
        }
        if let Some(text) = data.get(STUBS) {
            let stubs: BTreeMap<String, Vec<String>> = serde_json::from_str(text).with_context(|| {
                format!(r#"{STUBS} is no JSON object of domains and servers, as {{"corp.example": ["192.0.2.1"]}}"#)
            })?;
            let one = |(domain, servers): (&String, &Vec<String>)| {
                Ok((dns::domain(domain).map_err(anyhow::Error::msg)?, addresses(servers)?))
            };
            routes.stubs = stubs.iter().map(one).collect::<anyhow::Result<_>>().context(STUBS)?;
        }
        routes.check(config)?;
        Ok(routes)
    }

    /// Refuses ourselves as upstream server: a query that came back would go round until it times out.
    fn check(&self, config: &Config) -> anyhow::Result<()> {
        let node_local = &config.network.node_local_dns.addresses;
        let is_own = |server: &&SocketAddr| {
            config.dns.listen.contains(server) || node_local.contains(&server.ip().to_canonical())
        };
        match self.upstreams.iter().find(is_own) {
            Some(own) => anyhow::bail!(
                "{own} is in dns.listen or dns.nodeLocal and an upstream server (without dns.upstreams those of \
                 /etc/resolv.conf are); set dns.upstreams to the servers of your network"
            ),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.upstreams)?;
        self.stubs.iter().try_for_each(|(domain, servers)| write!(f, ", {domain}: {servers:?}"))
    }
}

/// Those of the configuration.
///
/// # Errors
/// An upstream server is ourselves.
pub(super) fn configured(config: &Config) -> anyhow::Result<Routes> {
    let upstreams = config.dns.upstreams.clone().unwrap_or_else(|| {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        nameservers(&text)
    });
    let mut stubs: BTreeMap<String, Vec<SocketAddr>> = BTreeMap::new();
    for (domain, server) in &config.dns.stub_domains {
        stubs.entry(domain.clone()).or_default().push(*server);
    }
    let routes = Routes { upstreams, stubs };
    routes.check(config)?;
    Ok(routes)
}

fn addresses(servers: &[String]) -> anyhow::Result<Vec<SocketAddr>> {
    servers.iter().map(|text| dns::server(text).map_err(anyhow::Error::msg)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use sheetbend_shell::config::Sources;

    use super::*;

    fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn keys_of_a_config_map_win_each_over_its_own_setting() {
        let sources = Sources::default()
            .flag("dns.upstreams", Some("192.0.2.53"))
            .flag("dns.stubDomains", Some("corp.example=192.0.2.1"));
        let config = Config::load(sources).unwrap();
        let base = configured(&config).unwrap();
        assert_eq!(base.to_string(), "[192.0.2.53:53], corp.example: [192.0.2.1:53]");
        let text = |pairs: &[(&str, &str)]| base.with(&data(pairs), &config).unwrap().to_string();
        assert_eq!(text(&[]), base.to_string());
        assert_eq!(
            text(&[(UPSTREAMS, r#"["2001:db8::53", "192.0.2.9:5353"]"#), ("federations", "{}")]),
            "[[2001:db8::53]:53, 192.0.2.9:5353], corp.example: [192.0.2.1:53]"
        );
        assert_eq!(
            text(&[(STUBS, r#"{"Acme.Local.": ["10.0.0.1"]}"#)]),
            "[192.0.2.53:53], acme.local: [10.0.0.1:53]"
        );
    }

    #[test]
    fn a_config_map_that_is_not_understood_says_which_key_and_why() {
        let config = Config::load(Sources::default().flag("dns.upstreams", Some("none"))).unwrap();
        let base = configured(&config).unwrap();
        for (key, text, why) in [
            (UPSTREAMS, "192.0.2.53", "no JSON list"),
            (UPSTREAMS, r#"["dns.example"]"#, "no address of a DNS server"),
            (UPSTREAMS, r#"["0.0.0.0"]"#, "in dns.listen"),
            (STUBS, r#"["192.0.2.53"]"#, "no JSON object"),
            (STUBS, r#"{"a b": ["192.0.2.53"]}"#, "no domain name"),
            (STUBS, r#"{"a.example": ["x"]}"#, "no address of a DNS server"),
        ] {
            let error = format!("{:#}", base.with(&data(&[(key, text)]), &config).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
