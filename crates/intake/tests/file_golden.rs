//! Cases in the user's words: `testdata/*/*.txt` hold manifests and what comes of them. `UPDATE=1 cargo test` rewrites
//! the outcome; review the diff.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::discovery::v1::Endpoint;
use sheetbend_intake::file::{
    Assigned, Cluster, Expanded, Manifests, Object, Source, build_endpoint_slices, expand, parse,
};
use sheetbend_model::types::NodeName;

/// The line before what comes of the case.
const WANT: &str = "-- want --\n";

/// Splits a case into its files (`-- name --` lines) and runs `outcome` on them.
fn golden(folder: &str, outcome: fn(&[Source]) -> String) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(folder);
    let mut cases: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", dir.display());
    let mut differ = Vec::new();
    for case in cases {
        let text = fs::read_to_string(&case).unwrap();
        let (input, want) = text.split_once(WANT).unwrap_or((&text, ""));
        let got = outcome(&sources(input));
        if got == want {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            let separator = if input.ends_with('\n') { "" } else { "\n" };
            fs::write(&case, format!("{input}{separator}{WANT}{got}")).unwrap();
        } else {
            differ.push(format!("{}:\n--- want\n{want}--- got\n{got}", case.display()));
        }
    }
    assert!(differ.is_empty(), "UPDATE=1 cargo test rewrites:\n{}", differ.join("\n"));
}

fn sources(input: &str) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for line in input.split_inclusive('\n') {
        let name = line.trim_end().strip_prefix("-- ").and_then(|line| line.strip_suffix(" --"));
        if let Some(name) = name {
            sources.push(Source { name: Path::new(name).into(), bytes: Vec::new() });
        } else if let Some(source) = sources.last_mut() {
            source.bytes.extend_from_slice(line.as_bytes());
        }
    }
    sources
}

fn lines<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

/// Everything that is said about manifests.
fn said(manifests: &Manifests) -> String {
    let objects: String = manifests.objects.keys().map(|id| format!("{id}\n")).collect();
    format!("{objects}{}{}", lines(&manifests.skipped), lines(&manifests.notices))
}

#[test]
fn errors() {
    golden("errors", |sources| match parse(sources) {
        Ok(manifests) => said(&manifests),
        Err(errors) => lines(&errors),
    });
}

#[test]
fn expansion() {
    golden("expand", |sources| {
        let manifests = match parse(sources) {
            Ok(manifests) => manifests,
            Err(errors) => return lines(&errors),
        };
        let cluster = Cluster {
            nodes: vec![NodeName::new("node-1"), NodeName::new("node-2")],
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            keep_addresses: false,
        };
        let expanded = match expand(&manifests, &cluster, &Assigned::default()) {
            Ok(expanded) => expanded,
            Err(errors) => return lines(&errors),
        };
        let again = expand(&manifests, &cluster, &Assigned::of(expanded.objects.values())).unwrap();
        assert_eq!(expanded.objects, again.objects, "expanding again with what was assigned changes nothing");
        described(&expanded)
    });
}

/// A line per object, with what expansion decides.
fn described(expanded: &Expanded) -> String {
    let mut text = String::new();
    for (id, object) in &expanded.objects {
        write!(text, "{id}").unwrap();
        if let Object::Pod(pod) = object {
            let node = pod.spec.as_ref().unwrap().node_name.as_deref().unwrap_or("no node");
            let owner = pod.metadata.owner_references.iter().flatten().next();
            let owner = owner.map_or("nobody".to_owned(), |owner| format!("{} {}", owner.kind, owner.name));
            write!(text, " on {node}, owner {owner}{}", labels(object)).unwrap();
        } else if let Object::Service(service) = object {
            let spec = service.spec.as_ref().unwrap();
            let list =
                |items: &Option<Vec<String>>| items.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
            write!(text, " at [{}] families [{}]", list(&spec.cluster_ips), list(&spec.ip_families)).unwrap();
        } else {
            write!(text, "{}", labels(object)).unwrap();
        }
        text.push('\n');
    }
    text.push_str(&lines(&expanded.notices));
    text
}

fn labels(object: &Object) -> String {
    let labels = object.metadata().labels.iter().flatten();
    labels.map(|(key, value)| format!(" {key}={value}")).collect()
}

/// ` for NAME,…` of the zones and nodes that `endpoint` is meant for.
fn hints(endpoint: &Endpoint) -> String {
    let Some(hints) = &endpoint.hints else { return String::new() };
    let zones = hints.for_zones.iter().flatten().map(|zone| format!("zone {}", zone.name));
    let nodes = hints.for_nodes.iter().flatten().map(|node| format!("node {}", node.name));
    format!(" for {}", zones.chain(nodes).collect::<Vec<_>>().join(", "))
}

#[test]
fn endpoint_slices() {
    golden("slices", |sources| {
        let manifests = match parse(sources) {
            Ok(manifests) => manifests,
            Err(errors) => return lines(&errors),
        };
        let objects = || manifests.objects.values().map(|manifest| &*manifest.object);
        let pods =
            || objects().filter_map(|object| if let Object::Pod(pod) = object { Some(&**pod) } else { None });
        let nodes = || {
            objects().filter_map(|object| if let Object::Node(node) = object { Some(&**node) } else { None })
        };
        let mut text = String::new();
        for object in objects() {
            let Object::Service(service) = object else { continue };
            writeln!(text, "{}", object.id()).unwrap();
            for slice in build_endpoint_slices(service, pods(), nodes()) {
                let ports = slice.ports.iter().flatten().map(|port| {
                    let (name, protocol) = (port.name.as_deref().unwrap(), port.protocol.as_deref().unwrap());
                    format!(" {name}={}/{protocol}", port.port.unwrap())
                });
                let name = slice.metadata.name.as_deref().unwrap();
                writeln!(text, "  {name} {}{}", slice.address_type, ports.collect::<String>()).unwrap();
                for endpoint in &slice.endpoints {
                    let conditions = endpoint.conditions.as_ref().unwrap();
                    let flag = |on: Option<bool>, word: &str| {
                        if on == Some(true) { format!(" {word}") } else { String::new() }
                    };
                    let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()).unwrap();
                    writeln!(
                        text,
                        "    {} {pod} on {}{}{}{}{}",
                        endpoint.addresses.join(","),
                        endpoint.node_name.as_deref().unwrap_or("-"),
                        flag(conditions.ready, "ready"),
                        flag(conditions.serving, "serving"),
                        flag(conditions.terminating, "terminating"),
                        hints(endpoint),
                    )
                    .unwrap();
                }
            }
        }
        text
    });
}
