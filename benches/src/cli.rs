//! The command line, and where results go.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};

use crate::contest::Effort;
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
    /// Writes the rows as JSON lines.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables into FILE, between its lines `<!-- bench:begin -->` and `<!-- bench:end -->` if it has them.
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
    /// New connections to ClusterIPs by number of Services.
    FirstPacket,
    /// ADD and DEL.
    Cni,
    /// Queries per second and latency of the cluster DNS.
    Dns,
    /// Resident memory of agents.
    Memory,
}

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// What every section needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    /// Whether samples are small.
    pub(crate) quick: bool,
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
    let bench = Bench { quick: cli.quick, binaries, before: cli.before.clone() };
    let mut rows: Vec<Row> = Vec::new();
    for (section, measure) in sections() {
        if cli.sections.contains(&section) || cli.sections.contains(&Section::All) {
            let start = Instant::now();
            rows.extend(measure(&bench));
            say(&format!("{section:?}: {:.1} s", start.elapsed().as_secs_f64()));
        }
    }
    let tables = report::markdown(&machine, &rows);
    std::io::stdout().write_all(tables.as_bytes())?;
    if let Some(file) = &cli.json {
        fs::write(file, report::json_lines(&machine, &rows)?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(file) = &cli.markdown {
        write_markdown(file, &tables)?;
    }
    let missed = rows.iter().any(|row| matches!(row.verdict, Verdict::Fail | Verdict::Missing));
    Ok(ExitCode::from(u8::from(cli.enforce && missed)))
}

type Measure = fn(&Bench) -> Vec<Row>;

fn sections() -> [(Section, Measure); 8] {
    [
        (Section::Traffic, section::traffic::measure),
        (Section::FirstPacket, section::first_packet::measure),
        (Section::Programs, section::programs::measure),
        (Section::Compile, section::compile::measure),
        (Section::Tables, section::tables::measure),
        (Section::Cni, section::cni::measure),
        (Section::Dns, section::dns::measure),
        (Section::Memory, section::memory::measure),
    ]
}

fn write_markdown(file: &Path, tables: &str) -> anyhow::Result<()> {
    let text = match fs::read_to_string(file) {
        Ok(old) => between_markers(&old, tables).with_context(|| format!("in {}", file.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => tables.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn between_markers(old: &str, tables: &str) -> anyhow::Result<String> {
    let Some((before, rest)) = old.split_once(BEGIN) else {
        bail!("no line {BEGIN}; add it and {END} around the place of the tables");
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("{BEGIN} without {END}; add it below the tables")
    };
    Ok(format!("{before}{BEGIN}\n{tables}{END}{after}"))
}

/// Progress, on standard error.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::between_markers;

    #[test]
    fn only_the_text_between_the_markers_changes() {
        let old = "# Performance\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nHow it is measured.\n";
        let new = between_markers(old, "new\n").map_err(|error| error.to_string());
        let expected = "# Performance\n<!-- bench:begin -->\nnew\n<!-- bench:end -->\nHow it is measured.\n";
        assert_eq!(new.as_deref(), Ok(expected));
        assert!(between_markers("no markers", "new").is_err());
    }
}
