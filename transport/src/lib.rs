//! TLS glue between certificates and tonic, and the context file.

pub mod context;
