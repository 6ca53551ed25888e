//! What `sheetbend policy why` says, beside what sockets saw.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde_json::Value;
use sheetbend_kernel_tests::lab::Lab;

use crate::data;

/// So many cells of the matrix are asked about.
const CELLS: &str = "400";

pub(crate) fn policies() -> anyhow::Result<()> {
    let lab = Lab::new("ke")?;
    let tenants = format!("{}/../../examples/tenants", env!("CARGO_MANIFEST_DIR"));
    lab.expect(0, "up", &["-f", &tenants, "-f", &data("cluster.yaml")])?;
    let matrix = lab.json("matrix", &["-o", "json", "--sample", CELLS])?;
    let mut seen: BTreeMap<(String, String), usize> = BTreeMap::new();
    for cell in matrix["cells"].as_array().context("no cells")? {
        let word = |name: &str| cell[name].as_str().unwrap_or_default().to_owned();
        let source = cell["source"].as_str().context("no source")?;
        // The matrix calls whoever is outside so.
        let outside = source.strip_prefix("world/");
        // To a Service from outside the peer may be a node, by the way that the packet took.
        if word("observed") == "skipped" || (outside.is_some() && !cell["service"].is_null()) {
            continue;
        }
        let source = outside.unwrap_or(source);
        let why = why(&lab, source, cell)?;
        let verdict = why["verdict"].as_str().context("no verdict")?;
        let denied = word("observed") == "deny";
        ensure!(verdict == "mixed" || denied == (verdict == "deny"), "{cell:#} is explained so: {why:#}");
        // What policies let go to addresses that no Service has is dropped all the same.
        if verdict == "deny" && word("reason") != "no_such_service" {
            same_rule(cell, &why)?;
        }
        ensure!(
            word("reason") != "no_service_port" || verdict == "refuse",
            "{cell:#} is explained so: {why:#}"
        );
        *seen.entry((word("family"), verdict.to_owned())).or_default() += 1;
    }
    for family in ["IPv4", "IPv6"] {
        for verdict in ["allow", "deny"] {
            let count = seen.get(&(family.to_owned(), verdict.to_owned())).copied().unwrap_or_default();
            ensure!(count >= 10, "{count} cells of {family} are explained as {verdict}: {seen:?}");
        }
    }
    let (text, _) = lab.ask("policy", 0, &["why", "default/other", "svc/shop/web:http"])?;
    ensure!(text.contains("nearest: shop/web ingress[0]") && !text.contains('\u{1b}'), "{text}");
    let (_, error) = lab.ask("policy", 4, &["why", "default/othr", "shop/client:1"])?;
    ensure!(error.contains("did you mean default/other?"), "{error}");
    let (found, _) = lab.ask("policy", 1, &["lint"])?;
    ensure!(found.contains("SBP007"), "the tenants may not reach nodes, where the lab's names are: {found}");
    Ok(())
}

fn why(lab: &Lab, source: &str, cell: &Value) -> anyhow::Result<Value> {
    let address = cell["address"].as_str().context("no address")?;
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    let protocol = cell["protocol"].as_str().context("no protocol")?;
    let destination = match protocol {
        "ICMP" => format!("{address}/ICMP"),
        _ => format!("{address}:{}/{protocol}", cell["port"]),
    };
    let (out, _) = lab.ask("policy", 0, &["why", source, &destination, "-o", "json"])?;
    Ok(serde_json::from_str(&out)?)
}

/// The rule that the kernel's drop named is the one that is said to decide.
fn same_rule(cell: &Value, why: &Value) -> anyhow::Result<()> {
    let named = &cell["decidedBy"];
    let sides = why["paths"]
        .as_array()
        .context("no paths")?
        .iter()
        .map(|path| if path["egress"]["verdict"] == "deny" { &path["egress"] } else { &path["ingress"] });
    let same = |side: &Value| {
        let by = &side["decidedBy"];
        if named["rule"].is_null() {
            by.is_null() && side["selectedBy"] == named["selectedBy"]
        } else {
            by["policy"] == named["policy"] && by["rule"] == named["rule"]
        }
    };
    let mut sides = sides.filter(|side| side["direction"] == named["direction"]);
    ensure!(sides.any(same), "{cell:#} is explained so: {why:#}");
    Ok(())
}
