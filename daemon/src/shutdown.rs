//! The end: SIGTERM or SIGINT becomes a token that reaches every loop.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT. What follows (draining, giving up) is the daemon's.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn token() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let fired = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "shutting down");
        fired.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn both_signals_cancel() {
        for signal in [Signal::TERM, Signal::INT] {
            let token = token().unwrap();
            assert!(!token.is_cancelled());
            kill_process(getpid(), signal).unwrap();
            tokio::time::timeout(Duration::from_secs(5), token.cancelled()).await.unwrap();
        }
    }
}
