//! Which of PrexorCloud's keys belong together.

/// The common prefix of all keys that PrexorCloud writes to Valkey.
const ROOT: &[u8] = b"prexor:v1:";

/// What follows [`ROOT`]; no name is a prefix of another.
const NAMES: [&str; 16] = [
    "prexor:v1:lease:",
    "prexor:v1:lease-token:",
    "prexor:v1:nodeowner:",
    "prexor:v1:node:",
    "prexor:v1:instance:",
    "prexor:v1:player:",
    "prexor:v1:plugintoken:",
    "prexor:v1:jwt:revoked:",
    "prexor:v1:nodecert:revoked:",
    "prexor:v1:ratelimit:",
    "prexor:v1:cooldown:",
    "prexor:v1:workloadseq:",
    "prexor:v1:sse:",
    "prexor:v1:login:fail:",
    "prexor:v1:login:lock:",
    "prexor:v1:pwreset:",
];

/// A module's own data: the module's id and a colon follow.
pub(crate) const PLATFORM: &str = "prexor:v1:platform:";

/// The longest id that makes a family of its own.
const MODULE_ID_MAX: usize = 64;

/// The family of a key: its known prefix, such as `prexor:v1:lease:` or `prexor:v1:platform:<module id>:`; empty for
/// keys that follow no known pattern.
pub fn family(key: &[u8]) -> &str {
    if !key.starts_with(ROOT) {
        return "";
    }
    if let Some(rest) = key.strip_prefix(PLATFORM.as_bytes()) {
        let id = rest.iter().take(MODULE_ID_MAX + 1).position(|b| *b == b':').unwrap_or(0);
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        if id == 0 || !rest[..id].iter().all(plain) {
            return "";
        }
        return str::from_utf8(&key[..PLATFORM.len() + id + 1]).unwrap_or("");
    }
    NAMES.into_iter().find(|name| key.starts_with(name.as_bytes())).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fall_into_families() {
        for (key, expected) in [
            ("prexor:v1:lease:scheduler", "prexor:v1:lease:"),
            ("prexor:v1:lease-token:scheduler", "prexor:v1:lease-token:"),
            ("prexor:v1:nodeowner:n1", "prexor:v1:nodeowner:"),
            ("prexor:v1:node:n1", "prexor:v1:node:"),
            ("prexor:v1:nodecert:revoked:ab", "prexor:v1:nodecert:revoked:"),
            ("prexor:v1:sse:replay:1", "prexor:v1:sse:"),
            ("prexor:v1:platform:shop:cart:1", "prexor:v1:platform:shop:"),
            ("prexor:v1:platform:shop:", "prexor:v1:platform:shop:"),
            ("prexor:v1:platform:shop", ""),
            ("prexor:v1:platform::x", ""),
            ("prexor:v1:platform:a b:x", ""),
            ("prexor:v1:jwt:", ""),
            ("prexor:v2:lease:x", ""),
            ("", ""),
        ] {
            assert_eq!(family(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(family(format!("prexor:v1:platform:{}:x", "m".repeat(65)).as_bytes()), "");
        assert_eq!(family(b"prexor:v1:platform:\xff:x"), "");
    }
}
