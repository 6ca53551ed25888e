//! The process that lets cyclonus judge packets: `tests/interop/cyclonus`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sheetbend_model::state::Snapshot;
use sheetbend_testkit::manifests;

use crate::packets::{Ends, Packet};

/// Which end lets a packet pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) egress: bool,
    pub(crate) ingress: bool,
}

/// cyclonus, waiting for questions.
pub(crate) struct Cyclonus {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Cyclonus {
    pub(crate) fn start() -> Result<Self> {
        let program = std::env::var_os("SHEETBEND_CYCLONUS").map_or_else(|| "verdicts".into(), PathBuf::from);
        let mut child =
            Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(
                || format!("cannot run {}; `cargo xtask test interop` builds it", program.display()),
            )?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { input: child.stdin.take(), child, output })
    }

    /// A verdict for each of `packets` of `cluster`.
    pub(crate) fn judge(&mut self, cluster: &Snapshot, packets: &[Packet]) -> Result<Vec<Verdict>> {
        let question = json!({
            "namespaces": manifests::namespaces(cluster),
            "pods": manifests::pods(cluster),
            "policies": manifests::policies(cluster),
            "packets": packets.iter().map(packet).collect::<Vec<_>>(),
        });
        let input = self.input.as_mut().context("it was told to end")?;
        writeln!(input, "{question}").and_then(|()| input.flush()).context("cyclonus has ended")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        let verdicts: Vec<Verdict> =
            serde_json::from_str(&answer).with_context(|| format!("cyclonus answers {answer:?}"))?;
        ensure!(verdicts.len() == packets.len(), "{} verdicts of {} packets", verdicts.len(), packets.len());
        Ok(verdicts)
    }
}

impl Drop for Cyclonus {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.input.take());
        drop(self.child.wait());
    }
}

fn packet(packet: &Packet) -> Value {
    let Ends { source, destination } = &packet.ends;
    let end = |end: &crate::packets::End| {
        let pod = end.pod.as_ref().map_or_else(String::new, ToString::to_string);
        json!({ "pod": pod, "address": end.addr })
    };
    json!({
        "source": end(source),
        "destination": end(destination),
        "protocol": packet.protocol.map_or_else(|| "ICMP".to_owned(), |protocol| protocol.to_string()),
        "port": packet.protocol.map_or(0, |_| packet.port),
    })
}
