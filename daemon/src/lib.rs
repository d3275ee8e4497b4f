//! What both daemons share on their way up and down: configuration, logging, signals, readiness, the umask, memory.
//!
//! It knows neither RPC nor TLS nor what a daemon does.

pub mod config;
pub mod exit;
pub mod logging;
pub mod memory;
pub mod process;
pub mod shutdown;
