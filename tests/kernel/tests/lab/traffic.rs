//! TrafficPolicies of both kinds on sockets.

use anyhow::{Context, ensure};
use serde_json::Value;
use sheetbend_kernel_tests::lab::Lab;

use crate::data;

/// (source, destination, port, verdict, who denies).
const WANTED: [(&str, &str, u16, &str, &str); 10] = [
    ("partners/reader", "shop/db", 5432, "allow", ""),
    ("partners/reader", "shop/db", 9000, "deny", "TrafficTier/security/database"),
    ("partners/other", "shop/db", 5432, "deny", "TrafficTier/security/database"),
    ("shop/plain", "shop/db", 5432, "deny", "TrafficTier/security/database"),
    ("shop/web", "shop/db", 5432, "allow", ""),
    ("shop/web", "shop/db", 9000, "deny", "shop/TrafficPolicy/front"),
    ("shop/web", "shop/plain", 8080, "deny", "shop/TrafficPolicy/front"),
    ("partners/other", "shop/plain", 8080, "allow", ""),
    ("shop/plain", "partners/other", 8080, "deny", "ClusterTrafficPolicy/partners-stay-out"),
    ("partners/reader", "partners/other", 8080, "allow", ""),
];

pub(crate) fn policies() -> anyhow::Result<()> {
    let lab = Lab::new("kt")?;
    lab.expect(0, "up", &["-f", &data("traffic.yaml")])?;
    what_is_logged(&lab)?;
    let matrix = lab.json("matrix", &["-o", "json"])?;
    ensure!(matrix["summary"]["mismatches"] == 0, "{}", matrix["summary"]);
    let cells = matrix["cells"].as_array().context("no cells")?;
    for (source, destination, port, verdict, by) in WANTED {
        for family in ["IPv4", "IPv6"] {
            let cell = cells.iter().find(|cell| {
                let of = cell["source"] == source && cell["destination"] == destination;
                let what = (&cell["protocol"], &cell["port"]) == (&"TCP".into(), &port.into());
                of && what && cell["service"].is_null() && cell["family"] == family
            });
            let way = format!("{source} to {destination}:{port} over {family}");
            let cell = cell.with_context(|| way.clone())?;
            ensure!(cell["observed"] == verdict, "{way}: {}", cell["observed"]);
            ensure!(by.is_empty() || cell["decidedBy"]["policy"] == by, "{way}: {}", cell["decidedBy"]);
        }
    }
    behind_the_service(cells)?;
    to_the_set(cells)?;

    let (why, _) = lab.ask("policy", 0, &["why", "shop/plain", "198.51.100.7:80"])?;
    let denied = "denied by ClusterTrafficPolicy threats, egress[0]";
    ensure!(why.contains(denied) && why.contains("(bad) Deny to NetworkSets threat=yes"), "{why}");
    let (why, _) = lab.ask("policy", 0, &["why", "partners/other", "shop/db:5432"])?;
    ensure!(why.contains("denied by default of TrafficTier security"), "{why}");
    ensure!(why.contains("service account: the peer has default, the rule asks for reader or web"), "{why}");
    Ok(())
}

/// Rules that say so are in the log of the agent whose pod was judged, whether they accept or deny.
fn what_is_logged(lab: &Lab) -> anyhow::Result<()> {
    for (pod, to) in [("shop/web", "db.shop/15432"), ("partners/other", "198.51.100.7/80")] {
        let attempt = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{to}' || true");
        lab.expect(0, "exec", &[pod, "--", "sh", "-c", &attempt])?;
    }
    let wanted = [
        ("forwarded", "by ClusterTrafficPolicy/database ingress[0]"),
        ("dropped", "by ClusterTrafficPolicy/threats egress[0]"),
    ];
    let is_there = |(verdict, by): &(&str, &str), text: &str| {
        let lines = text.lines().filter(|line| line.contains("policy log: "));
        lines.into_iter().any(|line| line.contains(verdict) && line.contains(by))
    };
    let mut text = String::new();
    for _ in 0..50 {
        text.clear();
        for entry in std::fs::read_dir(lab.dir().join("nodes"))? {
            text += &std::fs::read_to_string(entry?.path().join("agent.log"))?;
        }
        if wanted.iter().all(|line| is_there(line, &text)) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    anyhow::bail!("not all of {wanted:?} in the agents' logs:\n{text}")
}

/// The front reaches the database by its Service's port too.
fn behind_the_service(cells: &[Value]) -> anyhow::Result<()> {
    let mut behind = cells
        .iter()
        .filter(|cell| cell["source"] == "shop/web" && cell["service"] == "shop/db" && cell["port"] == 15432);
    let observed: Vec<&Value> = behind.by_ref().map(|cell| &cell["observed"]).collect();
    ensure!(observed.len() >= 2 && observed.iter().all(|of| **of == "allow"), "{observed:?}");
    Ok(())
}

/// Every pod may send to the world, but for the set.
fn to_the_set(cells: &[Value]) -> anyhow::Result<()> {
    let bad = |text: &str| text.starts_with("198.51.100.") || text.starts_with("2001:db8:0:bad:");
    for (prefix, wanted) in [("198.51.100.", "deny"), ("2001:db8:0:bad:", "deny"), ("203.0.113.", "allow")] {
        let mut met = 0;
        for cell in cells {
            let address = cell["address"].as_str().unwrap_or_default();
            let is_open = cell["source"] == "partners/other" && cell["protocol"] == "TCP";
            if !is_open || !address.starts_with(prefix) || cell["observed"] == "refuse" {
                continue;
            }
            met += 1;
            ensure!(cell["observed"] == wanted, "{cell}");
            if bad(address) {
                ensure!(cell["decidedBy"]["policy"] == "ClusterTrafficPolicy/threats", "{cell}");
            }
        }
        ensure!(met > 0, "nobody sent to {prefix}");
    }
    Ok(())
}
