//! Exit codes, as in `sysexits.h`: scripts and units tell a wrong command line from a wrong file.

/// The command line is wrong.
pub const USAGE: u8 = 64;
/// The configuration is wrong.
pub const CONFIG: u8 = 78;
