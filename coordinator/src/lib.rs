//! The coordinator: plans, drives and stores backups and restores; serves operators; enrols agents.
//!
//! Layers, each using only what is below it: `grpc` (adapters) -> `jobs`, `status`, `backups` -> `restore` ->
//! `agents`, `store`, `catalog`. Only `grpc` and `agents` name tonic, only `catalog` names SQL, only `store` names
//! object stores.

pub mod agents;
pub mod backups;
pub mod catalog;
pub mod config;
pub mod context;
pub mod error;
pub mod jobs;
pub mod restore;
pub mod store;

pub use context::Context;
