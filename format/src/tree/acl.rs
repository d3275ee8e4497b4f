//! Access control lists as text, which GNU tar wants beside the attribute that the kernel keeps them in, to list and to
//! restore them with `--acls`. Reading them back is not needed: the attribute itself is in the tar.

/// The record that holds the text of an attribute which is an access control list.
pub(super) fn keyword(attribute: &[u8]) -> Option<&'static [u8]> {
    match attribute {
        b"system.posix_acl_access" => Some(b"SCHILY.acl.access"),
        b"system.posix_acl_default" => Some(b"SCHILY.acl.default"),
        _ => None,
    }
}

/// The text of a list in the kernel's encoding (linux/posix_acl_xattr.h), one entry a line, users and groups by number;
/// `None` when it is not in that encoding.
pub(super) fn text(value: &[u8]) -> Option<Vec<u8>> {
    let (entries, rest) = value.strip_prefix(&2u32.to_le_bytes())?.as_chunks::<8>();
    if !rest.is_empty() || entries.is_empty() {
        return None;
    }
    let mut out = String::new();
    for [t0, t1, p0, p1, id @ ..] in entries {
        let id = u32::from_le_bytes(*id);
        let permissions = u16::from_le_bytes([*p0, *p1]);
        out += &match u16::from_le_bytes([*t0, *t1]) {
            0x01 => "user::".to_owned(),
            0x02 => format!("user:{id}:"),
            0x04 => "group::".to_owned(),
            0x08 => format!("group:{id}:"),
            0x10 => "mask::".to_owned(),
            0x20 => "other::".to_owned(),
            _ => return None,
        };
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            out.push(if permissions & bit != 0 { letter } else { '-' });
        }
        out.push('\n');
    }
    Some(out.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_text() {
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let none = u32::MAX;
        let value = [
            2u32.to_le_bytes().to_vec(),
            entry(1, 7, none),
            entry(2, 4, 1000),
            entry(4, 5, none),
            entry(8, 2, 7),
            entry(16, 6, none),
            entry(32, 0, none),
        ]
        .concat();
        let expected = "user::rwx\nuser:1000:r--\ngroup::r-x\ngroup:7:-w-\nmask::rw-\nother::---\n";
        assert_eq!(text(&value).unwrap(), expected.as_bytes());
        for bad in [&value[..value.len() - 1], &value[..4], &value[..3], b"", &[2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
    }
}
