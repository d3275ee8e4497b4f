//! The Debian root that all hosts share, built once from this machine's own mirrors and kept in the cache.

use std::{fs, path::PathBuf, process::Command};

use sha2::{Digest as _, Sha256};

use super::run;

const ALWAYS: &[&str] = &["systemd", "systemd-sysv", "libnss-systemd", "dbus", "iproute2"];

/// The tools that build and run hosts; tests/run installs them.
const TOOLS: &[&str] = &["systemd-nspawn", "mmdebstrap", "ip", "nft", "nsenter", "unshare"];

/// Builds the root; its arguments are the new directory and the packages. What a package would start at boot is left for the
/// tests to enable.
const BUILD: &str = r#"
set -euo pipefail
new=$1 packages=$2
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
sources() {
    apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Identifier: Packages' 'Origin: Debian'
}
[[ $(sources) ]] || apt-get -qq update
rm -rf --one-file-system "$new"
sources | mmdebstrap --quiet --variant=minbase --include="$packages" --dpkgopt=force-unsafe-io \
    --dpkgopt=path-exclude='/usr/share/doc/*' --dpkgopt=path-exclude='/usr/share/man/*' \
    --dpkgopt=path-exclude='/usr/share/locale/*' "$suite" "$new" -
rm -f "$new"/etc/systemd/system/multi-user.target.wants/* "$new"/etc/systemd/system/timers.target.wants/*
: >"$new/etc/machine-id"
: >"$new/etc/resolv.conf"
"#;

/// Where the root with these packages is.
///
/// # Panics
/// When it is not there yet and cannot be built.
pub(super) fn root(packages: &[&str]) -> PathBuf {
    let mut all: Vec<&str> = ALWAYS.iter().chain(packages).copied().collect();
    all.sort_unstable();
    let all = all.join(",");
    let name = hex::encode(Sha256::digest(format!("{all}{BUILD}")));
    let cache = cache();
    let root = cache.join(&name[..12]);
    fs::create_dir_all(&cache).expect("the cache");
    let lock = fs::File::open(&cache).expect("the cache");
    // Two suites that begin at once build it once.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("the cache's lock");
    look_for_tools();
    if !root.is_dir() {
        let new = cache.join("new");
        run(Command::new("bash").args(["-c", BUILD, "bash"]).arg(&new).arg(&all));
        fs::rename(&new, &root).expect("the root takes its place");
    }
    root
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let base = std::env::var_os("PREXOR_CACHE").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("XDG_CACHE_HOME")?).join("prexorcloud-backup")));
    base.unwrap_or_else(|| home().join(".cache/prexorcloud-backup")).join("hosts")
}

fn look_for_tools() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &&str| std::env::split_paths(&path).any(|dir| dir.join(tool).exists());
    let missing: Vec<_> = TOOLS.iter().filter(|tool| !there(tool)).collect();
    assert!(missing.is_empty(), "hosts need {missing:?}; `tests/run hosts` installs that");
}
