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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        listen: Option<String>,
        #[serde(default)]
        limits: Limits,
        #[serde(default)]
        nodes: BTreeMap<String, u16>,
        #[serde(default)]
        mode: Mode,
    }

    #[derive(Debug, Deserialize, PartialEq, Default)]
    #[serde(deny_unknown_fields)]
    struct Limits {
        connections: u32,
        verbose: Option<bool>,
    }

    #[derive(Debug, Deserialize, PartialEq, Default)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        Systemd,
        Hooks,
    }

    fn load_text(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("agent.yml");
        fs::write(&path, text).expect("a file in it");
        load(&path).map_err(|e| e.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn what_is_right_loads() {
        let config =
            load_text("listen: 0.0.0.0:7443\nlimits: {connections: 7}\nnodes:\n  h1: 1\nmode: hooks\n").unwrap();
        assert_eq!(config.listen.as_deref(), Some("0.0.0.0:7443"));
        assert_eq!((config.limits.connections, config.nodes["h1"], config.mode), (7, 1, Mode::Hooks));
        for empty in ["", "\n\n", "# nothing set\n  # at all\n"] {
            assert_eq!(load_text(empty).unwrap().listen, None, "{empty:?}");
        }
    }

    #[test]
    fn errors_say_where_what_and_what_was_meant() {
        for (text, message) in [
            ("lisen: x\n", "agent.yml, line 1: unknown key 'lisen': did you mean 'listen'?"),
            ("Listen: x\n", "agent.yml, line 1: unknown key 'Listen': did you mean 'listen'?"),
            (
                "listen: x\nlimits:\n  connections: 1\n  conections: 2\n",
                "agent.yml, line 4: unknown key 'conections': did you mean 'connections'?",
            ),
            ("password: x\n", "agent.yml, line 1: unknown key 'password': known are listen, limits, nodes, mode"),
            ("mode: hook\n", "agent.yml, line 1: unknown value 'hook': did you mean 'hooks'?"),
            ("limits: {}\n", "agent.yml, line 1: the key 'connections' is missing"),
        ] {
            assert_eq!(load_text(text), Err(message.to_owned()));
        }
        for (text, parts) in [
            ("listen: a\nlisten: b\n", &["line 2", "duplicate", "listen"][..]),
            ("nodes:\n  h1: 1\n  h1: 2\n", &["line 3", "duplicate", "h1"]),
            ("listen: [canary]\n", &["line 1", "string"]),
            ("limits:\n  connections: canary\n", &["line 2", "u32"]),
            ("limits:\n  connections: -1\n", &["line 2"]),
            ("limits:\n  connections: 1\n  verbose: \"canary\"\n", &["line 3", "bool"]),
            ("listen: x\n  nodes: canary\n", &["line 2"]),
            ("- canary\n", &["line 1"]),
            ("canary\n", &["line 1"]),
            ("listen: x\n---\nlisten: canary\n", &["multiple YAML documents"]),
            ("listen: \"canary\n", &["agent.yml"]),
            ("{{ canary }}\n", &["agent.yml"]),
        ] {
            let error = load_text(text).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{text:?}: {part} missing in: {error}");
            }
            assert!(!error.contains("canary") && !error.contains('\n'), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Config>(Path::new("/nonexistent/agent.yml")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the configuration /nonexistent/agent.yml: "), "{error}");
    }
}
