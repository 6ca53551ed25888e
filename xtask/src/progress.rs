//! Progress: a spinner on a terminal, plain lines elsewhere. `NO_COLOR` is respected.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Done, or already so.
    Done,
    /// It failed.
    Failed,
    /// It was not run; the note says why.
    Skipped,
}

/// One step that is shown while it runs and leaves one line behind.
pub(crate) struct Step {
    name: String,
    started: Instant,
    bar: Option<ProgressBar>,
    last_plain: Instant,
    is_shown: bool,
}

impl Step {
    /// Shows that `name` has begun.
    pub(crate) fn start(name: impl Into<String>) -> Self {
        let mut step = Self::quiet(name);
        step.show();
        step
    }

    fn show(&mut self) {
        self.is_shown = true;
        if !std::io::stderr().is_terminal() {
            eprintln!("… {}", self.name);
            return;
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(self.name.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        self.bar = Some(bar);
    }

    /// Shows nothing until the first note: for work that is usually done already.
    pub(crate) fn quiet(name: impl Into<String>) -> Self {
        let now = Instant::now();
        Self { name: name.into(), started: now, bar: None, last_plain: now, is_shown: false }
    }

    /// Shows what is happening; without a terminal, at most one line every 30 s, so that a log is never silent.
    pub(crate) fn note(&mut self, line: &str) {
        if !self.is_shown {
            self.show();
        }
        match &self.bar {
            Some(bar) => bar.set_message(line.trim().to_owned()),
            None if self.last_plain.elapsed() > Duration::from_secs(30) && !line.trim().is_empty() => {
                eprintln!("    {} s: {}", self.started.elapsed().as_secs(), line.trim());
                self.last_plain = Instant::now();
            }
            None => {}
        }
    }

    /// Ends a step that was [quiet](Self::quiet), with a line only if it showed itself.
    pub(crate) fn end_if_shown(self, mark: Mark, note: &str) {
        if self.is_shown {
            self.end(mark, note);
        }
    }

    /// Ends the step with one line; gives the time it took.
    pub(crate) fn end(self, mark: Mark, note: &str) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = self.started.elapsed();
        let gap = if note.is_empty() { "" } else { ": " };
        eprintln!("{} {}{gap}{note} ({})", symbol(mark), self.name, seconds(took));
        took
    }
}

/// ✓, ✗ or –, coloured on a terminal.
pub(crate) fn symbol(mark: Mark) -> String {
    let (sign, colour) = match mark {
        Mark::Done => ("✓", 32),
        Mark::Failed => ("✗", 31),
        Mark::Skipped => ("–", 33),
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stderr().is_terminal() {
        sign.to_owned()
    } else {
        format!("\x1b[{colour}m{sign}\x1b[0m")
    }
}

/// A duration for people: `0.3 s`, `2 min 5 s`.
pub(crate) fn seconds(took: Duration) -> String {
    if took.as_secs() >= 60 {
        format!("{} min {} s", took.as_secs() / 60, took.as_secs() % 60)
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}
