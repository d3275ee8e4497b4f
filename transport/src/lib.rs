//! Connections between our programs: the TLS of `prexor_certs` under the HTTP/2 of tonic.
//!
//! tonic's own TLS bakes certificates in when a server starts; ours takes the newest configuration for every handshake.
//! What runs over a connection, and who may call what, is not known here.

pub mod access;
pub mod context;
pub mod dial;
pub mod idle;
pub mod revoked;
pub mod serve;

use std::time::Duration;

/// Bytes in flight per stream before its reader must catch up: enough to fill a 10 Gbit/s link at 3 ms.
const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Bytes per HTTP/2 frame. With the 16 KiB that are the default, one stream is three times slower (loopback, 2 cores).
const MAX_FRAME: u32 = 256 << 10;
/// How often a silent connection is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long it has to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
