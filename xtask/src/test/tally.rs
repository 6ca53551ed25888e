//! Counts what test programs print.

use std::fmt;

/// How much of what a failed test said the summary repeats.
const REASON_LINES: usize = 12;
const REASON_COLUMNS: usize = 240;

/// How many tests passed, failed and were skipped, and the names of those that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Passed.
    pub(crate) passed: usize,
    /// Failed.
    pub(crate) failed: usize,
    /// Not run, each with a reason in the output.
    pub(crate) skipped: usize,
    /// Those that failed, each with what it said below its name.
    pub(crate) failures: Vec<String>,
    /// Those that failed once and passed when run again, alone: counted as passed, and to be mended.
    pub(crate) flaky: Vec<String>,
}

impl Tally {
    /// One failure.
    pub(crate) fn failure(text: String) -> Self {
        Self { failed: 1, failures: vec![text], ..Self::default() }
    }

    /// Counts one more failure.
    pub(crate) fn fail(&mut self, text: String) {
        self.failed += 1;
        self.failures.push(text);
    }

    /// Adds another kind's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend(other.failures.iter().cloned());
        self.flaky.extend(other.flaky.iter().cloned());
    }

    /// The names of the tests that failed.
    pub(super) fn failed_tests(&self) -> Vec<String> {
        self.failures.iter().filter_map(|failure| failure.lines().next()).map(str::to_owned).collect()
    }

    /// The failure at `index` passed when run again.
    pub(super) fn passed_again(&mut self, index: usize) {
        self.flaky.push(self.failures.remove(index));
        self.failed -= 1;
        self.passed += 1;
    }

    /// Reads the output of `cargo test`, of libtest and of libtest-mimic alike.
    pub(crate) fn read(output: &str) -> Self {
        let mut tally = Self::default();
        let (mut saying, mut lines) = (None, 0);
        for line in output.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                tally.passed += count(counts, "passed");
                tally.failed += count(counts, "failed");
                tally.skipped += count(counts, "ignored");
            } else if let Some(name) =
                line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... FAILED"))
            {
                tally.failures.push(name.0.trim().to_owned());
            } else if let Some(name) = section(line) {
                saying = tally.failures.iter().position(|failure| failure.lines().next() == Some(name));
                lines = 0;
            } else if ["failures:", "stack backtrace:", "Stack backtrace:"].contains(&line.trim_end())
                || line.trim_start().starts_with("Running ")
            {
                saying = None;
            } else if let Some(said) = saying
                && !line.trim().is_empty()
                && lines < REASON_LINES
            {
                let line: String = line.chars().take(REASON_COLUMNS).collect();
                tally.failures[said] += &format!("\n    {line}");
                lines += 1;
            }
        }
        tally
    }
}

/// The test whose output begins with this line: `---- NAME ----`, or `---- NAME stdout ----`.
fn section(line: &str) -> Option<&str> {
    let name = line.strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

fn count(counts: &str, word: &str) -> usize {
    let words: Vec<&str> = counts.split([' ', ';', '.']).filter(|part| !part.is_empty()).collect();
    let pair = words.windows(2).find(|pair| pair[1] == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 { write!(f, ", {} skipped", self.skipped) } else { Ok(()) }
    }
}

/// The parts of an output that explain its failures: what failed tests printed, compiler errors, panics.
pub(super) fn failures_of(output: &str) -> String {
    let mut text = String::new();
    let (mut showing, mut shown) = (false, 0);
    for line in output.lines() {
        let starts = ["failures:", "error", "thread '", "---- "].iter().any(|start| line.starts_with(start));
        let ends = line.starts_with("test result:") || line.trim_start().starts_with("Running ");
        showing = (showing || starts) && !ends;
        if showing && shown < 400 {
            text += line;
            text.push('\n');
            shown += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
     Running unittests src/lib.rs\n\
test a::b ... ok\n\
test a::c ... FAILED\n\
\n\
failures:\n\
\n\
---- a::c stdout ----\n\
boom\n\
stack backtrace:\n\
0: f\n\
\n\
test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s\n";

    #[test]
    fn results_of_several_programs_add_up() {
        let tally = Tally::read(OUTPUT);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (13, 1, 2));
        assert_eq!(tally.failures, ["a::c\n    boom"]);
        assert_eq!(tally.to_string(), "13 passed, 1 failed, 2 skipped");
        assert_eq!(Tally { passed: 2, ..Tally::default() }.to_string(), "2 passed, 0 failed");
    }

    #[test]
    fn what_passes_when_run_again_is_flaky() {
        let mut tally = Tally::read(OUTPUT);
        assert_eq!(tally.failed_tests(), ["a::c"]);
        tally.passed_again(0);
        assert_eq!((tally.passed, tally.failed, tally.failures.len()), (14, 0, 0));
        assert_eq!(tally.flaky, ["a::c\n    boom"]);
    }

    #[test]
    fn the_reason_of_a_failure_is_shown() {
        assert_eq!(
            failures_of(OUTPUT),
            "failures:\n\n---- a::c stdout ----\nboom\nstack backtrace:\n0: f\n\n"
        );
    }
}
