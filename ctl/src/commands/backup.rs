//! `prexorctl backup`.

pub mod create;
pub mod delete;
pub mod list;
pub mod show;
pub mod verify;
