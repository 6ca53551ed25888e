//! What `go test -v` says of tests: each begins with a `=== RUN` and ends with a `--- PASS`, `--- FAIL` or `--- SKIP`.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

/// How a test says that it goes on without one of its probes.
const LEFT_OUT: &str = ": left out: ";

/// What a run found. A test with tests below it counts only when it fails and none of those does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    /// Tests that passed.
    pub(super) passed: usize,
    /// Those of them that went on without some of their probes.
    pub(super) passed_in_part: usize,
    /// Probes that were left out.
    pub(super) left_out: usize,
    /// Tests that skipped themselves.
    pub(super) skipped: usize,
    /// The names of tests that failed or did not end, sorted.
    pub(super) failed: Vec<String>,
}

impl Verdicts {
    /// Whether any test below `root` ran to see whether it passes.
    pub(super) fn ran(&self, root: &str) -> bool {
        self.passed > 0 || self.failed.iter().any(|name| name != root)
    }

    /// Reads the verdicts on `root` and the tests below it.
    pub(super) fn read(output: &str, root: &str) -> Self {
        let mut verdicts: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        let mut left_out: BTreeMap<&str, usize> = BTreeMap::new();
        let mut current = "";
        for line in output.lines() {
            if let Some((word, name)) = line.strip_prefix("=== ").and_then(|rest| rest.split_once(' ')) {
                current = name.trim();
                if word == "RUN" {
                    verdicts.insert(current, None);
                }
            } else if let Some((word, rest)) =
                line.trim_start().strip_prefix("--- ").and_then(|rest| rest.split_once(": "))
                && let Some((name, _time)) = rest.rsplit_once(" (")
            {
                verdicts.insert(name, Some(word));
            } else if line.contains(LEFT_OUT) {
                *left_out.entry(current).or_default() += 1;
            }
        }
        let below = |name: &str| {
            let start = format!("{name}/");
            verdicts.iter().filter(move |(other, _)| other.starts_with(&start)).collect::<Vec<_>>()
        };
        let mut found = Self::default();
        let is_ours =
            |name: &str| name.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        for (&name, &verdict) in verdicts.iter().filter(|(name, _)| is_ours(name)) {
            let below = below(name);
            let has_failed = |verdict: Option<&str>| !matches!(verdict, Some("PASS" | "SKIP"));
            if has_failed(verdict) {
                if !below.iter().any(|(_, verdict)| has_failed(**verdict)) {
                    found.failed.push(name.to_owned());
                }
            } else if below.is_empty() && name != root {
                let without = left_out.get(name).copied().unwrap_or_default();
                let passed = verdict == Some("PASS");
                found.passed += usize::from(passed);
                found.passed_in_part += usize::from(passed && without > 0);
                found.skipped += usize::from(!passed);
                found.left_out += without;
            }
        }
        found
    }
}

impl Display for Verdicts {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let Self { passed, passed_in_part, left_out, skipped, failed } = self;
        write!(formatter, "{passed} passed, {} failed, {skipped} skipped", failed.len())?;
        if *left_out > 0 {
            write!(formatter, "; {passed_in_part} of those that passed without {left_out} of their probes")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
=== RUN   TestOther
--- PASS: TestOther (0.00s)
=== RUN   TestAll
    suite.go:1: applying
=== RUN   TestAll/Tcp
=== RUN   TestAll/Tcp/Should_allow
=== RUN   TestAll/Tcp/Should_deny
    helper.go:9: FAILED Command was [agnhost]
=== NAME  TestAll/Tcp
    apply.go:7: Deleting
=== RUN   TestAll/Mixed
=== RUN   TestAll/Mixed/Should_do_(all)
    rules.go:2: left out: SCTP probe
    rules.go:3: left out: SCTP probe
=== RUN   TestAll/Sctp
=== RUN   TestAll/Sctp/Should_allow
    rules.go:2: this kernel has no SCTP sockets
=== RUN   TestAll/Dirty
=== RUN   TestAll/Dirty/Should_allow
--- FAIL: TestAll (9.00s)
    --- FAIL: TestAll/Tcp (2.00s)
        --- PASS: TestAll/Tcp/Should_allow (1.00s)
        --- FAIL: TestAll/Tcp/Should_deny (1.00s)
    --- PASS: TestAll/Mixed (1.00s)
        --- PASS: TestAll/Mixed/Should_do_(all) (1.00s)
    --- PASS: TestAll/Sctp (1.00s)
        --- SKIP: TestAll/Sctp/Should_allow (0.00s)
    --- FAIL: TestAll/Dirty (1.00s)
        --- PASS: TestAll/Dirty/Should_allow (1.00s)
=== RUN   TestAll/Last
panic: test timed out
FAIL
";

    #[test]
    fn only_tests_without_tests_below_them_are_counted() {
        let found = Verdicts::read(OUTPUT, "TestAll");
        let failed = ["TestAll/Dirty", "TestAll/Last", "TestAll/Tcp/Should_deny"].map(str::to_owned).to_vec();
        assert_eq!(found, Verdicts { passed: 3, passed_in_part: 1, left_out: 2, skipped: 1, failed });
        let text = "3 passed, 3 failed, 1 skipped; 1 of those that passed without 2 of their probes";
        assert_eq!(found.to_string(), text);
        assert!(found.ran("TestAll"));
    }

    #[test]
    fn a_run_that_ends_before_its_tests_ran_none() {
        let failed = Verdicts::read("=== RUN   TestAll\n--- FAIL: TestAll (300.00s)\n", "TestAll");
        assert_eq!((failed.passed, failed.failed.len(), failed.ran("TestAll")), (0, 1, false));
        let empty = Verdicts::read("=== RUN   TestAll\n--- PASS: TestAll (0.00s)\n", "TestAll");
        assert_eq!((empty.clone(), empty.ran("TestAll")), (Verdicts::default(), false));
        assert!(!Verdicts::read("testing: warning: no tests to run\nPASS\n", "TestAll").ran("TestAll"));
    }
}
