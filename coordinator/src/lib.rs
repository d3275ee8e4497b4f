//! The coordinator.

pub mod catalog;
pub mod error;
pub mod store;
