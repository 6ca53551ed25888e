//! The network configuration on standard input (CNI 1.1.0, "Network configuration format").

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value};
use sheetbend_cni_wire::{AttachmentRef, Bandwidth, CniError, DEFAULT_RUN_DIR, code};

use crate::agent::Place;
use crate::environment::is_identifier;
use crate::nearest::nearest;
use crate::version::Version;

/// Ours.
const OWN_KEYS: [&str; 2] = ["socket", "runDir"];
/// The specification's, as far as a plugin may get them.
const STANDARD_KEYS: [&str; 14] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "dns",
    "ipMasq",
    "ipam",
    "prevResult",
    "runtimeConfig",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
];
/// The capability that we have.
const BANDWIDTH: &str = "bandwidth";
/// Of GC. The second name is what libcni sends besides, from a draft.
const VALID_ATTACHMENTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// The configuration as JSON, its version known.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) version: Version,
    json: Map<String, Value>,
}

fn invalid(msg: impl Into<String>, details: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_CONFIG, msg, details)
}

impl Config {
    /// # Errors
    /// With the version to answer in.
    pub(crate) fn parse(stdin: &[u8]) -> Result<Self, (Version, CniError)> {
        let error = |error: CniError| (Version::NEWEST, error);
        let json: Value = serde_json::from_slice(stdin).map_err(|why| {
            error(CniError::new(
                code::DECODE,
                format!("the network configuration is not JSON: {why}"),
                "see /etc/cni/net.d",
            ))
        })?;
        let Value::Object(json) = json else {
            return Err(error(CniError::new(
                code::DECODE,
                "the network configuration is no JSON object",
                "see /etc/cni/net.d",
            )));
        };
        let asked = json.get("cniVersion").and_then(Value::as_str).unwrap_or("0.1.0");
        let Some(version) = Version::parse(asked) else {
            let details = format!("this plugin speaks {}", Version::ALL.map(Version::text).join(", "));
            let msg = format!("cniVersion {asked} is not supported");
            return Err(error(CniError::new(code::INCOMPATIBLE_VERSION, msg, details)));
        };
        Ok(Self { version, json })
    }

