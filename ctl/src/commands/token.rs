//! `prexorctl token`.

pub mod create;
