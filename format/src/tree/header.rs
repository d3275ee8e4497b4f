//! The blocks of a tar: ustar headers and pax records (POSIX.1-2017, `pax` utility, "ustar Interchange Format" and
//! "pax Extended Header"). Numbers and names only; what an entry means is known in `write` and `read`.

use super::entry::Mtime;

/// Everything in a tar is padded to this.
pub(super) const BLOCK: usize = 512;

/// The most bytes that one entry's pax records may take: readers keep them in memory.
pub const MAX_EXTENDED: usize = 1 << 20;

/// The largest numbers that fit into the octal fields of a header.
pub(super) const MAX_ID: u32 = 0o7_777_777;
pub(super) const MAX_SIZE: u64 = 0o77_777_777_777;

/// Length of the name and link name fields.
pub(super) const NAME_FIELD: usize = 100;

/// The names of owner and group that fit into their fields, which end with a NUL.
pub(super) const MAX_OWNER: usize = 31;

/// The prefix of the keyword under which star, GNU tar and libarchive keep extended attributes.
pub(super) const XATTR_KEYWORD: &[u8] = b"SCHILY.xattr.";

/// The fields of a header. What does not fit stands in the pax records before it, and the field holds what it can.
#[derive(Debug, Clone, Default)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) seconds: i64,
    pub(super) kind: u8,
    pub(super) link: Vec<u8>,
    /// Names of owner and group, which a program that unpacks prefers to their numbers; empty where there are none.
    pub(super) user: Vec<u8>,
    pub(super) group: Vec<u8>,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; BLOCK] {
        let mut b = [0; BLOCK];
        let text = |b: &mut [u8; BLOCK], at: usize, s: &[u8]| {
            let s = &s[..s.len().min(NAME_FIELD)];
            b[at..at + s.len()].copy_from_slice(s);
        };
        let octal = |b: &mut [u8; BLOCK], at: usize, digits: usize, n: u64| {
            b[at..at + digits].copy_from_slice(format!("{n:0digits$o}").as_bytes());
        };
        text(&mut b, 0, &self.name);
        octal(&mut b, 100, 7, u64::from(self.mode & 0o7777));
        octal(&mut b, 108, 7, u64::from(if self.uid > MAX_ID { 0 } else { self.uid }));
        octal(&mut b, 116, 7, u64::from(if self.gid > MAX_ID { 0 } else { self.gid }));
        octal(&mut b, 124, 11, if self.size > MAX_SIZE { 0 } else { self.size });
        octal(&mut b, 136, 11, u64::try_from(self.seconds).ok().filter(|s| *s <= MAX_SIZE).unwrap_or(0));
        b[156] = self.kind;
        text(&mut b, 157, &self.link);
        b[257..265].copy_from_slice(b"ustar\x0000");
        for (at, name) in [(265, &self.user), (297, &self.group)] {
            let name = &name[..name.len().min(MAX_OWNER)];
            b[at..at + name.len()].copy_from_slice(name);
        }
        octal(&mut b, 329, 7, 0);
        octal(&mut b, 337, 7, 0);
        let sum = checksum(&b);
        octal(&mut b, 148, 6, sum);
        b[155] = b' ';
        b
    }

    /// The fields of a block; says in words what is wrong with it.
    pub(super) fn decode(b: &[u8; BLOCK]) -> Result<Self, String> {
        if number(&b[148..156]) != Some(checksum(b)) {
            return Err("the checksum of a header is wrong".to_owned());
        }
        if &b[257..265] != b"ustar\x0000" {
            return Err("a header is of another tar format than ustar or pax".to_owned());
        }
        let text = |range: std::ops::Range<usize>| {
            let field = &b[range];
            field[..field.iter().position(|c| *c == 0).unwrap_or(field.len())].to_vec()
        };
        let octal = |range, what: &str| number(&b[range]).ok_or_else(|| format!("the {what} of a header is no number"));
        let id = |range, what: &str| {
            octal(range, what)
                .and_then(|n| u32::try_from(n).map_err(|_| format!("the {what} of a header is too large")))
        };
        let (prefix, mut name) = (text(345..500), text(0..100));
        if !prefix.is_empty() {
            name = [prefix.as_slice(), b"/", &name].concat();
        }
        Ok(Self {
            name,
            mode: id(100..108, "mode")?,
            uid: id(108..116, "owner")?,
            gid: id(116..124, "group")?,
            size: octal(124..136, "size")?,
            seconds: i64::try_from(octal(136..148, "time")?).map_err(|_| "the time of a header is too large")?,
            kind: b[156],
            link: text(157..257),
            user: text(265..297),
            group: text(297..329),
        })
    }
}

/// The sum of all bytes, the checksum's own field counted as spaces.
fn checksum(b: &[u8; BLOCK]) -> u64 {
    b.iter().enumerate().map(|(i, c)| u64::from(if (148..156).contains(&i) { b' ' } else { *c })).sum()
}

