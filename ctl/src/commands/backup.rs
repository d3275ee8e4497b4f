//! `prexorctl backup`.

pub mod create;
pub mod delete;
pub mod dump;
pub mod import;
pub mod list;
pub mod pin;
pub mod prune;
pub mod show;
pub mod verify;
pub mod verify_dump;
