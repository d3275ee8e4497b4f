//! The agent: a daemon on every controller and datastore host that captures and restores what lives there.

pub mod config;
pub mod fence;
pub mod restore_unit;
pub mod restores;
pub mod services;
pub mod sink;
pub mod source;
