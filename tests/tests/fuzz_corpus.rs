//! What the fuzzers found worth keeping (`tests/fuzz`), through the same checks.
#![allow(clippy::unwrap_used, reason = "a test that panics says what it needs to")]

use std::{fs, panic, path::Path};

#[path = "../fuzz/src/targets/mod.rs"]
#[expect(unreachable_pub, reason = "the fuzzers are a crate that uses it too")]
mod targets;

fn replay(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() > 100, "{} holds {} files", dir.display(), inputs.len());
    for path in inputs {
        let data = fs::read(&path).unwrap();
        panic::catch_unwind(|| check(&data)).unwrap_or_else(|_| panic!("{} fails", path.display()));
    }
}

#[test]
fn tar() {
    replay("tar", targets::tar::check);
}

#[test]
fn rdb() {
    replay("rdb", targets::rdb::check);
}

#[test]
fn bson() {
    replay("bson", targets::bson::check);
}
