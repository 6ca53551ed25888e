//! What a staged policy would change, and what a change would.

use anyhow::{Context, ensure};
use serde_json::Value;
use sheetbend_kernel_tests::lab::Lab;

use crate::data;

pub(crate) fn policies() -> anyhow::Result<()> {
    let lab = Lab::new("ks")?;
    let manifests = data("staged.yaml");
    lab.expect(0, "up", &["-f", &manifests])?;
    let database = lab.json("matrix", &["-o", "json"])?;
    ensure!(observed(&database, "partners/reader")? == "allow", "a staged policy is enforced");
    ensure!(observed(&database, "shop/web")? == "allow", "shop/web does not reach the database");
    for pod in ["shop/web", "partners/reader"] {
        let attempt = "timeout 2 bash -c 'exec 3<>/dev/tcp/db.shop/5432'";
        lab.expect(0, "exec", &[pod, "--", "sh", "-c", attempt])?;
    }

    let staged = difference(&lab, 1, &["--staged"])?;
    ensure!(closes(&staged, "partners/reader", "1-65535/TCP"), "{staged}");
    ensure!(!closes(&staged, "shop/web", "1-65535/TCP") && staged["opens"] == 0, "{staged}");
    // Events are read some ms later.
    let replayed = eventually(|| {
        let staged = difference(&lab, 1, &["--staged"])?;
        let flows = staged["flows"]["closes"].as_array().context("no flows")?.clone();
        Ok(flows.iter().any(|flow| is_flow(flow, "partners/reader")).then_some(flows))
    })?;
    let of_web = replayed.iter().any(|flow| is_flow(flow, "shop/web"));
    ensure!(!of_web, "a flow that the policy allows is said to be denied: {replayed:?}");
    let (why, _) = lab.ask("policy", 0, &["why", "partners/reader", "shop/db:5432"])?;
    ensure!(why.contains("NetworkPolicy shop/database-for-web is staged"), "{why}");

    // The same, enforced: named before, and so afterwards.
    let enforced = lab.dir().join("enforced.yaml");
    let written = std::fs::read_to_string(&manifests)?;
    std::fs::write(&enforced, written.replace("enforcement: staged", "enforcement: enforced"))?;
    let enforced = enforced.to_str().context("the lab's directory has an odd name")?;
    let change = difference(&lab, 1, &["-f", enforced])?;
    ensure!(change["changes"] == staged["changes"], "{change}\n{staged}");
    lab.expect(0, "apply", &["-f", enforced])?;
    let database = lab.json("matrix", &["-o", "json"])?;
    ensure!(observed(&database, "partners/reader")? == "deny", "an enforced policy is not enforced");
    ensure!(observed(&database, "shop/web")? == "allow", "shop/web does not reach the database");
    let none = difference(&lab, 0, &["--staged"])?;
    ensure!(none["changes"] == Value::Array(Vec::new()), "{none}");

    // What was denied would pass again.
    eventually(|| {
        let gone = difference(&lab, 1, &["--delete", "NetworkPolicy/shop/database-for-web"])?;
        let flows = gone["flows"]["opens"].as_array().context("no flows")?;
        Ok(flows.iter().any(|flow| is_flow(flow, "partners/reader")).then_some(()))
    })
}

fn difference(lab: &Lab, code: i32, arguments: &[&str]) -> anyhow::Result<Value> {
    let (out, _) = lab.ask("policy", code, &[&["diff", "-o", "json"], arguments].concat())?;
    serde_json::from_str(&out).with_context(|| format!("policy diff prints no JSON: {out}"))
}

fn closes(difference: &Value, source: &str, port: &str) -> bool {
    let changes = difference["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    changes.iter().any(|change| {
        let ports = change["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        change["effect"] == "closes"
            && has(&change["source"], source)
            && has(&change["destination"], "shop/db")
            && change["after"]["selectedBy"][0] == "shop/database-for-web"
            && ports.iter().any(|own| own == port)
    })
}

/// Whether a list of groups has one of this name.
fn has(groups: &Value, name: &str) -> bool {
    groups.as_array().is_some_and(|groups| groups.iter().any(|group| group["name"] == name))
}

fn is_flow(flow: &Value, source: &str) -> bool {
    flow["source"] == source && flow["destination"] == "shop/db" && flow["port"] == "5432/TCP"
}

/// What a pod sees of the database, in both families alike, where the whole matrix is as expected.
fn observed(matrix: &Value, source: &str) -> anyhow::Result<String> {
    ensure!(matrix["summary"]["mismatches"] == 0, "{}", matrix["summary"]);
    let cells = matrix["cells"].as_array().context("no cells")?;
    let mut seen: Vec<&str> = cells
        .iter()
        .filter(|cell| {
            cell["source"] == source
                && cell["destination"] == "shop/db"
                && cell["service"].is_null()
                && (&cell["protocol"], &cell["port"]) == (&"TCP".into(), &5432.into())
        })
        .filter_map(|cell| cell["observed"].as_str())
        .collect();
    ensure!(seen.len() == 2, "{source}: {seen:?}");
    seen.dedup();
    ensure!(seen.len() == 1, "{source}: {seen:?}");
    Ok(seen.concat())
}

fn eventually<T>(mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    for _ in 0..50 {
        if let Some(found) = look()? {
            return Ok(found);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    anyhow::bail!("it is not so after 5 s")
}
