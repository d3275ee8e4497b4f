//! The program as people and scripts run it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod faults;
mod process;
mod scripted;
mod setup;
