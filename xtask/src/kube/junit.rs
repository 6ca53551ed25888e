//! JUnit results, as ginkgo writes them.

use std::path::Path;

use anyhow::{Context as _, Result};

/// What a run of tests found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Results {
    /// The names of tests that passed, sorted; of a dry run, of those that would run.
    pub(super) passed: Vec<String>,
    /// Tests that were selected and skipped themselves, and why, sorted.
    pub(super) skipped: Vec<(String, String)>,
    /// The names of tests that failed, sorted.
    pub(super) failed: Vec<String>,
}

/// Reads a JUnit file.
pub(super) fn read(path: &Path) -> Result<Results> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not JUnit", path.display()))
}

fn parse(text: &str) -> Result<Results> {
    let document = roxmltree::Document::parse(text)?;
    let mut results = Results::default();
    for case in document.descendants().filter(|node| node.has_tag_name("testcase")) {
        let name = case.attribute("name").unwrap_or("(no name)");
        // Set-up and reports are cases too.
        let is_test = name.starts_with("[It]");
        let name = name.trim_start_matches("[It] ").to_owned();
        match case.attribute("status").unwrap_or_default() {
            "passed" if is_test => results.passed.push(name),
            "passed" => {}
            // A case that the filters left out says nothing; one that skipped itself says why.
            "skipped" | "pending" => {
                let why = case.children().find(|node| node.has_tag_name("skipped"));
                let why = why.and_then(|node| node.attribute("message")).unwrap_or_default();
                if let Some(why) = why.strip_prefix("skipped - ").filter(|_| is_test) {
                    results.skipped.push((name, why.to_owned()));
                }
            }
            _ => results.failed.push(name),
        }
    }
    results.passed.sort();
    results.skipped.sort();
    results.failed.sort();
    Ok(results)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]
    use super::*;

    #[test]
    fn only_tests_that_ran_are_counted() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="5"><testsuite name="e2e">
 <testcase name="[SynchronizedBeforeSuite]" status="passed" time="1"></testcase>
 <testcase name="[It] [sig-network] a" status="passed" time="1"></testcase>
 <testcase name="[It] [sig-network] b" status="failed" time="1"><failure message="no">x</failure></testcase>
 <testcase name="[It] [sig-network] c" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
 <testcase name="[It] [sig-network] d" status="skipped" time="0"><skipped message="skipped - no SCTP"></skipped></testcase>
 <testcase name="[It] [sig-network] e" status="timedout" time="1"></testcase>
</testsuite></testsuites>"#;
        let expected = Results {
            passed: vec!["[sig-network] a".to_owned()],
            skipped: vec![("[sig-network] d".to_owned(), "no SCTP".to_owned())],
            failed: vec!["[sig-network] b".to_owned(), "[sig-network] e".to_owned()],
        };
        assert_eq!(parse(text).unwrap(), expected);
    }
}
