//! The command line, and where results go.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};

use crate::contest::Effort;
use crate::document;
use crate::machine::Machine;
use crate::report::{self, Row, Verdict};
use crate::section;

/// Measures Sheetbend beside its peers, inside network namespaces of its own. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    /// What to measure.
    #[arg(value_enum, default_values_t = [Section::All])]
    sections: Vec<Section>,
    /// Small samples: about two minutes for everything.
    #[arg(long)]
    quick: bool,
    /// Numbers of Services for `services`; kube-proxy takes 6 minutes for its rules of 50,000, and one for each change.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [10, 1_000, 10_000, 50_000])]
    services: Vec<u32>,
    /// Writes the rows as JSON lines.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables into FILE after each section, between its lines `<!-- bench:begin -->` and `<!-- bench:end -->`
    /// if it exists. Tables of sections that are not measured stay.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Directory of `sheetbend` and `sheetbend-cni`; by default that of this program.
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Measures another build of `sheetbend` and `sheetbend-cni` in the same rounds of `traffic`: was a change faster?
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// Ends with 1 if a number misses its target. Without it, speed never fails.
    #[arg(long)]
    enforce: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Everything.
    All,
    /// Round trips, new connections and streams, same node and between nodes.
    Traffic,
    /// ns per packet and instructions of the kernel programs.
    Programs,
    /// Full and incremental compile at scale.
    Compile,
    /// 44,000 Services into the kernel, and one change at that size.
    Tables,
    /// ClusterIPs by number of Services beside kube-proxy: from nothing, one change, new connections.
    Services,
    /// The same at 44,000 Services with 264,000 endpoints, without new connections; kube-proxy may take its ten minutes.
    LargestServices,
    /// 1,000 and 10,000 policies in clusters of 10,000 and 50,000 pods: from nothing, one change, memory, packets, and
    /// how soon a policy holds while 100 a second arrive.
    Policy,
    /// 50,000 connections held while a million others come and go, the agent is killed, and SYNs flood in.
    Endurance,
    /// ADD and DEL.
    Cni,
    /// Queries per second and latency of the cluster DNS.
    Dns,
    /// Resident memory of agents.
    Memory,
}

/// What every section needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    /// Whether samples are small.
    pub(crate) quick: bool,
    /// Numbers of Services to be measured with, at most four.
    pub(crate) services: Vec<u32>,
    /// Where our programs are.
    pub(crate) binaries: PathBuf,
    /// Where another build of them is, to be measured beside.
    pub(crate) before: Option<PathBuf>,
}

impl Bench {
    /// Sample sizes of traffic.
    pub(crate) fn effort(&self) -> Effort {
        if self.quick {
            Effort { rounds: 15, burst: Duration::from_millis(12) }
        } else {
            Effort { rounds: 21, burst: Duration::from_millis(40) }
        }
    }
}

/// Measures, prints and writes.
pub(crate) fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let machine = Machine::read(cli.quick);
    let own = std::env::current_exe().context("finding this program")?;
    let binaries = match &cli.binaries {
        Some(directory) => directory.clone(),
        None => own.parent().map(Path::to_path_buf).context("this program has no directory")?,
    };
    ensure!(
        cli.services.len() <= 4 && !cli.services.contains(&0),
        "--services: at most four numbers, none 0"
    );
    let services = if cli.quick { vec![10, 1_000] } else { cli.services.clone() };
    let bench = Bench { quick: cli.quick, services, binaries, before: cli.before.clone() };
    let mut rows: Vec<Row> = Vec::new();
    for (section, measure) in sections() {
        if cli.sections.contains(&section) || cli.sections.contains(&Section::All) {
            let start = Instant::now();
            rows.extend(measure(&bench));
            say(&format!("{section:?}: {:.1} s", start.elapsed().as_secs_f64()));
            write(cli, &machine, &rows)?;
        }
    }
    std::io::stdout().write_all(document::render(&report::tables(&machine, &rows)).as_bytes())?;
    let missed = rows.iter().any(|row| matches!(row.verdict, Verdict::Fail | Verdict::Missing));
    Ok(ExitCode::from(u8::from(cli.enforce && missed)))
}

/// Writes what is measured so far, so that a run that is interrupted keeps it.
fn write(cli: &Cli, machine: &Machine, rows: &[Row]) -> anyhow::Result<()> {
    if let Some(file) = &cli.json {
        fs::write(file, report::json_lines(machine, rows)?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    match &cli.markdown {
        Some(file) => document::write(file, &report::tables(machine, rows)),
        None => Ok(()),
    }
}

type Measure = fn(&Bench) -> Vec<Row>;

fn sections() -> [(Section, Measure); 11] {
    [
        (Section::Traffic, section::traffic::measure),
        (Section::Services, section::services::measure),
        (Section::LargestServices, section::services::measure_largest),
        (Section::Programs, section::programs::measure),
        (Section::Compile, section::compile::measure),
        (Section::Tables, section::tables::measure),
        (Section::Policy, section::policy::measure),
        (Section::Endurance, section::endurance::measure),
        (Section::Cni, section::cni::measure),
        (Section::Dns, section::dns::measure),
        (Section::Memory, section::memory::measure),
    ]
}

/// Progress, on standard error.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}
