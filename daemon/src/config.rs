//! Configuration files: YAML into typed structs, with errors that say where and what was probably meant.
//!
//! What the keys mean, and whether the values make sense together, is for the types and their owners. Types refuse
//! unknown keys themselves: `#[serde(deny_unknown_fields)]`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_saphyr::{DuplicateKeyPolicy, Error, options};

/// A configuration that cannot be used. Daemons exit with [`crate::exit::CONFIG`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file does not say what it should.
    #[error("{}{}: {problem}", path.display(), line.map(|l| format!(", line {l}")).unwrap_or_default())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where it is known.
        line: Option<u64>,
        /// What is wrong, and what to write instead. Values are not repeated, they may be secrets.
        problem: String,
    },
}

/// Loads a file. Keys may not repeat, and an empty file is an empty mapping.
///
/// # Errors
/// If it cannot be read or does not fit `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|error| ConfigError::Invalid {
        path: path.to_owned(),
        line: error.location().map(|at| at.line()),
        problem: explain(&error),
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    // Snippets of the file would bring its secrets into logs.
    let options = options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    let empty = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    serde_saphyr::from_str_with_options(if empty { "{}" } else { text }, options)
}

fn explain(error: &Error) -> String {
    match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => unknown("key", field, expected),
        Error::SerdeUnknownVariant { variant, expected, .. } => unknown("value", variant, expected),
        Error::SerdeMissingField { field, .. } => format!("the key '{field}' is missing"),
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            format!("this should be {expected}")
        }
        Error::InvalidScalar { ty, .. } => format!("this should be {ty}"),
        other => other.render().lines().next().unwrap_or_default().to_owned(),
    }
}

/// Names what is unknown and the nearest known one, or all when none is near.
fn unknown(what: &str, given: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&given.to_lowercase(), k), *k))
        .min()
        .filter(|(distance, k)| *distance <= k.len().max(given.len()).div_ceil(3));
    match nearest {
        Some((_, key)) => format!("unknown {what} '{given}': did you mean '{key}'?"),
        None if known.is_empty() => format!("unknown {what} '{given}': none is expected here"),
        None => format!("unknown {what} '{given}': known are {}", known.join(", ")),
    }
}
