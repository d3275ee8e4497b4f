//! Patterns of keys, as `KEYS` and `SCAN MATCH` understand them (`util.c` of Redis and Valkey): `*`, `?`, `[a-z]`, `[^a]`
//! and `\` before a character that means itself. Bytes, not text.

/// Whether `text` matches. Takes at most as many steps as the two lengths multiplied: a star that fails later is never
/// tried again once another star was reached.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit: behind the star, one byte of text further.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
                continue;
            }
            None if t == text.len() => return true,
            None => {}
            Some(_) => {
                if let Some(after) = text.get(t).and_then(|byte| one(pattern, p, *byte)) {
                    (p, t) = (after, t + 1);
                    continue;
                }
            }
        }
        match retry {
            Some((star, from)) if from < text.len() => {
                retry = Some((star, from + 1));
                (p, t) = (star, from + 1);
            }
            _ => return false,
        }
    }
}

/// Where the pattern goes on when what it has at `p`, which is no star, takes this byte; `None` when it does not.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern[p] {
        b'?' => Some(p + 1),
        b'[' => set(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (literal == byte).then_some(p + 1),
    }
}

/// A set up to its `]`, or up to the pattern's end where there is none.
fn set(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let not = pattern.get(p) == Some(&b'^');
    p += usize::from(not);
    let mut found = false;
    loop {
        match pattern.get(p) {
            None => break,
            Some(b']') => {
                p += 1;
                break;
            }
            Some(b'\\') if p + 1 < pattern.len() => {
                found |= pattern[p + 1] == byte;
                p += 2;
            }
            Some(&from) if pattern.get(p + 1) == Some(&b'-') && p + 2 < pattern.len() => {
                let to = pattern[p + 2];
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                p += 3;
            }
            Some(&literal) => {
                found |= literal == byte;
                p += 1;
            }
        }
    }
    (found != not).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_servers_match_them() {
        for (pattern, text, expected) in [
            ("prexor:v1:platform:chat:*", "prexor:v1:platform:chat:", true),
            ("prexor:v1:platform:chat:*", "prexor:v1:platform:chat:a:b", true),
            ("prexor:v1:platform:chat:*", "prexor:v1:platform:chats:a", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[c-a]llo", "hbllo", true),
            (r"h\*llo", "h*llo", true),
            (r"h\*llo", "hello", false),
            (r"[\]]", "]", true),
            ("[abc", "c", true),
            ("\\", "\\", true),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(matches(b"*\xff", b"\x00\xff"));
    }

    #[test]
    fn many_stars_end_soon() {
        assert!(!matches(&[b"a*".repeat(2_000), b"b".to_vec()].concat(), &b"a".repeat(20_000)));
    }
}
