//! The agent: a daemon on every controller and datastore host that captures and restores what lives there.
//!
//! `main` brings [`server`] up, which serves [`grpc`]; that calls [`host`], which makes [`source`]s from [`targets`] and
//! keeps [`restores`]. Sources know nothing of RPCs.

pub mod arriving;
pub mod config;
pub mod connection;
pub mod discover;
pub mod fence;
pub mod grpc;
pub mod host;
pub mod identity;
pub mod report;
pub mod restore_unit;
pub mod restores;
pub mod server;
pub mod services;
pub mod sink;
pub mod source;
pub mod staging;
pub mod targets;
