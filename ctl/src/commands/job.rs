//! `prexorctl job`.

pub mod cancel;
pub mod list;
pub mod resume;
pub mod show;
pub mod watch;
