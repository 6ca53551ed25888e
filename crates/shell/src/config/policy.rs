//! `policy.*`.

use serde::Serialize;

use super::{Sources, yes_or_no};

/// How policies are enforced, and told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyConfig {
    /// `policy.audit`: what policies deny passes, and is told, for every pod of this node.
    pub audit: bool,
    /// `policy.log`.
    pub log: LoggedVerdicts,
    /// `policy.logRate`: lines a second, 1..=10000.
    pub log_rate: u32,
}

/// Which verdicts of policies are in the agent's log, beside those of rules with `log: true`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LoggedVerdicts {
    /// None.
    #[default]
    None,
    /// What they deny, and would deny but for an audit.
    Denied,
    /// What they let pass too.
    All,
}

impl PolicyConfig {
    pub(super) fn load(sources: &mut Sources) -> Self {
        let defaults = Self::default();
        Self {
            audit: sources.text("policy.audit", yes_or_no).unwrap_or(defaults.audit),
            log: sources.text("policy.log", logged).unwrap_or(defaults.log),
            log_rate: sources.text("policy.logRate", rate).unwrap_or(defaults.log_rate),
        }
    }
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { audit: false, log: LoggedVerdicts::None, log_rate: 10 }
    }
}

fn logged(text: &str) -> Result<LoggedVerdicts, String> {
    match text {
        "none" => Ok(LoggedVerdicts::None),
        "denied" => Ok(LoggedVerdicts::Denied),
        "all" => Ok(LoggedVerdicts::All),
        _ => Err(format!("{text:?} is none of none, denied and all")),
    }
}

fn rate(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|number| (1..=10_000).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number of lines a second from 1 to 10000"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

    use super::*;

    #[test]
    fn words_and_rates_are_read() {
        assert_eq!(
            ["none", "denied", "all"].map(|word| logged(word).unwrap()),
            [LoggedVerdicts::None, LoggedVerdicts::Denied, LoggedVerdicts::All]
        );
        assert!(logged("Denied").is_err());
        assert_eq!((rate("1"), rate("10000")), (Ok(1), Ok(10_000)));
        assert!(["0", "10001", "-1", "ten"].iter().all(|text| rate(text).is_err()));
    }
}
