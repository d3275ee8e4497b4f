//! Walks a document to its leaves and checks its framing, in constant memory.

use super::{BsonError, MAX_DEPTH, MAX_DOCUMENT_SIZE, element::value_len, kind, length_at};

/// What a walk saw beside sound framing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Elements on all levels.
    pub elements: u64,
    /// Levels; a flat document has 1.
    pub depth: usize,
    /// Names, strings and patterns that are no UTF-8. mongod stores and returns them, so they are no error.
    pub invalid_utf8: u64,
    /// Top-level elements, `_id` excepted, that are Timestamp(0,0): a server replaces these when they are inserted.
    pub zero_timestamps: u64,
}

/// Checks that `doc` is one whole document: lengths, terminators and known types on every level.
///
/// # Errors
/// At the first offence against the specification, [`MAX_DOCUMENT_SIZE`] or [`MAX_DEPTH`].
pub fn walk(doc: &[u8]) -> Result<Walked, BsonError> {
    let mut seen = Walked::default();
    // Where each open level ends: the offset of its terminator.
    let mut ends = [0usize; MAX_DEPTH];
    if doc.len() > MAX_DOCUMENT_SIZE {
        return Err(BsonError { offset: 0, what: "a document beyond 16 MiB + 16 KiB" });
    }
    if doc.len() < 5 || length_at(doc, 0) != Some(doc.len()) {
        return Err(BsonError { offset: 0, what: "a wrong document length" });
    }
    let mut open = 0; // index of the innermost open level
    ends[0] = doc.len() - 1;
    seen.depth = 1;
    let mut at = 4;
    loop {
        let end = ends[open];
        if at == end {
            if doc[end] != 0 {
                return Err(BsonError { offset: end, what: "a missing document terminator" });
            }
            at += 1;
            if open == 0 {
                return Ok(seen);
            }
            open -= 1;
            continue;
        }
        let kind = doc[at];
        let name_at = at + 1;
        let name_len = doc[name_at..end]
            .iter()
            .position(|b| *b == 0)
            .ok_or(BsonError { offset: name_at, what: "a name without an end" })?;
        let name = &doc[name_at..name_at + name_len];
        let value_at = name_at + name_len + 1;
        let len = value_len(kind, &doc[..end], value_at)?;
        let value = &doc[value_at..value_at + len];
        seen.elements += 1;
        count_invalid(&mut seen, name);
        at = value_at + len;
        let nested_at = match kind {
            kind::DOCUMENT | kind::ARRAY => Some(value_at),
            kind::CODE_WITH_SCOPE => {
                let code = length_at(value, 4).unwrap_or(0);
                count_invalid(&mut seen, &value[8..8 + code - 1]);
                Some(value_at + 8 + code)
            }
            kind::STRING | kind::CODE | kind::SYMBOL => {
                count_invalid(&mut seen, &value[4..len - 1]);
                None
            }
            kind::DB_POINTER => {
                count_invalid(&mut seen, &value[4..len - 13]);
                None
            }
            kind::REGEX => {
                count_invalid(&mut seen, value);
                None
            }
            kind::TIMESTAMP => {
                seen.zero_timestamps += u64::from(open == 0 && value == [0; 8] && name != b"_id");
                None
            }
            _ => None,
        };
        if let Some(start) = nested_at {
            // A nested document must fill its value to the last byte; only code with scope can differ here.
            if length_at(doc, start).and_then(|l| l.checked_add(start)) != Some(at) {
                return Err(BsonError { offset: start, what: "a wrong document length" });
            }
            open += 1;
            if open == MAX_DEPTH {
                return Err(BsonError { offset: start, what: "nesting deeper than 250 levels" });
            }
            ends[open] = at - 1;
            seen.depth = seen.depth.max(open + 1);
            at = start + 4;
        }
    }
}

