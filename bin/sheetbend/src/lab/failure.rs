//! How a lab command ends when it does not end well: a text for people and an exit code for programs.

use std::fmt;
use std::process::ExitCode;

/// An error with the exit code that `docs/user/exit-codes.md` gives it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) code: u8,
    /// What, why, how to fix.
    pub(crate) error: anyhow::Error,
}

/// What a lab command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// A check found mismatches.
pub(crate) const MISMATCH: u8 = 1;
/// The command was used wrongly.
pub(crate) const USAGE: u8 = 2;
/// A right or a tool is missing.
pub(crate) const MISSING: u8 = 3;
/// No such object.
pub(crate) const NO_OBJECT: u8 = 4;
/// No lab, or more than one.
pub(crate) const NO_LAB: u8 = 5;
/// A bad manifest; nothing was applied.
pub(crate) const MANIFEST: u8 = 64;
/// Our own fault.
pub(crate) const OWN_FAULT: u8 = 70;
/// Interrupted, and cleaned up.
pub(crate) const INTERRUPTED: u8 = 130;

impl Failure {
    /// `message` under exit code `code`.
    pub(crate) fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, error: anyhow::anyhow!("{message}") }
    }

    /// Prints the error to stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.reader_left() {
            return ExitCode::SUCCESS;
        }
        let mut text = format!("{:#}", self.error);
        if self.code == OWN_FAULT {
            text.push_str("\nThis is a fault of Sheetbend or of this machine, not of your manifests.");
        }
        eprintln!("error: {text}");
        ExitCode::from(self.code)
    }

    /// Whether standard output is a pipe that nobody reads any more, as in `… | head`.
    fn reader_left(&self) -> bool {
        let kind = self.error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        kind == Some(std::io::ErrorKind::BrokenPipe)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: OWN_FAULT, error: error.into() }
    }
}
