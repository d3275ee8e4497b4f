//! What the end-to-end tests and the quickstart share: real servers, PrexorCloud-like data, and proofs of equality.
//!
//! It knows the servers and the data; of our own daemons only `capture` and `valkey` know the seam of an agent's sources.

pub mod bench;
pub mod capture;
pub mod cluster;
pub mod dataset;
pub mod equality;
pub mod fleet;
pub mod mongo;
pub mod proxy;
pub mod resp;
pub mod rig;
pub mod servers;
pub mod valkey;
