//! `dns.*`.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::source::Sources;

/// Queries are answered on this port where an address has none.
const PORT: u16 = 53;

/// The longest zone for which every name of the Kubernetes DNS specification fits into 255 bytes.
const MAX_ZONE: usize = 57;

/// TTLs are at most a day: nothing in a cluster holds longer.
const MAX_TTL: u32 = 86_400;

/// What `sheetbend dns` does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsConfig {
    /// `dns.zone`, in lower case, without a dot at its end.
    pub zone: String,
    /// `dns.listen`.
    pub listen: Vec<SocketAddr>,
    /// `dns.ttl`, seconds.
    pub ttl: u32,
    /// `dns.upstreams`, empty where it is `none`; `None`: those of /etc/resolv.conf.
    pub upstreams: Option<Vec<SocketAddr>>,
    /// `dns.stubDomains`: domain and server, in the order given.
    pub stub_domains: Vec<(String, SocketAddr)>,
    /// `dns.configMap`: namespace and name.
    pub config_map: Option<(String, String)>,
    /// `dns.hosts`: address and name.
    pub hosts: Vec<(IpAddr, String)>,
    /// `dns.cacheEntries`.
    pub cache_entries: usize,
    /// `dns.workers`; `None`: as many as CPUs, at most 4.
    pub workers: Option<usize>,
    /// `dns.drain`, seconds.
    pub drain: u64,
    /// `dns.admin`.
    pub admin: Option<SocketAddr>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            zone: "cluster.local".to_owned(),
            listen: vec![([0; 4], PORT).into(), ([0; 8], PORT).into()],
            ttl: 5,
            upstreams: None,
            stub_domains: Vec::new(),
            config_map: None,
            hosts: Vec::new(),
            cache_entries: 10_000,
            workers: None,
            drain: 5,
            admin: None,
        }
    }
}

impl DnsConfig {
    pub(super) fn load(sources: &mut Sources) -> Self {
        let defaults = Self::default();
        let listen = sources.list("dns.listen", server);
        let upstreams = sources.list("dns.upstreams", upstream);
        Self {
            zone: sources.text("dns.zone", zone).unwrap_or(defaults.zone),
            listen: if listen.is_empty() { defaults.listen } else { listen },
            ttl: sources.text("dns.ttl", ttl).unwrap_or(defaults.ttl),
            upstreams: (!upstreams.is_empty()).then(|| upstreams.into_iter().flatten().collect()),
            stub_domains: sources.list("dns.stubDomains", stub_domain),
            config_map: sources.text("dns.configMap", config_map),
            hosts: sources.list("dns.hosts", host).into_iter().flatten().collect(),
            cache_entries: sources.text("dns.cacheEntries", cache_entries).unwrap_or(defaults.cache_entries),
            workers: sources.text("dns.workers", workers),
            drain: sources.text("dns.drain", drain).unwrap_or(defaults.drain),
            admin: sources.text("dns.admin", socket_address),
        }
    }
}

/// A DNS server: an address with or without a port, which is 53.
///
/// # Errors
/// What is wrong, and how it is written.
pub fn server(text: &str) -> Result<SocketAddr, String> {
    match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(addr), _) => Ok(SocketAddr::new(addr, PORT)),
        (_, Ok(addr)) if addr.port() != 0 => Ok(addr),
        _ => Err(format!(
            "{text:?} is no address of a DNS server; write one like 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:53"
        )),
    }
}

/// A server, or that there is none.
fn upstream(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "none" { Ok(None) } else { server(text).map(Some) }
}

/// An address with a port, or the word `none`.
pub(super) fn address_or_none(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "none" { Ok(None) } else { socket_address(text).map(Some) }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no address with a port; write one like 0.0.0.0:9153 or [::]:9153"))
}

fn zone(text: &str) -> Result<String, String> {
    let name = domain(text)?;
    if name.len() > MAX_ZONE {
        return Err(format!(
            "{text:?} has {} characters; use at most {MAX_ZONE}, so that the longest names below it fit",
            name.len()
        ));
    }
    Ok(name)
}

/// A domain name of letters, digits, - and _, in lower case, without a dot at its end.
///
/// # Errors
/// What is wrong, and how it is written.
pub fn domain(text: &str) -> Result<String, String> {
    let name = text.trim_end_matches('.').to_ascii_lowercase();
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    };
    if name.len() <= 253 && name.split('.').all(fits) {
        Ok(name)
    } else {
        Err(format!("{text:?} is no domain name; write one like cluster.local"))
    }
}

fn stub_domain(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, addr) = text.split_once('=').ok_or_else(|| {
        format!("{text:?} is no stub domain; write DOMAIN=SERVER, as in corp.example=192.0.2.1")
    })?;
    Ok((domain(name.trim())?, server(addr.trim())?))
}

