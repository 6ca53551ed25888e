//! Each question of `testdata/dns/answers.txt` gets the answer beside it, over both families and both transports.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::server::{ADDRESSES, World, testdata};

pub(crate) fn dig_gets_the_answers_of_the_specification() -> Result<()> {
    let mut world = World::new()?;
    world.start(&[])?;
    let path = testdata("answers.txt");
    let wanted = fs::read_to_string(&path)?;
    let mut ways = Vec::new();
    for server in ADDRESSES {
        for transport in ["+notcp", "+tcp"] {
            ways.push([format!("@{server}"), transport.to_owned()]);
        }
    }
    for way in &ways {
        let mut found = String::new();
        for line in wanted.lines() {
            match line.strip_prefix("? ") {
                Some(question) => found += &format!("{line}\n{}", answer(&world, way, question)?),
                None if line.starts_with('#') || line.is_empty() => found += &format!("{line}\n"),
                None => {}
            }
        }
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &found)?;
        } else {
            ensure!(
                found == wanted,
                "{way:?}: UPDATE=1 writes {}\n{}",
                path.display(),
                difference(&wanted, &found)
            );
        }
    }
    Ok(())
}

/// Status, then the records, sorted, for their order changes.
fn answer(world: &World, way: &[String], question: &str) -> Result<String> {
    let mut arguments: Vec<&str> = way.iter().map(String::as_str).collect();
    arguments.extend(question.split_whitespace());
    let said = world.dig(&arguments)?;
    let status = said.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
    let status = status.with_context(|| format!("dig {arguments:?}:\n{said}"))?;
    let flags = said.split("flags: ").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default();
    let mut records: Vec<String> = said
        .lines()
        .filter(|line| !line.starts_with(';') && !line.trim().is_empty())
        .map(|line| format!("  {}\n", record(line)))
        .collect();
    records.sort();
    Ok(format!("  {status} {flags}\n{}", records.concat()))
}

/// One record, its words apart by one space. A SOA's serial, which is the time, is left out.
fn record(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if words.get(3) == Some(&"SOA") && words.len() == 11 {
        words[6] = "SERIAL";
    }
    words.join(" ")
}

fn difference(wanted: &str, found: &str) -> String {
    let (wanted, found): (Vec<&str>, Vec<&str>) = (wanted.lines().collect(), found.lines().collect());
    let first = wanted.iter().zip(&found).position(|(a, b)| a != b).unwrap_or(wanted.len().min(found.len()));
    let near = |lines: &[&str]| lines[first.saturating_sub(3)..(first + 3).min(lines.len())].join("\n");
    format!("wanted:\n{}\nfound:\n{}", near(&wanted), near(&found))
}

pub(crate) fn a_change_is_served() -> Result<()> {
    let mut world = World::new()?;
    world.start(&[])?;
    let late = "apiVersion: v1\nkind: Service\nmetadata: {name: late, namespace: shop}\n\
                spec: {clusterIP: 10.96.7.9, ports: [{port: 80}]}\n";
    let status = |world: &World, name: &str| -> Result<bool> {
        Ok(world.dig(&["@127.0.0.1", name])?.contains("status: NOERROR"))
    };
    ensure!(!status(&world, "late.shop.svc.cluster.local")?);
    world.write("late.yaml", late)?;
    let start = Instant::now();
    while !status(&world, "late.shop.svc.cluster.local")? {
        ensure!(start.elapsed() < Duration::from_secs(10), "the new Service has no name");
        std::thread::sleep(Duration::from_millis(20));
    }
    world.write("late.yaml", "kind: nonsense\n")?;
    std::thread::sleep(Duration::from_millis(500));
    for name in ["late.shop.svc.cluster.local", "web.shop.svc.cluster.local"] {
        ensure!(status(&world, name)?, "{name}: the last good state stays in force");
    }
    Ok(())
}
