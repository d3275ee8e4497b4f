//! The elements of one level of a document, as slices of its bytes.

use super::{BsonError, length_at};

/// The element types of the specification, deprecated ones included.
#[expect(missing_docs, reason = "the names are those of the specification")]
pub mod kind {
    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const UNDEFINED: u8 = 0x06;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOLEAN: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0A;
    pub const REGEX: u8 = 0x0B;
    pub const DB_POINTER: u8 = 0x0C;
    pub const CODE: u8 = 0x0D;
    pub const SYMBOL: u8 = 0x0E;
    pub const CODE_WITH_SCOPE: u8 = 0x0F;
    pub const INT32: u8 = 0x10;
    pub const TIMESTAMP: u8 = 0x11;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL128: u8 = 0x13;
    pub const MIN_KEY: u8 = 0xFF;
    pub const MAX_KEY: u8 = 0x7F;
}

/// One element: a name and a typed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// One of [`kind`].
    pub kind: u8,
    /// The name's bytes, without the terminator; most often UTF-8.
    pub name: &'a [u8],
    /// The value's bytes, its own length and terminator included.
    pub value: &'a [u8],
}

impl<'a> Element<'a> {
    /// The text of a string, symbol or code, when it is UTF-8.
    pub fn as_str(&self) -> Option<&'a str> {
        match self.kind {
            kind::STRING | kind::SYMBOL | kind::CODE => {
                std::str::from_utf8(self.value.get(4..self.value.len() - 1)?).ok()
            }
            _ => None,
        }
    }

    /// The bytes of a document or array.
    pub fn as_document(&self) -> Option<&'a [u8]> {
        matches!(self.kind, kind::DOCUMENT | kind::ARRAY).then_some(self.value)
    }

    /// A boolean's value.
    pub fn as_bool(&self) -> Option<bool> {
        (self.kind == kind::BOOLEAN).then(|| self.value != [0])
    }

    /// An Int32, an Int64, or a double without a fraction, as a number.
    pub fn as_integer(&self) -> Option<i64> {
        match self.kind {
            kind::INT32 => Some(i32::from_le_bytes(self.value.try_into().ok()?).into()),
            kind::INT64 => Some(i64::from_le_bytes(self.value.try_into().ok()?)),
            kind::DOUBLE => {
                let d = f64::from_le_bytes(self.value.try_into().ok()?);
                // Beyond 2^53 not every integer is a double: such a value is no count, size or duration.
                (d.fract() == 0.0 && d.abs() <= 9_007_199_254_740_992.0).then_some(d as i64)
            }
            _ => None,
        }
    }

    /// A timestamp: seconds in the upper half, the increment in the lower.
    pub fn as_timestamp(&self) -> Option<u64> {
        (self.kind == kind::TIMESTAMP).then_some(())?;
        Some(u64::from_le_bytes(self.value.try_into().ok()?))
    }

    /// A date, in milliseconds since the epoch.
    pub fn as_date(&self) -> Option<i64> {
        (self.kind == kind::DATE).then_some(())?;
        Some(i64::from_le_bytes(self.value.try_into().ok()?))
    }
}

/// Walks the elements of one document or array, without going into nested ones. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    doc: &'a [u8],
    at: usize,
}

impl<'a> Elements<'a> {
    /// Of a whole document: its length must be that of the slice.
    ///
    /// # Errors
    /// When the length or the terminator are wrong.
    pub fn of(doc: &'a [u8]) -> Result<Self, BsonError> {
        if length_at(doc, 0) != Some(doc.len()) {
            return Err(BsonError { offset: 0, what: "a wrong document length" });
        }
        if doc.len() < 5 || doc[doc.len() - 1] != 0 {
            return Err(BsonError { offset: doc.len().saturating_sub(1), what: "a missing document terminator" });
        }
        Ok(Self { doc, at: 4 })
    }

