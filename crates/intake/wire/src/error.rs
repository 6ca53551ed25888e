//! Errors as the CNI specification 1.1.0 shapes them ("Error").

use std::fmt;

use serde::{Deserialize, Serialize};

/// Error codes. Those below 100 are the specification's, the others ours.
pub mod code {
    /// Incompatible CNI version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// Container unknown or does not exist: the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// Invalid necessary environment variables, like CNI_COMMAND, CNI_CONTAINERID.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// I/O failure.
    pub const IO: u32 = 5;
    /// Failed to decode content.
    pub const DECODE: u32 = 6;
    /// Invalid network config.
    pub const INVALID_CONFIG: u32 = 7;
    /// Try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin is not available, it cannot service ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Ours: no address is left.
    pub const EXHAUSTED: u32 = 100;
    /// Ours: the attachment exists already.
    pub const EXISTS: u32 = 101;
    /// Ours: CHECK found something else than ADD made.
    pub const CHECK_FAILED: u32 = 102;
    /// Ours: the node's kernel refused.
    pub const KERNEL: u32 = 103;
}

/// An error as a runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniError {
    /// One of [`code`].
    pub code: u32,
    /// What is wrong.
    pub msg: String,
    /// Why, and how to fix it. May be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    /// `code`: `msg`; `details`.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "code {}: {}", self.code, self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, "; {}", self.details) }
    }
}

impl std::error::Error for CniError {}
