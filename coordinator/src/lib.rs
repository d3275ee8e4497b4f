//! The coordinator: plans, drives and stores backups and restores; serves operators; enrols agents.
//!
//! Layers, each using only what is below it: `grpc` (adapters) -> `jobs`, `enrolment`, `status` -> `restore`, `backups`
//! -> `agents`, `store`, `catalog`. Only `grpc` and `agents` name tonic, only `catalog` names SQL, only `store` names
//! object stores.

pub mod agents;
pub mod audit;
pub mod backups;
pub mod ca;
pub mod catalog;
pub mod config;
pub mod context;
pub mod enrolment;
pub mod error;
pub mod grpc;
pub mod import;
pub mod jobs;
pub mod prune;
pub mod restore;
pub mod retention;
pub mod revocations;
pub mod rotation;
pub mod scope;
pub mod startup;
pub mod status;
pub mod store;
pub mod tls;
pub mod verification;

pub use context::Context;
