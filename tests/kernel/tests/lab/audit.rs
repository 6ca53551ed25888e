//! A namespace in audit, and the end of it.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use sheetbend_kernel_tests::lab::Lab;

use crate::data;

/// A line to the database each 200 ms on one connection, until one has no answer.
const CONVERSATION: &str = "exec 3<>/dev/tcp/db.shop.svc.cluster.local/5432 || exit 9; \
     while echo >&3 && read -t 3 -u 3 line; do echo answered; sleep 0.2; done; echo cut";

pub(crate) fn namespace() -> anyhow::Result<()> {
    let lab = Lab::new("ku")?;
    let manifests = data("audit.yaml");
    lab.expect(0, "up", &["-f", &manifests])?;
    let matrix = lab.json("matrix", &["-o", "json"])?;
    ensure!(observed(&matrix, "partners/reader", "shop/db")? == "allow", "audit denies");
    ensure!(
        observed(&matrix, "shop/web", "partners/guarded")? == "deny",
        "audit opens pods that are not in it"
    );

    let (why, _) = lab.ask("policy", 0, &["why", "partners/reader", "shop/db:5432"])?;
    ensure!(why.contains("allowed: audit (would be denied by default"), "{why}");
    let event = told(&lab)?;
    ensure!(event["verdict"] == "audited" && event["reason"] == "policy_audited", "{event}");
    ensure!(event["source"]["name"] == "partners/reader", "{event}");
    ensure!(event["decidedBy"]["policy"]["name"] == "database-for-web", "{event}");

    let mut talk = lab.begin(&["partners/reader", "--", "bash", "-c", CONVERSATION])?;
    let mut lines = BufReader::new(talk.stdout.take().context("no output")?).lines();
    ensure!(lines.next().context("no line")?? == "answered");
    // The end of audit is what a comparison says, and cuts what passed by it alone.
    let enforced = lab.dir().join("enforced.yaml");
    let written = std::fs::read_to_string(&manifests)?;
    std::fs::write(&enforced, written.replace("enforcement: audit", "enforcement: enforced"))?;
    let enforced = enforced.to_str().context("the lab's directory has an odd name")?;
    let (change, _) = lab.ask("policy", 1, &["diff", "-o", "json", "-f", enforced])?;
    let change: Value = serde_json::from_str(&change)?;
    ensure!(change["opens"] == 0, "{change}");
    let message =
        "allowed in audit, would be denied by default: no rule of NetworkPolicy shop/database-for-web";
    let said = change["changes"][0]["before"]["message"].as_str().context("no change")?;
    ensure!(said.starts_with(message), "{change}");
    lab.expect(0, "apply", &["-f", enforced])?;
    let last = lines.last().context("no line")??;
    ensure!(last == "cut", "the connection goes on: {last}");
    talk.wait()?;
    let matrix = lab.json("matrix", &["-o", "json"])?;
    ensure!(observed(&matrix, "partners/reader", "shop/db")? == "deny", "the policy is not enforced");
    Ok(())
}

/// What `sheetbend monitor --drops` says first of an attempt of the reader's.
fn told(lab: &Lab) -> anyhow::Result<Value> {
    std::thread::scope(|scope| {
        let arguments = ["--drops", "--count", "1", "-o", "json", "--pod", "partners/reader"];
        let monitor = scope.spawn(move || lab.ask("monitor", 0, &arguments));
        let attempt = "exec 3<>/dev/tcp/db.shop.svc.cluster.local/5432";
        for _ in 0..100 {
            if monitor.is_finished() {
                break;
            }
            lab.expect(0, "exec", &["partners/reader", "--", "timeout", "2", "bash", "-c", attempt])?;
            std::thread::sleep(Duration::from_millis(100));
        }
        let (out, _) = monitor.join().map_err(|_| anyhow::anyhow!("the monitor's thread panicked"))??;
        Ok(serde_json::from_str(&out)?)
    })
}

/// What a pod sees of another, in both families alike, where the whole matrix is as expected.
fn observed(matrix: &Value, source: &str, destination: &str) -> anyhow::Result<String> {
    ensure!(matrix["summary"]["mismatches"] == 0, "{}", matrix["summary"]);
    let cells = matrix["cells"].as_array().context("no cells")?;
    let of = |cell: &&Value| {
        cell["source"] == source
            && cell["destination"] == destination
            && cell["service"].is_null()
            && (&cell["protocol"], &cell["port"]) == (&"TCP".into(), &5432.into())
    };
    let mut seen: Vec<&str> = cells.iter().filter(of).filter_map(|cell| cell["observed"].as_str()).collect();
    ensure!(seen.len() == 2, "{source} to {destination}: {seen:?}");
    seen.dedup();
    ensure!(seen.len() == 1, "{source} to {destination}: {seen:?}");
    Ok(seen.concat())
}
