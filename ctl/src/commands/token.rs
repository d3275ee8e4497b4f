//! `prexorctl token`.

pub mod create;
pub mod list;
pub mod revoke;