fn config_map(text: &str) -> Result<(String, String), String> {
    let parts = text
        .split_once('/')
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains('/'));
    let (namespace, name) = parts.ok_or_else(|| {
        format!("{text:?} is no ConfigMap; write NAMESPACE/NAME, as in kube-system/kube-dns")
    })?;
    Ok((namespace.to_owned(), name.to_owned()))
}

fn host(text: &str) -> Result<Vec<(IpAddr, String)>, String> {
    let mut words = text.split_whitespace();
    let addr = words.next().and_then(|word| word.parse::<IpAddr>().ok());
    let names: Vec<String> = words.map(domain).collect::<Result<_, _>>()?;
    match addr {
        Some(addr) if !names.is_empty() => Ok(names.into_iter().map(|name| (addr, name)).collect()),
        _ => Err(format!(
            "{text:?} is no entry of a hosts file; write ADDRESS NAME..., as in 192.0.2.1 db.example.com db"
        )),
    }
}

fn ttl(text: &str) -> Result<u32, String> {
    let seconds = text.parse::<u32>().ok().filter(|seconds| *seconds <= MAX_TTL);
    seconds.ok_or_else(|| format!("{text:?} is no time to live; write seconds, 0 to {MAX_TTL}"))
}

fn cache_entries(text: &str) -> Result<usize, String> {
    let entries = text.parse::<usize>().ok().filter(|entries| *entries <= 10_000_000);
    entries.ok_or_else(|| format!("{text:?} is no number of entries; write 0 to 10000000"))
}

fn workers(text: &str) -> Result<usize, String> {
    let workers = text.parse::<usize>().ok().filter(|workers| (1..=64).contains(workers));
    workers.ok_or_else(|| format!("{text:?} is no number of workers; write 1 to 64"))
}

fn drain(text: &str) -> Result<u64, String> {
    let seconds = text.parse::<u64>().ok().filter(|seconds| *seconds <= 3600);
    seconds.ok_or_else(|| format!("{text:?} is no time; write seconds, 0 to 3600"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::super::Config;
    use super::*;

    fn load(values: &[(&str, &str)]) -> Result<DnsConfig, String> {
        let sources =
            values.iter().fold(Sources::default(), |sources, (key, text)| sources.flag(key, Some(text)));
        Config::load(sources).map(|config| config.dns).map_err(|errors| errors.to_string())
    }

    #[test]
    fn every_key_is_read() {
        assert_eq!(load(&[]), Ok(DnsConfig::default()));
        let config = load(&[
            ("dns.zone", "K8s.Example."),
            ("dns.listen", "169.254.20.10, [fd00::a]:5353"),
            ("dns.stubDomains", "corp.example=192.0.2.1,corp.example=192.0.2.2:54"),
            ("dns.hosts", "192.0.2.9 db.example db"),
            ("dns.configMap", "kube-system/kube-dns"),
            ("dns.workers", "3"),
            ("dns.admin", "[::]:9153"),
        ])
        .unwrap();
        assert_eq!(config.zone, "k8s.example");
        let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["169.254.20.10:53", "[fd00::a]:5353"]);
        assert_eq!(config.stub_domains.len(), 2);
        assert_eq!(config.config_map, Some(("kube-system".to_owned(), "kube-dns".to_owned())));
        assert_eq!(config.hosts[1], ("192.0.2.9".parse().unwrap(), "db".to_owned()));
        assert_eq!(config.upstreams, None);
        assert_eq!(load(&[("dns.upstreams", "none")]).unwrap().upstreams, Some(Vec::new()));
        let upstreams = load(&[("dns.upstreams", "192.0.2.1")]).unwrap().upstreams;
        assert_eq!(upstreams, Some(vec!["192.0.2.1:53".parse().unwrap()]));
        assert_eq!((config.workers, config.admin.unwrap().port()), (Some(3), 9153));
    }

    #[test]
    fn a_wrong_value_says_what_to_write() {
        for (key, text, advice) in [
            ("dns.zone", "a..b", "write one like cluster.local"),
            ("dns.zone", &"a.".repeat(30), "at most 57"),
            ("dns.listen", "localhost", "192.0.2.1:5353"),
            ("dns.upstreams", "192.0.2.1:0", "no address of a DNS server"),
            ("dns.stubDomains", "corp.example", "DOMAIN=SERVER"),
            ("dns.hosts", "192.0.2.1", "ADDRESS NAME"),
            ("dns.ttl", "-1", "0 to 86400"),
            ("dns.workers", "0", "1 to 64"),
        ] {
            let error = load(&[(key, text)]).unwrap_err();
            assert!(error.contains(key) && error.contains(advice), "{error}");
        }
    }
}
