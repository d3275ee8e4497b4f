//! What the end-to-end tests and the quickstart share: real servers, PrexorCloud-like data, and proofs of equality.
//!
//! It knows the servers and the data, and nothing of our own daemons.

pub mod cluster;
pub mod dataset;
pub mod equality;
pub mod resp;
pub mod servers;