/// Octal digits, spaces before and spaces or NULs after; nothing at all is 0.
fn number(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_start_matches(' ').trim_end_matches([' ', '\0']);
    if text.is_empty() {
        return Some(0);
    }
    (text.bytes().all(|b| b.is_ascii_digit())).then(|| u64::from_str_radix(text, 8).ok())?
}

/// Appends `<length> <keyword>=<value>\n`, the length counting its own digits.
pub(super) fn push_record(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The records of an extended header as (keyword, value). Values may hold any bytes, newlines too. `None` ends a
/// malformed header.
pub(super) fn records(mut data: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let mut record = || {
            let space = data.iter().take(20).position(|b| *b == b' ')?;
            let digits = &data[..space];
            let len: usize =
                digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok())??.parse().ok()?;
            let (record, rest) = data.split_at_checked(len)?;
            let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
            let eq = body.iter().position(|b| *b == b'=')?;
            data = rest;
            Some((&body[..eq], &body[eq + 1..]))
        };
        let record = record();
        if record.is_none() {
            data = &[];
        }
        Some(record)
    })
}

/// A keyword may not hold `=`: GNU tar writes it, and `%`, as in a URI.
pub(super) fn encode_xattr_name(name: &[u8]) -> Vec<u8> {
    let mut out = XATTR_KEYWORD.to_vec();
    for b in name {
        match b {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            _ => out.push(*b),
        }
    }
    out
}

/// The attribute's name in a keyword, or `None` if it is another keyword.
pub(super) fn decode_xattr_name(keyword: &[u8]) -> Option<Vec<u8>> {
    let mut rest = keyword.strip_prefix(XATTR_KEYWORD)?;
    let mut out = Vec::with_capacity(rest.len());
    while let Some((first, tail)) = rest.split_first() {
        (out, rest) = match rest.get(..3) {
            Some(b"%25") => ([out.as_slice(), b"%"].concat(), &rest[3..]),
            Some(b"%3D") => ([out.as_slice(), b"="].concat(), &rest[3..]),
            _ => {
                out.push(*first);
                (out, tail)
            }
        };
    }
    Some(out)
}

/// As pax writes times: decimal, with a fraction where there is one, `-1.5` being a second and a half before the epoch.
pub(super) fn format_time(t: Mtime) -> String {
    let (sign, seconds, nanos) = match t.seconds {
        s if s >= 0 => ("", s.unsigned_abs(), t.nanos),
        s if t.nanos == 0 => ("-", s.unsigned_abs(), 0),
        s => ("-", s.unsigned_abs() - 1, 1_000_000_000 - t.nanos),
    };
    let text = format!("{sign}{seconds}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Reads [`format_time`]; digits beyond nanoseconds are cut off.
pub(super) fn parse_time(value: &[u8]) -> Option<Mtime> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |t| (true, t));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanos: u32 = format!("{:0<9}", fraction.get(..9).unwrap_or(fraction)).parse().ok()?;
    Some(match (negative, nanos) {
        (false, _) => Mtime { seconds, nanos },
        (true, 0) => Mtime { seconds: -seconds, nanos: 0 },
        (true, _) => Mtime { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        for len in [0, 1, 3, 4, 85, 86, 87, 88, 89, 90, 985, 986, 987, 988, 9980, 70_000] {
            let value = vec![b'\n'; len];
            let mut out = Vec::new();
            push_record(&mut out, b"path", &value);
            push_record(&mut out, b"a", b"=");
            let back: Vec<_> = records(&out).map(Option::unwrap).collect();
            assert_eq!(back, [(&b"path"[..], &value[..]), (b"a", b"=")]);
        }
    }

    #[test]
    fn malformed_records_end_the_header() {
        for bad in
            ["x", "5 a=b", "999 a=b\n", "6 ab\n\n", "0 a=b\n", " a=b\n", "+6 a=b\n", "99999999999999999999 a=b\n"]
        {
            assert_eq!(records(bad.as_bytes()).next(), Some(None), "{bad:?}");
            assert_eq!(records(bad.as_bytes()).count(), 1);
        }
    }

    #[test]
    fn times_survive() {
        for (t, text) in [
            ((0, 0), "0"),
            ((1, 500_000_000), "1.5"),
            ((-2, 500_000_000), "-1.5"),
            ((-1, 999_999_999), "-0.000000001"),
            ((-3, 0), "-3"),
            ((1_800_000_000, 1), "1800000000.000000001"),
        ] {
            let t = Mtime { seconds: t.0, nanos: t.1 };
            assert_eq!(format_time(t), text);
            assert_eq!(parse_time(text.as_bytes()), Some(t));
        }
        for bad in ["", ".", "-", "1e3", "1.-5", "99999999999999999999"] {
            assert_eq!(parse_time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn xattr_names_survive() {
        let name = b"user.a=b%3Dc";
        assert_eq!(decode_xattr_name(&encode_xattr_name(name)).as_deref(), Some(&name[..]));
        assert!(!encode_xattr_name(name)[XATTR_KEYWORD.len()..].contains(&b'='));
    }
}
