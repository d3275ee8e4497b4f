//! Builds documents element by element, in the given order, names unchecked for uniqueness.

use super::kind;

/// A document in the making.
#[derive(Debug, Clone)]
pub struct DocBuilder {
    bytes: Vec<u8>,
}

/// An array in the making; see [`DocBuilder::open_array`].
#[derive(Debug)]
pub struct OpenArray {
    /// Where its length stands.
    at: usize,
    items: usize,
}

impl OpenArray {
    /// How many items it has.
    pub fn items(&self) -> usize {
        self.items
    }
}

impl Default for DocBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl DocBuilder {
    /// An empty document.
    pub fn new() -> Self {
        Self { bytes: vec![0; 4] }
    }

    /// Appends a value of type `kind` whose bytes are `value`, both taken as they are.
    ///
    /// A zero byte in the name ends it there, as BSON has no way to write one.
    pub fn raw(&mut self, kind: u8, name: &[u8], value: &[u8]) -> &mut Self {
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&name[..end]);
        self.bytes.push(0);
        self.bytes.extend_from_slice(value);
        self
    }

    /// Appends every element of `doc`, a whole document.
    pub fn elements_of(&mut self, doc: &[u8]) -> &mut Self {
        if doc.len() > 5 {
            self.bytes.extend_from_slice(&doc[4..doc.len() - 1]);
        }
        self
    }

    /// Appends a string.
    pub fn string(&mut self, name: &str, value: &str) -> &mut Self {
        self.raw(kind::STRING, name.as_bytes(), &string_value(value))
    }

    /// Appends an Int32.
    pub fn int32(&mut self, name: &str, value: i32) -> &mut Self {
        self.raw(kind::INT32, name.as_bytes(), &value.to_le_bytes())
    }

    /// Appends an Int64.
    pub fn int64(&mut self, name: &str, value: i64) -> &mut Self {
        self.raw(kind::INT64, name.as_bytes(), &value.to_le_bytes())
    }

    /// Appends a boolean.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.raw(kind::BOOLEAN, name.as_bytes(), &[value.into()])
    }

    /// Appends a timestamp: seconds in the upper half, the increment in the lower.
    pub fn timestamp(&mut self, name: &str, value: u64) -> &mut Self {
        self.raw(kind::TIMESTAMP, name.as_bytes(), &value.to_le_bytes())
    }

    /// Appends a whole document.
    pub fn document(&mut self, name: &str, doc: &[u8]) -> &mut Self {
        self.raw(kind::DOCUMENT, name.as_bytes(), doc)
    }

    /// Appends an array of whole documents.
    pub fn array_of<D: AsRef<[u8]>>(&mut self, name: &str, docs: impl IntoIterator<Item = D>) -> &mut Self {
        let mut array = Self::new();
        for (i, doc) in docs.into_iter().enumerate() {
            array.document(&i.to_string(), doc.as_ref());
        }
        self.raw(kind::ARRAY, name.as_bytes(), &array.finish())
    }

    /// Opens an array that is filled with [`Self::item`] until [`Self::close`]; so a large one is written only once.
    pub fn open_array(&mut self, name: &str) -> OpenArray {
        self.raw(kind::ARRAY, name.as_bytes(), &[]);
        let at = self.bytes.len();
        self.bytes.extend([0; 4]);
        OpenArray { at, items: 0 }
    }

    /// Appends a whole document to an open array.
    pub fn item(&mut self, array: &mut OpenArray, doc: &[u8]) -> &mut Self {
        self.document(&array.items.to_string(), doc);
        array.items += 1;
        self
    }

    /// Ends an array.
    ///
    /// # Panics
    /// Beyond 2 GiB; see [`Self::finish`].
    pub fn close(&mut self, array: OpenArray) -> &mut Self {
        self.bytes.push(0);
        let len = i32::try_from(self.bytes.len() - array.at).expect("built from documents of bounded size");
        self.bytes[array.at..array.at + 4].copy_from_slice(&len.to_le_bytes());
        self
    }

    /// Bytes so far, terminator included.
    pub fn size(&self) -> usize {
        self.bytes.len() + 1
    }

    /// The whole document.
    ///
    /// # Panics
    /// Beyond 2 GiB, which no caller can reach: inputs are limited to `MAX_DOCUMENT_SIZE`.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(0);
        let len = i32::try_from(self.bytes.len()).expect("built from documents of bounded size");
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        self.bytes
    }
}

/// The bytes of a string value: length with terminator, text, terminator.
pub(crate) fn string_value(s: &str) -> Vec<u8> {
    let len = i32::try_from(s.len() + 1).expect("texts come from documents and files of bounded size");
    [&len.to_le_bytes(), s.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_that_is_filled_bit_by_bit_is_one_written_at_once() {
        let item = |n: i32| {
            let mut b = DocBuilder::new();
            b.int32("n", n);
            b.finish()
        };
        let mut at_once = DocBuilder::new();
        at_once.string("a", "b").array_of("list", (0..12).map(item)).boolean("end", true);
        let mut by_bits = DocBuilder::new();
        let mut list = by_bits.string("a", "b").open_array("list");
        for n in 0..12 {
            by_bits.item(&mut list, &item(n));
        }
        by_bits.close(list).boolean("end", true);
        assert_eq!(by_bits.finish(), at_once.finish());
    }
}
