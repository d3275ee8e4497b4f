//! Builds documents element by element, in the given order, names unchecked for uniqueness.

use super::kind;

/// A document in the making.
#[derive(Debug, Clone)]
pub struct DocBuilder {
    bytes: Vec<u8>,
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
