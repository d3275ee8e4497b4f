//! Which RDB files a server can load (law L19).

use super::SourceError;

/// Refuses a file of a version that the server cannot load. Servers that are newer than this list are given the benefit of
/// the doubt: they say themselves what they cannot load, and the restore is then rolled back.
pub(super) fn loadable(rdb: u32, name: &str, version: &str) -> Result<(), SourceError> {
    let fits = match highest(name, version) {
        // Valkey 9 takes its own versions, from 80 on, and those up to the last that it shares with Redis.
        Some(highest @ 80..) => rdb <= 11 || (80..=highest).contains(&rdb),
        Some(highest) => rdb <= highest,
        None => true,
    };
    if fits {
        return Ok(());
    }
    Err(SourceError::Invalid(format!(
        "the backup's RDB file has version {rdb}, {name} {version} loads up to version {}: restore into a server like the one that \
         wrote it, or newer",
        highest(name, version).unwrap_or_default()
    )))
}

/// The version that a server writes, from `rdb.h` of each release.
pub(super) fn highest(name: &str, version: &str) -> Option<u32> {
    let mut numbers = version.split('.').map(|n| n.parse::<u32>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    match (name, major, minor) {
        ("valkey", 7..=8, _) => Some(11),
        ("valkey", 9, 0..=1) => Some(80),
        ("redis", 0..=2, _) => Some(6),
        ("redis", 3, 0..=1) => Some(6),
        ("redis", 3, _) => Some(7),
        ("redis", 4, _) => Some(8),
        ("redis", 5..=6, _) => Some(9),
        ("redis", 7, 0..=1) => Some(10),
        ("redis", 7, 2..=3) => Some(11),
        ("redis", 7, _) | ("redis", 8, 0) => Some(12),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_files_are_refused() {
        for (rdb, name, version, ok) in [
            (11, "valkey", "8.0.1", true),
            (12, "valkey", "8.1.0", false),
            (80, "valkey", "8.1.0", false),
            (80, "valkey", "9.0.0", true),
            (12, "valkey", "9.0.0", false),
            (11, "redis", "7.0.15", false),
            (10, "redis", "7.0.15", true),
            (12, "redis", "7.4.1", true),
            (80, "redis", "8.0.0", false),
            (80, "valkey", "10.0.0", true),
            (11, "else", "x", true),
        ] {
            assert_eq!(loadable(rdb, name, version).is_ok(), ok, "{rdb} into {name} {version}");
        }
    }
}
