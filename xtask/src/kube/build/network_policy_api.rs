//! The conformance suite of ClusterNetworkPolicy, from its own module, without what needs SCTP sockets: containers that
//! open them, and probes that are one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::go::{self, Module, Program};
use crate::progress::Step;

const MODULE: &str = "sigs.k8s.io/network-policy-api";
const VERSION: &str = "v0.2.0";
/// What the suite is built from, and the resource's definition.
const PARTS: &[&str] = &["apis", "conformance", CRDS];
const CRDS: &str = "config/crd/experimental";
const CRD: &str = "policy.networking.k8s.io_clusternetworkpolicies.yaml";

/// Pods of the suite.
const MANIFESTS: &str = "conformance/base/manifests.yaml";
/// A container that opens SCTP sockets has a variable of this name.
const SERVES_SCTP: &str = "SERVE_SCTP_PORT_";

/// Where each probe begins, and what is put in front of it.
const PROBES: &str = "conformance/utils/kubernetes/helper.go";
const PROBE: &str = "func PokeServer(t *testing.T,";
const LEAVE_OUT: &str = "\tif leftOut(t, protocol) {\n\t\treturn\n\t}";
const LEFT_OUT: &str = "conformance/utils/kubernetes/left_out.go";
const LEFT_OUT_SOURCE: &str = include_str!("left_out.go");

/// What was built.
pub(in crate::kube) struct NetworkPolicyApi {
    /// The suite.
    pub(in crate::kube) program: PathBuf,
    /// The definition of the resource, experimental fields too.
    pub(in crate::kube) crd: PathBuf,
}

/// Builds the suite into `cache`.
pub(super) fn build(cache: &Path, step: &mut Step) -> Result<NetworkPolicyApi> {
    let source = go::source_of(MODULE, VERSION)?;
    let read = |path: &str| {
        let path = source.join(path);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let changed = BTreeMap::from([
        (MANIFESTS.to_owned(), without_sctp_servers(&read(MANIFESTS)?)?),
        (PROBES.to_owned(), without_sctp_probes(&read(PROBES)?)?),
        (LEFT_OUT.to_owned(), LEFT_OUT_SOURCE.to_owned()),
    ]);
    let module = Module::copy(cache, "network-policy-api", &source, VERSION, PARTS, &changed)?;
    let suite = Program {
        name: "network-policy-conformance",
        package: "sigs.k8s.io/network-policy-api/conformance",
        link: "",
        is_test: true,
    };
    Ok(NetworkPolicyApi {
        program: cache.join(module.program(cache, &suite, step)?),
        crd: source.join(CRDS).join(CRD),
    })
}

/// The manifests without containers that open SCTP sockets. They are templates, which no parser of YAML takes: a container
/// is the lines from one `- ` below `containers:` to the next line that is not further in.
fn without_sctp_servers(manifests: &str) -> Result<String> {
    let mut kept: Vec<Vec<&str>> = Vec::new();
    let mut place = None;
    for line in manifests.lines() {
        let indent = line.len() - line.trim_start().len();
        let begins = match place {
            // The list's first element tells where its elements begin.
            Some(None) => {
                place = Some(Some(indent));
                true
            }
            Some(Some(of_elements)) if indent < of_elements && !line.trim().is_empty() => {
                place = None;
                true
            }
            Some(Some(of_elements)) => indent == of_elements && line.trim_start().starts_with("- "),
            None => false,
        };
        if line.trim() == "containers:" {
            place = Some(None);
        }
        match kept.last_mut() {
            Some(lines) if !begins => lines.push(line),
            _ => kept.push(vec![line]),
        }
    }
    let before = kept.len();
    kept.retain(|lines| !lines.iter().any(|line| line.contains(SERVES_SCTP)));
    if kept.len() == before {
        bail!("no container of {MODULE} {VERSION} {MANIFESTS} has a variable {SERVES_SCTP}…; it has changed");
    }
    Ok(kept.concat().join("\n") + "\n")
}

/// The source of the probes, with a question in front of each.
fn without_sctp_probes(source: &str) -> Result<String> {
    let mut found = 0;
    let lines = source.lines().map(|line| {
        if line.starts_with(PROBE) && line.contains("protocol") && line.ends_with('{') {
            found += 1;
            format!("{line}\n{LEAVE_OUT}\n")
        } else {
            format!("{line}\n")
        }
    });
    let text: String = lines.collect();
    if found != 1 {
        bail!(
            "{MODULE} {VERSION} {PROBES} has {found} lines `{PROBE} … protocol … {{` and not one; it has changed"
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    const SET: &str = "\
spec:
  template:
    spec:
      hostNetwork: true
      containers:
        - name: client
          image: agnhost
        - name: web
          command: [\"/agnhost\"]
          ports:
            - containerPort: {{ index .HostNetworkPorts 0 }}
        - name: s-{{ index .HostNetworkPorts 6 }}
          env:
          - name: SERVE_SCTP_PORT_{{ index .HostNetworkPorts 6 }}
            value: \"foo\"
";

    #[test]
    fn only_containers_that_serve_sctp_are_left_out() {
        let two = format!("# sets\n{SET}---\n{SET}kind: StatefulSet\n");
        let text = without_sctp_servers(&two).unwrap();
        let first: String = SET.lines().take(11).map(|line| format!("{line}\n")).collect();
        assert_eq!(text, format!("# sets\n{first}---\n{first}kind: StatefulSet\n"));
        assert!(without_sctp_servers(&first).is_err());
    }

    #[test]
    fn a_probe_asks_first_whether_it_is_left_out() {
        let signature = "func PokeServer(t *testing.T, protocol, host string) {";
        let text = without_sctp_probes(&format!("package k\n\n{signature}\n\tprobe()\n}}\n")).unwrap();
        assert_eq!(
            text,
            format!(
                "package k\n\n{signature}\n\tif leftOut(t, protocol) {{\n\t\treturn\n\t}}\n\tprobe()\n}}\n"
            )
        );
        assert!(without_sctp_probes("package k\n").is_err());
    }
}
