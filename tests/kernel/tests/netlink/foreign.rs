//! Rules of others that drop what our programs hand to the stack are found and named; none is changed.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sheetbend_apply::netlink::{ForeignDrop, foreign_drops};
use sheetbend_kernel_tests::netlink::Netns;

pub(crate) const TESTS: &[crate::Test] = &[
    ("foreign::dropping_rules_are_named", dropping_rules_are_named),
    ("foreign::harmless_rules_are_not", harmless_rules_are_not),
];

const DROPPING: &str = "
table ip filter {
    chain FORWARD { type filter hook forward priority 0; policy drop; }
}
table ip6 filter {
    chain FORWARD { type filter hook forward priority 0; policy drop; }
}
table inet proxy {
    chain forward { type filter hook forward priority 0; policy accept; ct state invalid drop; }
}
";

const HARMLESS: &str = "
table ip filter {
    chain INPUT { type filter hook input priority 0; policy drop; ct state invalid accept; }
}
table ip6 filter {
    chain FORWARD { type filter hook forward priority 0; policy accept; ct state established drop; }
}
table bridge filter {
    chain forward { type filter hook forward priority 0; policy drop; }
}
table inet proxy {
    chain loose { tcp dport 22 drop; }
}
";

fn load(node: &Netns, rules: &str) -> Result<()> {
    node.run(|| {
        let mut nft =
            Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("cannot run nft")?;
        nft.stdin.take().context("nft has no input")?.write_all(rules.as_bytes())?;
        ensure!(nft.wait()?.success(), "nft refuses the test's rules");
        Ok(())
    })
}

fn found(node: &Netns) -> Result<Vec<ForeignDrop>> {
    node.run(|| Ok(foreign_drops()?))
}

fn dropping_rules_are_named() -> Result<()> {
    let node = Netns::new()?;
    ensure!(found(&node)?.is_empty(), "an empty namespace has rules: {:?}", found(&node)?);
    load(&node, DROPPING)?;
    let drops = found(&node)?;
    let policies: Vec<_> = drops
        .iter()
        .filter_map(|drop| match drop {
            ForeignDrop::Policy { family, table, chain } => Some((*family, table.as_str(), chain.as_str())),
            ForeignDrop::Invalid { .. } | ForeignDrop::Legacy { .. } => None,
        })
        .collect();
    ensure!(policies == [("ip", "filter", "FORWARD"), ("ip6", "filter", "FORWARD")], "{drops:?}");
    let invalid: Vec<_> = drops.iter().filter(|drop| matches!(drop, ForeignDrop::Invalid { .. })).collect();
    ensure!(invalid.len() == 1, "{drops:?}");
    let text = invalid[0].to_string();
    let handle = text.split("handle ").nth(1).and_then(|rest| rest.split(':').next()).context("no handle")?;
    // What the text advises works.
    load(&node, &format!("delete rule inet proxy forward handle {handle}"))?;
    ensure!(found(&node)?.len() == 2, "still there: {:?}", found(&node)?);
    Ok(())
}

fn harmless_rules_are_not() -> Result<()> {
    let node = Netns::new()?;
    load(&node, HARMLESS)?;
    let drops = found(&node)?;
    ensure!(drops.is_empty(), "{drops:?}");
    Ok(())
}
