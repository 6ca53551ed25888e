//! Exit codes of all commands (`docs/user/exit-codes.md`).

/// Done, and everything matches.
pub const OK: u8 = 0;
/// A check found mismatches.
pub const MISMATCH: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// A right or a tool is missing.
pub const MISSING: u8 = 3;
/// No such object.
pub const NO_OBJECT: u8 = 4;
/// No lab, or more than one.
pub const NO_LAB: u8 = 5;
/// The configuration or a manifest is wrong; nothing was applied.
pub const BAD_INPUT: u8 = 64;
/// Our own fault.
pub const INTERNAL: u8 = 70;
/// Interrupted and cleaned up.
pub const INTERRUPTED: u8 = 130;
