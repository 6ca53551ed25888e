//! The result of ADD in each version's shape (CNI 1.1.0, "ADD Success"; CNI 0.4.0, "Result").

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use sheetbend_cni_wire::{Added, Interface};

use crate::version::Version;

/// Place of the pod's end in `interfaces`.
const POD: usize = 1;

/// One line of JSON.
pub(crate) fn text(added: &Added, netns: &str, dns: &Value, version: Version) -> String {
    let ips: Vec<Value> = added
        .addresses
        .iter()
        .map(|ip| {
            let (bits, family) = match ip.address {
                IpAddr::V4(_) => (32, "4"),
                IpAddr::V6(_) => (128, "6"),
            };
            let mut json = json!({ "address": format!("{}/{bits}", ip.address), "gateway": ip.gateway, "interface": POD });
            if version < Version::V1_0_0 {
                json["version"] = family.into();
            }
            json
        })
        .collect();
    let routes: Vec<Value> = added
        .addresses
        .iter()
        .map(|ip| json!({ "dst": if ip.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, "gw": ip.gateway }))
        .collect();
    let result = json!({
        "cniVersion": version.text(),
        "interfaces": [interface(&added.host, None, version), interface(&added.pod, Some(netns), version)],
        "ips": ips,
        "routes": routes,
        "dns": dns,
    });
    format!("{result}\n")
}

fn interface(end: &Interface, sandbox: Option<&str>, version: Version) -> Value {
    let mut json = Map::new();
    json.insert("name".to_owned(), end.name.as_str().into());
    json.insert("mac".to_owned(), end.mac.as_str().into());
    if let Some(path) = sandbox {
        json.insert("sandbox".to_owned(), path.into());
    }
    if version >= Version::V1_1_0 {
        json.insert("mtu".to_owned(), end.mtu.into());
    }
    Value::Object(json)
}