    /// The first element of `doc` with this name; `None` also when `doc` is malformed before it.
    pub fn find(doc: &'a [u8], name: &str) -> Option<Element<'a>> {
        Self::of(doc).ok()?.map_while(Result::ok).find(|e| e.name == name.as_bytes())
    }

    fn read(&mut self) -> Result<Option<Element<'a>>, BsonError> {
        let last = self.doc.len() - 1;
        if self.at == last {
            return Ok(None);
        }
        let kind = self.doc[self.at];
        let start = self.at + 1;
        let name_len = self.doc[start..last]
            .iter()
            .position(|b| *b == 0)
            .ok_or(BsonError { offset: start, what: "a name without an end" })?;
        let value_at = start + name_len + 1;
        let len = value_len(kind, &self.doc[..last], value_at)?;
        self.at = value_at + len;
        Ok(Some(Element { kind, name: &self.doc[start..start + name_len], value: &self.doc[value_at..value_at + len] }))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, BsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        let element = self.read().transpose();
        if matches!(element, Some(Err(_))) {
            self.at = self.doc.len() - 1;
        }
        element
    }
}

/// The length of the value of type `kind` that begins at `at` and must end within `bytes`. Checks lengths and the
/// terminators of strings, not what nested documents hold.
pub(super) fn value_len(kind: u8, bytes: &[u8], at: usize) -> Result<usize, BsonError> {
    let fail = |what| BsonError { offset: at, what };
    let rest = bytes.get(at..).ok_or(fail("a value beyond the document's end"))?;
    let length = |offset| length_at(rest, offset).ok_or(fail("a wrong length"));
    let string = |offset: usize| {
        let len = length(offset)?;
        let whole = len.checked_add(4).ok_or(fail("a wrong length"))?;
        match len.checked_sub(1).and_then(|l| rest.get(offset + 4 + l)) {
            Some(0) => Ok(whole),
            Some(_) => Err(fail("a string without its terminator")),
            None => Err(fail("a wrong string length")),
        }
    };
    let cstring = |offset: usize| {
        let tail = rest.get(offset..).ok_or(fail("a regular expression without an end"))?;
        tail.iter().position(|b| *b == 0).map(|n| n + 1).ok_or(fail("a regular expression without an end"))
    };
    let len = match kind {
        kind::DOUBLE | kind::DATE | kind::TIMESTAMP | kind::INT64 => 8,
        kind::INT32 => 4,
        kind::DECIMAL128 => 16,
        kind::OBJECT_ID => 12,
        kind::BOOLEAN => 1,
        kind::NULL | kind::UNDEFINED | kind::MIN_KEY | kind::MAX_KEY => 0,
        kind::STRING | kind::CODE | kind::SYMBOL => string(0)?,
        kind::DB_POINTER => string(0)? + 12,
        kind::BINARY => length(0)?.checked_add(5).ok_or(fail("a wrong length"))?,
        kind::REGEX => {
            let pattern = cstring(0)?;
            pattern + cstring(pattern)?
        }
        kind::DOCUMENT | kind::ARRAY => match length(0)? {
            len if len >= 5 => len,
            _ => return Err(fail("a wrong document length")),
        },
        kind::CODE_WITH_SCOPE => match length(0)? {
            // Its length, an empty string and an empty document.
            len if len >= 4 + 5 + 5 && string(4)? <= len - 4 - 5 => len,
            _ => return Err(fail("a wrong length of code with scope")),
        },
        _ => return Err(fail("an unknown element type")),
    };
    if len > rest.len() { Err(fail("a value beyond the document's end")) } else { Ok(len) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bson::DocBuilder;

    #[test]
    fn elements_come_as_they_are_also_when_names_repeat() {
        let mut b = DocBuilder::new();
        b.string("a", "x").int32("a", 7).boolean("b", true).document("c", super::super::EMPTY_DOCUMENT);
        let doc = b.finish();
        let all: Vec<_> = Elements::of(&doc).unwrap().map(Result::unwrap).collect();
        assert_eq!(all.iter().map(|e| e.name).collect::<Vec<_>>(), [b"a", b"a", b"b", b"c"]);
        assert_eq!(all[0].as_str(), Some("x"));
        assert_eq!(all[1].as_integer(), Some(7));
        assert_eq!(Elements::find(&doc, "b").and_then(|e| e.as_bool()), Some(true));
        assert_eq!(Elements::find(&doc, "c").and_then(|e| e.as_document().map(<[u8]>::len)), Some(5));
        assert_eq!(Elements::find(&doc, "d"), None);
    }

    #[test]
    fn a_value_never_reaches_past_its_document() {
        // A string that would use the document's own terminator as its own.
        let doc = b"\x0e\0\0\0\x02a\0\x03\0\0\0xy\0";
        assert!(Elements::of(doc).unwrap().any(|e| e.is_err()));
    }
}
