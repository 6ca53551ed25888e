//! Services into the kernel: everything at once, and one change, from the Snapshot on.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aya::maps::MapData;
use sheetbend_apply::bpf::{Kernel, Report};
use sheetbend_compile::Compiler;
use sheetbend_model::state::{NetworkConfig, NetworkMode};
use sheetbend_model::types::NodeName;

use crate::cli::{Bench, say};
use crate::kernel::cluster::Cluster;
use crate::kernel::flows::Xorshift;
use crate::kernel::world::{Node, link};
use crate::report::{Row, Target};
use crate::stats::percentile;

const SECTION: &str = "Services into the kernel";
const SERVICES: u32 = 44_000;
const ENDPOINTS: u32 = 250_000;

/// Both families.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    say("Services into the kernel …");
    let measured = Node::create("sbb-tables").and_then(|node| {
        let families =
            || [("IPv4", false), ("IPv6", true)].map(|(name, v6)| (name, family(bench, &node, name, v6)));
        node.netns.enter(families)
    });
    let mut rows = Vec::new();
    match measured {
        Ok(families) => {
            for (name, measured) in families {
                let missing = |error| vec![Row::missing(SECTION, "all", &error).family(name)];
                rows.extend(measured.unwrap_or_else(missing));
            }
        }
        Err(error) => rows.push(Row::missing(SECTION, "all", &error)),
    }
    rows
}

fn family(bench: &Bench, node: &Node, name: &str, v6: bool) -> anyhow::Result<Vec<Row>> {
    let mut cluster = Cluster::new(v6, SERVICES, ENDPOINTS)?;
    let mut kernel = Kernel::open(node.config(&format!("tables-{name}")))?;
    let config = NetworkConfig { mode: NetworkMode::HostGw, ..NetworkConfig::default() };
    let start = Instant::now();
    let mut compiler = Compiler::new(NodeName::new("one"), config);
    drop(compiler.update(&cluster.snapshot));
    let want = compiler.dataplane();
    let compiled = start.elapsed();
    done(&kernel.sync(&want, &|_| Some(link()))?)?;
    let total = start.elapsed();
    let rows_wanted = want.services.len();
    drop(want);
    if rows_wanted != SERVICES as usize {
        bail!("compile made {rows_wanted} frontends of {SERVICES} Services");
    }
    let title = format!("{SERVICES} Services with {ENDPOINTS} endpoints, from nothing");
    let mut rows = vec![
        Row::value(SECTION, title, total.as_secs_f64(), "s")
            .family(name)
            .target(Target::AtMost(5.0))
            .note(format!("{:.2} s of it compile", compiled.as_secs_f64())),
    ];
    rows.push(one_change(bench, &mut cluster, &mut compiler, &mut kernel)?.family(name));
    rows.push(map_bytes(name)?.family(name));
    Ok(rows)
}

fn one_change(
    bench: &Bench,
    cluster: &mut Cluster,
    compiler: &mut Compiler,
    kernel: &mut Kernel,
) -> anyhow::Result<Row> {
    let changes = if bench.quick { 200 } else { 1_000 };
    let mut random = Xorshift(3);
    let mut times = Vec::new();
    let mut tick_at: Option<Instant> = None;
    for _ in 0..changes {
        cluster.replace_endpoint(random.below(SERVICES));
        let start = Instant::now();
        let plan = compiler.update(&cluster.snapshot);
        let report = kernel.run(&plan, &|_| Some(link()))?;
        if tick_at.is_some_and(|due| due <= Instant::now()) {
            tick_at = None;
        }
        if tick_at.is_none() {
            tick_at = kernel.tick()?.map(|rest: Duration| Instant::now() + rest);
        }
        times.push(start.elapsed().as_secs_f64() * 1e3);
        done(&report)?;
        if report.writes() == 0 {
            bail!("a changed endpoint changed nothing in the kernel: {report}");
        }
    }
    let at = |percent| percentile(&times, percent).context("no samples");
    Ok(Row::value(SECTION, "one endpoint replaced at that size, Snapshot → kernel, p99", at(99.0)?, "ms")
        .target(Target::AtMost(10.0))
        .note(format!("{changes} random changes; p50 {:.3} ms, longest {:.3} ms", at(50.0)?, at(100.0)?)))
}

fn done(report: &Report) -> anyhow::Result<()> {
    match report.failed.first() {
        Some(failure) => {
            bail!("{} steps failed, the first: {}: {}", report.failed.len(), failure.step, failure.error)
        }
        None => Ok(()),
    }
}

/// Kernel memory of all pinned maps, as the kernel accounts it.
fn map_bytes(name: &str) -> anyhow::Result<Row> {
    let mut sizes = Vec::new();
    collect(&Path::new("/sys/fs/bpf/sheetbend").join(format!("tables-{name}")), &mut sizes)?;
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let total: u64 = sizes.iter().map(|(bytes, _)| bytes).sum();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let largest: Vec<String> =
        sizes.iter().take(6).map(|(bytes, map)| format!("{map} {:.0}", mib(*bytes))).collect();
    Ok(Row::value(SECTION, "kernel memory of all maps at that size", mib(total), "MiB")
        .note(format!("largest, MiB: {}", largest.join(", "))))
}

fn collect(directory: &Path, sizes: &mut Vec<(u64, String)>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, sizes)?;
        } else if let Ok(map) = MapData::from_pin(&path) {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
            let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sizes.push((bytes.context("the kernel does not say how large a map is")?, name));
        }
    }
    Ok(())
}
