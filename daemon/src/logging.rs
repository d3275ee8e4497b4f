//! Logs: one line per event on standard error, where the journal or a container's runtime picks them up.

use std::io;

use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The environment variable that overrides the configured filter.
pub const FILTER_VARIABLE: &str = "PREXOR_LOG";

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// The filter is malformed.
    #[error("'{filter}' is not a log filter ({reason}): use error, warn, info, debug or trace, or target=level,...")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a logger already.
    #[error("logging is set up already")]
    Twice,
}

/// Starts logging to standard error. `filter` is used unless `PREXOR_LOG` says otherwise.
///
/// # Errors
/// If the filter is malformed, or logging was started before.
pub fn init(format: Format, filter: &str) -> Result<(), LoggingError> {
    let given = std::env::var(FILTER_VARIABLE).ok().filter(|f| !f.is_empty());
    let filter = parse(given.as_deref().unwrap_or(filter))?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => registry.with(fmt::layer().with_writer(io::stderr).with_ansi(false)).try_init(),
        Format::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init(),
    }
    .map_err(|_| LoggingError::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|e| LoggingError::Filter { filter: filter.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in ["info", "warn,prexor_agent=debug", "off"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        let error = parse("prexor=verbosely").map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("'prexor=verbosely' is not a log filter"), "{error}");
    }
}
