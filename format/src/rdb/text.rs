//! Lengths and strings, and packed values inside strings.

use std::io::Read;

use super::{
    collect::Walk,
    digest::{Item, decimal},
    error::RdbError,
    input::{Input, Limited, Source},
    lzf::Lzf,
    stream,
};

/// How a string lies in the file. For all but `Int` its bytes are the next.
enum Text {
    Raw(u64),
    Int(i64),
    Lzf { packed: u64, len: u64 },
}

impl Text {
    /// Bytes of the string itself.
    fn len(&self) -> u64 {
        match *self {
            Self::Raw(len) | Self::Lzf { len, .. } => len,
            Self::Int(n) => decimal(n, &mut [0; 20]).len() as u64,
        }
    }
}

/// A length, or the number of a special encoding.
enum Length {
    Plain(u64),
    Special(u8),
}

/// The file and the buffers that its values pass through.
pub(super) struct Values<'i> {
    pub(super) input: Input<'i>,
    unpacked: Vec<u8>,
    pub(super) element: Item,
    /// The type of the last module's value.
    pub(super) module_type: u64,
    names: stream::Names,
}

const STRING: &str = "a string";

impl<'i> Values<'i> {
    pub(super) fn new(inner: impl Read + 'i) -> Self {
        Self {
            input: Input::new(inner),
            unpacked: Vec::new(),
            element: Item::default(),
            module_type: 0,
            names: stream::Names::default(),
        }
    }

    fn any_length(&mut self, what: &'static str) -> Result<Length, RdbError> {
        let first = self.input.byte(what)?;
        Ok(Length::Plain(match first >> 6 {
            0 => (first & 0x3f).into(),
            1 => u64::from(first & 0x3f) << 8 | u64::from(self.input.byte(what)?),
            2 if first == 0x80 => u32::from_be_bytes(self.input.array(what)?).into(),
            2 if first == 0x81 => u64::from_be_bytes(self.input.array(what)?),
            2 => return self.input.damaged("a length", format!("0x{first:02x} before byte {}", self.input.offset())),
            _ => return Ok(Length::Special(first & 0x3f)),
        }))
    }

    /// A length or number.
    pub(super) fn length(&mut self, what: &'static str) -> Result<u64, RdbError> {
        match self.any_length(what)? {
            Length::Plain(n) => Ok(n),
            Length::Special(e) => self.input.damaged(what, format!("the mark of string encoding {e}")),
        }
    }

    /// The head of a string.
    fn text(&mut self, what: &'static str) -> Result<Text, RdbError> {
        Ok(match self.any_length(what)? {
            Length::Plain(n) => Text::Raw(n),
            Length::Special(0) => Text::Int(i8::from_le_bytes(self.input.array(what)?).into()),
            Length::Special(1) => Text::Int(i16::from_le_bytes(self.input.array(what)?).into()),
            Length::Special(2) => Text::Int(i32::from_le_bytes(self.input.array(what)?).into()),
            Length::Special(3) => Text::Lzf { packed: self.length(what)?, len: self.length(what)? },
            Length::Special(e) => return self.input.damaged(what, format!("string encoding {e}")),
        })
    }

    /// Takes a string whose head was read and hands its bytes over piece by piece.
    fn pieces(&mut self, text: Text, mut take: impl FnMut(&[u8])) -> Result<(), RdbError> {
        match text {
            Text::Raw(len) => self.input.pieces(len, STRING, take),
            Text::Int(n) => {
                take(decimal(n, &mut [0; 20]));
                Ok(())
            }
            Text::Lzf { packed, len } => {
                let mut lzf = Lzf::new(&mut self.input, packed, len, &mut self.unpacked);
                lzf.pieces(len, STRING, take)?;
                lzf.finish()
            }
        }
    }

    /// Takes a string and hands its bytes over piece by piece; tells its length.
    pub(super) fn string(&mut self, what: &'static str, take: impl FnMut(&[u8])) -> Result<u64, RdbError> {
        let text = self.text(what)?;
        let len = text.len();
        self.pieces(text, take).map(|()| len)
    }

    /// Takes a string and puts its length and bytes into `item`.
    pub(super) fn string_into(&mut self, what: &'static str, item: &mut Item) -> Result<(), RdbError> {
        let text = self.text(what)?;
        item.put_u64(text.len());
        self.pieces(text, |piece| item.put(piece))
    }

    /// Takes a key: puts its length and bytes into `item`, hands the bytes over piece by piece and tells their number.
    pub(super) fn key(&mut self, item: &mut Item, mut take: impl FnMut(&[u8])) -> Result<u64, RdbError> {
        let text = self.text("a key")?;
        let len = text.len();
        item.put_u64(len);
        self.pieces(text, |piece| {
            item.put(piece);
            take(piece);
        })?;
        Ok(len)
    }

    /// Takes a string that is a packed encoding.
    pub(super) fn packed<W: Walk>(&mut self, what: &'static str, walk: W) -> Result<W::Out, RdbError> {
        match self.text(what)? {
            Text::Raw(len) => {
                let mut source = Limited { input: &mut self.input, left: len };
                let out = walk.walk(&mut source, len, &mut self.element, &mut self.names)?;
                match source.left {
                    0 => Ok(out),
                    n => source.damaged("the end of a packed value", format!("{n} more bytes")),
                }
            }
            Text::Lzf { packed, len } => {
                let mut source = Lzf::new(&mut self.input, packed, len, &mut self.unpacked);
                let out = walk.walk(&mut source, len, &mut self.element, &mut self.names)?;
                match source.left() {
                    0 => source.finish().map(|()| out),
                    n => source.damaged("the end of a packed value", format!("{n} more bytes")),
                }
            }
            Text::Int(_) => self.input.damaged(what, "a number"),
        }
    }
}
