//! What `sheetbend policy why` is asked about, as people write it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use sheetbend_model::types::{NodeName, ObjectKey, Port, Protocol};

/// One end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// `NAMESPACE/NAME`, or `pod/NAMESPACE/NAME`.
    Pod(ObjectKey),
    /// `svc/NAMESPACE/NAME`.
    Service(ObjectKey),
    /// `node/NAME`: a process of the node's own.
    Node(NodeName),
    /// An address.
    Address(IpAddr),
    /// `world`: somebody outside the cluster.
    World,
}

/// The port that somebody tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortName {
    /// A number.
    Number(Port),
    /// A name: a pod's container port, or a Service's port.
    Name(String),
}

/// `DST:PORT[/PROTO]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Who.
    pub(crate) target: Target,
    /// `None` for ICMP.
    pub(crate) port: Option<PortName>,
    /// `None` = ICMP echo.
    pub(crate) protocol: Option<Protocol>,
}

const FORMS: &str = "write a pod as NAMESPACE/NAME, a Service as svc/NAMESPACE/NAME, a node as node/NAME, an address, or world";

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "world" {
            return Ok(Target::World);
        }
        let bare = text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text);
        if let Ok(addr) = bare.parse::<IpAddr>() {
            return Ok(Target::Address(addr.to_canonical()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        let fits = |part: &&str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
        };
        if !parts.iter().all(fits) {
            return Err(format!("{text:?} names nobody; {FORMS}"));
        }
        match parts.as_slice() {
            ["svc" | "service", namespace, name] => Ok(Target::Service(ObjectKey::new(*namespace, *name))),
            ["pod", namespace, name] => Ok(Target::Pod(ObjectKey::new(*namespace, *name))),
            ["node", name] => Ok(Target::Node(NodeName::new(*name))),
            ["svc" | "service", name] => Err(format!(
                "{text:?} has no namespace; write svc/NAMESPACE/{name}, or pod/{text} for a pod of that namespace"
            )),
            [namespace, name] => Ok(Target::Pod(ObjectKey::new(*namespace, *name))),
            _ => Err(format!("{text:?} names nobody; {FORMS}")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Pod(key) if matches!(&*key.namespace, "node" | "svc" | "service") => {
                write!(f, "pod/{key}")
            }
            Target::Pod(key) => key.fmt(f),
            Target::Service(key) => write!(f, "svc/{key}"),
            Target::Node(name) => write!(f, "node/{name}"),
            Target::Address(addr) => addr.fmt(f),
            Target::World => f.write_str("world"),
        }
    }
}

impl FromStr for PortName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse::<i32>() {
            return Port::try_from(number).map(PortName::Number).map_err(|error| error.to_string());
        }
        // RFC 6335 §5.1.
        let is_name = !text.is_empty()
            && text.len() <= 15
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if is_name { Ok(PortName::Name(text.to_owned())) } else { Err(format!("{text:?} is no port")) }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortName::Number(port) => port.fmt(f),
            PortName::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, word)) => match protocol_of(word) {
                Some(protocol) => (rest, protocol),
                None if rest.contains(':') && !word.contains(':') => {
                    return Err(format!("{word:?} is no protocol; write TCP, UDP, SCTP or ICMP"));
                }
                None => (text, Some(Protocol::Tcp)),
            },
            None => (text, Some(Protocol::Tcp)),
        };
        if protocol.is_none() {
            return Ok(Self { target: rest.parse()?, port: None, protocol });
        }
        let no_port =
            || format!("{text:?} has no port; write DST:PORT, as in shop/web-0:80 or [fd00::1]:80/UDP");
        let (target, port) = rest.rsplit_once(':').ok_or_else(no_port)?;
        // Of an address without brackets the last part could be either.
        if target.contains(':') && !target.starts_with('[') {
            return Err(format!("{text:?}: write an IPv6 address in brackets, as in [fd00::1]:80"));
        }
        Ok(Self { target: target.parse()?, port: Some(port.parse()?), protocol })
    }
}

/// `Some(None)` is ICMP.
pub(crate) fn protocol_of(word: &str) -> Option<Option<Protocol>> {
    match word.to_ascii_uppercase().as_str() {
        "TCP" => Some(Some(Protocol::Tcp)),
        "UDP" => Some(Some(Protocol::Udp)),
        "SCTP" => Some(Some(Protocol::Sctp)),
        "ICMP" => Some(None),
        _ => None,
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, &self.port) {
            (Target::Address(IpAddr::V6(addr)), Some(_)) => write!(f, "[{addr}]")?,
            (target, _) => target.fmt(f)?,
        }
        if let Some(port) = &self.port {
            write!(f, ":{port}")?;
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => f.write_str("/ICMP"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn ends_are_read_as_they_are_written() {
        for (text, same) in [
            ("shop/web-0", "shop/web-0"),
            ("pod/shop/web-0", "shop/web-0"),
            ("pod/node/web-0", "pod/node/web-0"),
            ("svc/shop/web", "svc/shop/web"),
            ("service/shop/web", "svc/shop/web"),
            ("node/node-1", "node/node-1"),
            ("10.0.0.1", "10.0.0.1"),
            ("[fd00::1]", "fd00::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("world", "world"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), same);
        }
        for wrong in ["", "web-0", "svc/web", "a/b/c", "shop/", "shop/Web", "shop/web?x", "10.0.0"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn destinations_have_a_port_and_a_protocol() {
        for (text, same) in [
            ("shop/web-0:80", "shop/web-0:80/TCP"),
            ("shop/web-0:http", "shop/web-0:http/TCP"),
            ("shop/web-0:53/udp", "shop/web-0:53/UDP"),
            ("shop/web-0/icmp", "shop/web-0/ICMP"),
            ("svc/shop/web:80", "svc/shop/web:80/TCP"),
            ("[fd00::1]:80/SCTP", "[fd00::1]:80/SCTP"),
            ("10.0.0.1:443", "10.0.0.1:443/TCP"),
            ("fd00::1/ICMP", "fd00::1/ICMP"),
            ("world:443", "world:443/TCP"),
        ] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), same);
        }
        for wrong in
            ["shop/web-0", "shop/web-0:0", "shop/web-0:70000", "fd00::1:80", "shop/web-0:80/GRE", "world"]
        {
            assert!(wrong.parse::<Destination>().is_err(), "{wrong}");
        }
    }
}
