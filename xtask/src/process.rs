//! Runs other programs: output by line, a time limit, and what to say when one fails.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How a program ended.
pub(crate) struct Finished {
    /// Its exit code; `None` when a signal or the time limit ended it.
    pub(crate) code: Option<i32>,
    /// Whether the time limit ended it.
    pub(crate) timed_out: bool,
    /// Both outputs, line by line in the order they came.
    pub(crate) output: String,
}

impl Finished {
    /// Exit code 0.
    pub(crate) fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// How it ended, in words.
    pub(crate) fn ending(&self) -> String {
        match (self.timed_out, self.code) {
            (true, _) => "ran into its time limit".to_owned(),
            (false, Some(code)) => format!("exit code {code}"),
            (false, None) => "ended by a signal".to_owned(),
        }
    }

    /// The last `count` lines, indented.
    pub(crate) fn tail(&self, count: usize) -> String {
        let lines: Vec<&str> = self.output.lines().collect();
        let from = lines.len().saturating_sub(count);
        lines[from..].iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// Runs `command` to its end and hands each line of its outputs to `on_line`.
pub(crate) fn capture(command: &mut Command, on_line: &mut dyn FnMut(&str)) -> Result<Finished> {
    capture_within(command, None, on_line)
}

/// Like [`capture`], and ends the program with all its children after `limit`.
pub(crate) fn capture_within(
    command: &mut Command,
    limit: Option<Duration>,
    on_line: &mut dyn FnMut(&str),
) -> Result<Finished> {
    if limit.is_some() {
        // A group of its own, so that the limit ends its children too.
        command.process_group(0);
    }
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let (lines, received) = channel();
    let readers = [read(child.stdout.take(), lines.clone()), read(child.stderr.take(), lines)];
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut output = String::new();
    let timed_out = drain(&received, deadline, &mut child, |line| {
        on_line(&line);
        output.push_str(&line);
        output.push('\n');
    });
    let status = child.wait().with_context(|| format!("cannot wait for {program}"))?;
    if !timed_out {
        for reader in readers.into_iter().flatten() {
            drop(reader.join());
        }
    }
    Ok(Finished { code: status.code(), timed_out, output })
}

fn read<R: Read + Send + 'static>(stream: Option<R>, lines: Sender<String>) -> Option<JoinHandle<()>> {
    let stream = stream?;
    Some(std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            bytes.clear();
            if lines.send(line).is_err() {
                break;
            }
        }
    }))
}

/// Reads lines until both outputs are closed; true when the deadline came first.
fn drain(
    lines: &Receiver<String>,
    deadline: Option<Instant>,
    child: &mut Child,
    mut on_line: impl FnMut(String),
) -> bool {
    let mut exited: Option<Instant> = None;
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => on_line(line),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => {
                // A daemon that a test left behind may hold the pipes open: its parent's end is the end.
                if exited.is_none() && matches!(child.try_wait(), Ok(Some(_))) {
                    exited = Some(Instant::now());
                }
                if exited.is_some_and(|at| at.elapsed() > Duration::from_secs(2)) {
                    return false;
                }
            }
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            kill_group(child.id());
            return true;
        }
    }
}

fn kill_group(leader: u32) {
    // `kill` as a program: xtask has no unsafe code and needs no crate for one signal.
    let killed = Command::new("kill").args(["-KILL", "--", &format!("-{leader}")]).status();
    if !killed.is_ok_and(|status| status.success()) {
        eprintln!("cannot end process group {leader}; see `ps -g {leader}`");
    }
}

/// The path of a program, looked up in `PATH` and then in `more`.
pub(crate) fn find_program(name: &str, more: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(more.iter().cloned());
    dirs.map(|dir| dir.join(name)).find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The first line a program prints, or `None` when it does not run.
pub(crate) fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn both_outputs_and_the_exit_code_are_captured() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let done = capture(&mut command, &mut |line| seen.push(line.to_owned())).unwrap();
        seen.sort();
        assert_eq!(
            (done.code, done.timed_out, seen),
            (Some(3), false, vec!["one".to_owned(), "two".to_owned()])
        );
    }

    #[test]
    fn the_time_limit_ends_children_too() {
        let started = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 30 & echo $!; wait"]);
        let done = capture_within(&mut command, Some(Duration::from_millis(500)), &mut |_| {}).unwrap();
        assert!(done.timed_out && started.elapsed() < Duration::from_secs(10));
        let child = done.output.trim().to_owned();
        std::thread::sleep(Duration::from_millis(200));
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "child {child} still runs: {stat}");
    }
}
