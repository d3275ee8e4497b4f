//! The names of the machine's users and groups, from `passwd(5)` and `group(5)`. Those that only a directory service
//! knows stay numbers, which is what a restore goes by.

use std::{collections::HashMap, fs};

use prexor_format::tree::Owners;

/// Reads both files; a file that cannot be read has no names.
pub(super) fn read() -> Owners {
    let names = |path| names(&fs::read(path).unwrap_or_default());
    Owners { users: names("/etc/passwd"), groups: names("/etc/group") }
}

/// Of several names of one number the first counts, as for the C library.
fn names(table: &[u8]) -> HashMap<u32, Vec<u8>> {
    let mut out = HashMap::new();
    for line in table.split(|b| *b == b'\n') {
        let mut fields = line.split(|b| *b == b':');
        let (name, id) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
        if let Some(id) = id.filter(|_| !name.is_empty() && !name.starts_with(b"#")) {
            out.entry(id).or_insert_with(|| name.to_vec());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_names_count_and_odd_lines_do_not() {
        let found =
            names(b"root:x:0:0::/root:/bin/sh\n#old:x:5:\n+\n\ntoor:x:0:\nx:x:-1:\nadm:x:4:a,b\n:x:9:\nlast:x:7");
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort();
        assert_eq!(found, [(0, b"root".to_vec()), (4, b"adm".to_vec()), (7, b"last".to_vec())]);
    }
}
