//! Namespaces that their labels, or a Tenant, close.

use anyhow::{Context, ensure};
use sheetbend_kernel_tests::lab::Lab;

use crate::data;

/// (source, destination, verdict).
const WANTED: [(&str, &str, &str); 9] = [
    ("blue-web/web", "blue-data/data", "allow"),
    ("red/one", "red/two", "allow"),
    ("blue-web/web", "red/one", "deny"),
    ("red/one", "blue-web/web", "deny"),
    ("vault/safe", "open/anybody", "deny"),
    ("blue-web/web", "open/anybody", "deny"),
    ("open/anybody", "blue-web/web", "deny"),
    ("open/anybody", "vault/safe", "allow"),
    ("red/one", "vault/safe", "deny"),
];

pub(crate) fn namespaces() -> anyhow::Result<()> {
    let lab = Lab::new("ki")?;
    lab.expect(0, "up", &["-f", &data("isolation.yaml")])?;
    let matrix = lab.json("matrix", &["-o", "json"])?;
    ensure!(matrix["summary"]["mismatches"] == 0, "{}", matrix["summary"]);
    let cells = matrix["cells"].as_array().context("no cells")?;
    for (source, destination, verdict) in WANTED {
        for family in ["IPv4", "IPv6"] {
            // One that listens: others refuse where they may be asked.
            let port = if destination == "blue-data/data" { 5432 } else { 8080 };
            let cell = cells.iter().find(|cell| {
                let of = cell["source"] == source && cell["destination"] == destination;
                of && cell["service"].is_null()
                    && cell["family"] == family
                    && (&cell["protocol"], &cell["port"]) == (&"TCP".into(), &port.into())
            });
            let seen = &cell.with_context(|| format!("{source} to {destination} over {family}"))?["observed"];
            ensure!(seen == verdict, "{source} to {destination} over {family}: {seen}");
        }
    }
    // Names resolve all the same.
    for pod in ["blue-web/web", "red/one", "vault/safe"] {
        let question = [pod, "--", "getent", "ahostsv4", "kube-dns.kube-system"];
        let (out, _) = lab.expect(0, "exec", &question)?;
        ensure!(out.contains("10.96."), "{pod}: {out}");
    }
    let (text, _) = lab.ask("policy", 0, &["why", "red/one", "blue-web/web:8080"])?;
    ensure!(text.contains("red/sheetbend.dev/isolation"), "{text}");
    Ok(())
}
