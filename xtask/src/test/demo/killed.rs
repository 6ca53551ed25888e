//! The demo, killed with SIGKILL in a phase, and run again.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::machine::Machine;
use super::{LIMIT, PHASES, demo_command, succeeds};
use crate::process;
use crate::repo::Repo;

/// Kills the demo in phase `number` (from 1), runs it to its end, and compares the machine with before.
pub(super) fn in_phase(repo: &Repo, number: usize) -> Result<()> {
    let before = Machine::now()?;
    let marker = format!("[{number}/{}]", PHASES.len());
    let mut command = demo_command(repo);
    let killed = kill_at(&mut command, &marker)?;
    if !killed {
        bail!("the demo ended before it printed `{marker}`, the line that announces {}", PHASES[number - 1]);
    }
    succeeds(&process::capture_within(&mut demo_command(repo), Some(LIMIT), &mut |_| {})?)?;
    before.assert_unchanged()
}

/// Starts the command and kills the process itself, not its children, a moment after it has printed `marker`.
fn kill_at(command: &mut Command, marker: &str) -> Result<bool> {
    // `exec` keeps the process id that the shell prints first.
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo $$; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    let (mut pid, mut hit) = (None, false);
    process::capture_within(&mut shell, Some(LIMIT), &mut |line| match &pid {
        None => pid = Some(line.trim().to_owned()),
        Some(pid) if !hit && line.trim_start().starts_with(marker) => {
            // Into the phase, not at its very edge. Tear-down is over sooner than that.
            let into = if marker.starts_with("[5") { 2 } else { 300 };
            std::thread::sleep(Duration::from_millis(into));
            hit = Command::new("kill").args(["-KILL", pid]).status().is_ok_and(|status| status.success());
        }
        Some(_) => {}
    })
    .context("cannot run the demo")?;
    Ok(hit)
}
