//! The shape of the tree, kept by tests: who may use whom, which module alone names a library, how long a file may be.
//!
//! ARCHITECTURE.md explains the layers; this file knows nothing of what the crates do.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use prexor_tests::servers::repository;

/// From the bottom up. A crate may use those of lower layers, never one beside or above it.
const LAYERS: &[&[&str]] = &[
    &["prexor-format"],
    &["prexor-proto", "prexor-certs"],
    &["prexor-transport", "prexor-daemon"],
    &["prexor-agent", "prexor-coordinator", "prexorctl"],
    &["prexor-tests"],
];

/// Below `folder`, only files whose path begins with one of `homes` may name `library`.
struct Home {
    folder: &'static str,
    library: &'static str,
    homes: &'static [&'static str],
}

const HOMES: &[Home] = &[
    Home { folder: "coordinator/src", library: "tonic", homes: &["grpc", "agents"] },
    Home { folder: "coordinator/src", library: "sqlx", homes: &["catalog"] },
    Home { folder: "coordinator/src", library: "object_store", homes: &["store"] },
    Home { folder: "agent/src", library: "mongodb", homes: &["source/mongo"] },
    Home { folder: "agent/src", library: "fred", homes: &["source/valkey"] },
    Home { folder: "agent/src", library: "tar", homes: &["source/files"] },
    // What is pure needs no runtime.
    Home { folder: "coordinator/src/restore/plan.rs", library: "tokio", homes: &[] },
    Home { folder: "coordinator/src/restore/plan", library: "tokio", homes: &[] },
    Home { folder: "format/src", library: "tokio", homes: &[] },
    Home { folder: "format/src", library: "async_trait", homes: &[] },
    Home { folder: "format/src", library: "std::time::SystemTime", homes: &[] },
];

fn rust_files() -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory of ours") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, found);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(repository(), &mut found);
    assert!(found.len() > 50, "the walk found only {} files", found.len());
    found.sort();
    found
}

fn below_root(path: &Path) -> String {
    path.strip_prefix(repository()).expect("below the root").display().to_string()
}

/// Whether a line of code names the library: its name as a whole word, before any comment.
fn names(line: &str, library: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(library).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + library.len()..];
        // `tar` may be a variable; only as a path it is the crate.
        let used = after.starts_with("::") || (code.trim_start().starts_with("use ") && after.starts_with([';', ' ']));
        !before.is_some_and(|c| part_of_a_word(c) || c == ':') && used
    })
}

#[test]
fn crates_use_only_lower_layers() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(repository())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), LAYERS.concat().len(), "every crate of the workspace has a layer");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let own = layer(name).unwrap_or_else(|| panic!("{name} has no layer"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            if let Some(other_layer) = layer(other) {
                assert!(other_layer < own, "{name} must not depend on {other}");
            }
        }
    }
}

#[test]
fn libraries_are_named_in_their_homes_only() {
    let mut strays = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        let shown = below_root(&path);
        for home in HOMES {
            let Some(below) = shown.strip_prefix(home.folder) else { continue };
            let below = below.trim_start_matches('/');
            if home.homes.iter().any(|allowed| below.starts_with(allowed)) {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                if names(line, home.library) {
                    strays.push(format!("{shown}:{}: names {}: {}", number + 1, home.library, line.trim()));
                }
            }
        }
    }
    assert!(strays.is_empty(), "{}", strays.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).unwrap();
        let (shown, lines) = (below_root(&path), text.lines().count());
        if lines > 500 {
            wrong.push(format!("{shown}: {lines} lines, more than 500"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{shown}: does not begin with a `//!` that says what it owns"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_found_as_paths_and_not_as_words() {
    for line in ["use tonic::Request;", "    tonic::Status::ok()", "use tonic;", "use tonic as t;", "f(tonic::x)"] {
        assert!(names(line, "tonic"), "{line}");
    }
    for line in
        ["// tonic::x", "let tonic = 1;", "use my_tonic::x;", "x::tonic::y()", "\"tonic\"", "use tonic_types::x;"]
    {
        assert!(!names(line, "tonic"), "{line}");
    }
}