fn count_invalid(seen: &mut Walked, text: &[u8]) {
    seen.invalid_utf8 += u64::from(std::str::from_utf8(text).is_err());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bson::{DocBuilder, EMPTY_DOCUMENT, Elements};

    fn nested(levels: usize) -> Vec<u8> {
        (1..levels).fold(EMPTY_DOCUMENT.to_vec(), |inner, _| {
            let mut b = DocBuilder::new();
            b.document("d", &inner);
            b.finish()
        })
    }

    #[test]
    fn every_type_passes() {
        let mut b = DocBuilder::new();
        b.raw(kind::DOUBLE, b"double", &f64::NAN.to_le_bytes())
            .string("string", "s\u{0}x")
            .document("doc", &nested(3))
            .raw(kind::BINARY, b"bin", b"\x02\0\0\0\x05ab")
            .raw(kind::UNDEFINED, b"undef", b"")
            .raw(kind::OBJECT_ID, b"oid", &[7; 12])
            .boolean("bool", false)
            .raw(kind::DATE, b"date", &[1; 8])
            .raw(kind::NULL, b"null", b"")
            .raw(kind::REGEX, b"re", b"a.b\0xi\0")
            .raw(kind::DB_POINTER, b"ptr", b"\x03\0\0\0db\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c")
            .raw(kind::CODE, b"code", b"\x02\0\0\0x\0")
            .raw(kind::SYMBOL, b"sym", b"\x02\0\0\0x\0")
            .raw(kind::CODE_WITH_SCOPE, b"scope", b"\x0f\0\0\0\x02\0\0\0x\0\x05\0\0\0\0")
            .int32("i", 1)
            .raw(kind::TIMESTAMP, b"ts", &[0; 8])
            .int64("l", 1)
            .raw(kind::DECIMAL128, b"dec", &[9; 16])
            .raw(kind::MIN_KEY, b"min", b"")
            .raw(kind::MAX_KEY, b"max", b"");
        let doc = b.finish();
        let seen = walk(&doc).unwrap();
        assert_eq!((seen.depth, seen.invalid_utf8, seen.zero_timestamps), (4, 0, 1));
        assert_eq!(Elements::of(&doc).unwrap().filter(|e| e.is_ok()).count(), 20);
        for cut in 0..doc.len() {
            assert!(walk(&doc[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn depth_is_bounded_and_invalid_utf8_is_told() {
        assert_eq!(walk(&nested(MAX_DEPTH)).unwrap().depth, MAX_DEPTH);
        assert!(walk(&nested(MAX_DEPTH + 1)).is_err());
        let mut b = DocBuilder::new();
        b.raw(kind::STRING, b"\xff", b"\x03\0\0\0\xc3\x28\0");
        assert_eq!(walk(&b.finish()).unwrap().invalid_utf8, 2);
    }

    #[test]
    fn unknown_types_and_bad_scopes_are_refused() {
        for (kind, value) in [(0x14u8, &b""[..]), (0x80, b""), (0, b"")] {
            let mut b = DocBuilder::new();
            b.raw(kind, b"x", value);
            assert!(walk(&b.finish()).is_err(), "{kind:#x}");
        }
        let mut b = DocBuilder::new();
        b.raw(kind::CODE_WITH_SCOPE, b"x", b"\x10\0\0\0\x02\0\0\0x\0\x05\0\0\0\0\0");
        assert!(walk(&b.finish()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), fix: bool) {
            if fix && bytes.len() >= 5 {
                let len = bytes.len() as i32;
                bytes[..4].copy_from_slice(&len.to_le_bytes());
                *bytes.last_mut().unwrap() = 0;
            }
            let _ = walk(&bytes);
            if let Ok(elements) = Elements::of(&bytes) {
                for e in elements.flatten() {
                    let _ = (e.as_str(), e.as_integer(), e.as_bool(), e.as_date(), e.as_document());
                }
            }
        }

        #[test]
        fn a_flipped_byte_never_makes_it_panic(at in 0usize..200, with: u8) {
            let mut b = DocBuilder::new();
            b.document("d", &nested(5))
                .string("s", "text")
                .raw(kind::REGEX, b"re", b"a\0i\0")
                .raw(kind::CODE_WITH_SCOPE, b"c", b"\x0f\0\0\0\x02\0\0\0x\0\x05\0\0\0\0")
                .raw(kind::DB_POINTER, b"p", b"\x01\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c")
                .raw(kind::BINARY, b"b", b"\x02\0\0\0\0ab");
            let mut doc = b.finish();
            let at = at % doc.len();
            doc[at] = with;
            let _ = walk(&doc);
        }
    }
}