    fn text(&self, key: &str) -> Result<Option<&str>, CniError> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(invalid(format!("{key} is {other}"), "it must be a string")),
        }
    }

    /// Where the agent is. Also DEL needs it, whatever else is wrong.
    pub(crate) fn place(&self) -> Result<Place, CniError> {
        let run_dir = PathBuf::from(self.text("runDir")?.unwrap_or(DEFAULT_RUN_DIR));
        let socket = self.text("socket")?.map_or_else(|| run_dir.join("cni.sock"), PathBuf::from);
        Ok(Place { socket, run_dir })
    }

    /// Everything that would be ignored silently is refused by name.
    pub(crate) fn check_keys(&self) -> Result<(), CniError> {
        match self.text("name")? {
            Some(name) if is_identifier(name) => {}
            Some(name) => {
                return Err(invalid(
                    format!("name is {name:?}"),
                    "it must begin with a letter or digit and go on with letters, digits, '_', '.' or '-'",
                ));
            }
            None => return Err(invalid("the network has no name", "add \"name\"")),
        }
        for key in self.json.keys() {
            // Keys with a domain belong to somebody else ("cni.dev/…").
            let known = OWN_KEYS.contains(&key.as_str())
                || STANDARD_KEYS.contains(&key.as_str())
                || key.contains('/');
            if !known {
                let all: Vec<&str> = OWN_KEYS.iter().chain(&STANDARD_KEYS).copied().collect();
                let hint = nearest(key, &all).map(|known| format!("did you mean {known}?"));
                return Err(invalid(
                    format!("unknown key {key}"),
                    hint.unwrap_or_else(|| "remove it".to_owned()),
                ));
            }
        }
        if let Some(Value::Object(ipam)) = self.json.get("ipam")
            && !ipam.is_empty()
        {
            return Err(invalid("ipam is set", "addresses come from the Node's podCIDRs; remove ipam"));
        }
        if self.json.get("ipMasq") == Some(&Value::Bool(false)) {
            return Err(invalid(
                "ipMasq is false",
                "masquerade is set in the agent's network.nonMasqueradeCIDRs; remove ipMasq",
            ));
        }
        Ok(())
    }

    /// `runtimeConfig.bandwidth` (CNI conventions).
    pub(crate) fn bandwidth(&self) -> Result<Bandwidth, CniError> {
        let wanted = self.json.get("runtimeConfig").and_then(|config| config.get(BANDWIDTH));
        let Some(wanted) = wanted.filter(|wanted| !wanted.is_null()) else { return Ok(Bandwidth::default()) };
        serde_json::from_value(wanted.clone()).map_err(|why| {
            let details = "it has ingressRate, ingressBurst, egressRate and egressBurst, each in bits";
            invalid(format!("runtimeConfig.bandwidth is {wanted}: {why}"), details)
        })
    }

    /// Capabilities that a runtime asks for in `runtimeConfig`: none that is not built may be ignored.
    pub(crate) fn check_capabilities(&self) -> Result<(), CniError> {
        let Some(Value::Object(wanted)) = self.json.get("runtimeConfig") else { return Ok(()) };
        for (key, value) in wanted.iter().filter(|(key, _)| *key != BANDWIDTH) {
            let empty = match value {
                Value::Null => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::String(text) => text.is_empty(),
                Value::Bool(_) | Value::Number(_) => false,
            };
            if !empty {
                let details =
                    format!("this version cannot do it; remove it from the pod, or {key} from capabilities");
                return Err(invalid(format!("runtimeConfig.{key} is not supported: {value}"), details));
            }
        }
        Ok(())
    }

    /// The addresses in `args.cni.ips` (CNI conventions): `addr` or `addr/len`.
    pub(crate) fn requested(&self) -> Result<Vec<IpAddr>, CniError> {
        let args = self.json.get("args").and_then(|args| args.get("cni")).and_then(|cni| cni.get("ips"));
        let Some(list) = args else { return Ok(Vec::new()) };
        let wrong =
            |what: &Value| invalid(format!("args.cni.ips has {what}"), "it must be a list of addresses");
        let mut requested: Vec<IpAddr> = Vec::new();
        for entry in list.as_array().ok_or_else(|| wrong(list))? {
            let addr = entry.as_str().and_then(address).ok_or_else(|| wrong(entry))?;
            if requested.iter().any(|other| other.is_ipv4() == addr.is_ipv4()) {
                return Err(invalid(
                    "args.cni.ips has two addresses of one family",
                    "a pod has one address per family",
                ));
            }
            requested.push(addr);
        }
        Ok(requested)
    }

    pub(crate) fn dns(&self) -> Value {
        self.json
            .get("dns")
            .filter(|dns| dns.is_object())
            .cloned()
            .unwrap_or_else(|| Value::Object(Map::new()))
    }

    pub(crate) fn has_prev_result(&self) -> bool {
        self.json.get("prevResult").is_some_and(|result| !result.is_null())
    }

    /// What `prevResult` says of the pod's interface `ifname`: addresses and Ethernet address.
    pub(crate) fn prev_result(&self, ifname: &str) -> Result<(BTreeSet<IpAddr>, Option<String>), CniError> {
        let Some(result) = self.json.get("prevResult").filter(|result| !result.is_null()) else {
            return Err(invalid("prevResult is missing", "CHECK compares with what ADD returned"));
        };
        let list =
            |key: &str| result.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let in_pod = |interface: &Value| {
            let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
            text("name") == ifname && !text("sandbox").is_empty()
        };
        let Some(ours) = list("interfaces").iter().position(in_pod) else {
            return Err(invalid(
                format!("prevResult has no interface {ifname}"),
                "pass what ADD returned, unchanged",
            ));
        };
        let mac = list("interfaces")[ours].get("mac").and_then(Value::as_str).map(str::to_lowercase);
        let mut addresses = BTreeSet::new();
        for ip in list("ips") {
            if ip.get("interface").and_then(Value::as_u64).is_none_or(|index| index == ours as u64) {
                let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
                let addr = address(text).ok_or_else(|| {
                    invalid(format!("prevResult has the address {text:?}"), "pass what ADD returned")
                })?;
                addresses.insert(addr);
            }
        }
        Ok((addresses, mac))
    }

    /// `cni.dev/valid-attachments` of GC. An empty list removes every attachment; a missing one is refused, since it
    /// would do the same by mistake.
    pub(crate) fn valid_attachments(&self) -> Result<BTreeSet<AttachmentRef>, CniError> {
        let [key, _] = VALID_ATTACHMENTS;
        let Some(list) = VALID_ATTACHMENTS.iter().find_map(|key| self.json.get(*key)) else {
            let details = "without it every pod would lose its network; pass [] if that is meant";
            return Err(invalid(format!("{key} is missing"), details));
        };
        let wrong =
            || invalid(format!("{key} is {list}"), "it must be a list of {\"containerID\", \"ifname\"}");
        let entries = match list {
            Value::Null => return Ok(BTreeSet::new()), // Go's way to write an empty list
            Value::Array(entries) => entries,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => return Err(wrong()),
        };
        entries
            .iter()
            .map(|entry| {
                let text = |key: &str| entry.get(key)?.as_str().map(str::to_owned);
                let (container_id, ifname) = text("containerID").zip(text("ifname")).ok_or_else(wrong)?;
                Ok(AttachmentRef { container_id, ifname })
            })
            .collect()
    }
}

fn address(text: &str) -> Option<IpAddr> {
    text.split_once('/').map_or(text, |(addr, _)| addr).parse().ok()
}
