//! Packed collections as elements of a digest.

use super::{
    digest::{Bag, Item, decimal},
    error::RdbError,
    input::{PEEK_MAX, Source},
    packed::{Element, Intset, Listpack, Packed, Ziplist, Zipmap},
    stream,
};

/// Something that is done with a packed value, whichever source it comes from.
pub(super) trait Walk {
    type Out;
    fn walk<S: Source>(
        self,
        source: &mut S,
        len: u64,
        element: &mut Item,
        names: &mut stream::Names,
    ) -> Result<Self::Out, RdbError>;
}

/// What the elements are to each other.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    List,
    Set,
    Pairs,
    Triples,
    Scores,
}

/// How they are packed.
#[derive(Clone, Copy)]
pub(super) enum Packing {
    Listpack,
    Ziplist,
    Zipmap,
    Intset,
}

/// Puts a packed collection into `item`; its outcome is the number of elements.
pub(super) struct Collect<'a> {
    pub(super) shape: Shape,
    pub(super) packing: Packing,
    pub(super) item: &'a mut Item,
}

impl Walk for Collect<'_> {
    type Out = u64;

    fn walk<S: Source>(
        self,
        source: &mut S,
        len: u64,
        element: &mut Item,
        _: &mut stream::Names,
    ) -> Result<u64, RdbError> {
        match self.packing {
            Packing::Listpack => collect(Listpack::open(source, len)?, self.shape, source, element, self.item),
            Packing::Ziplist => collect(Ziplist::open(source, len)?, self.shape, source, element, self.item),
            Packing::Zipmap => collect(Zipmap::open(source)?, self.shape, source, element, self.item),
            Packing::Intset => collect(Intset::open(source, len)?, self.shape, source, element, self.item),
        }
    }
}

fn collect<P: Packed, S: Source>(
    mut packed: P,
    shape: Shape,
    source: &mut S,
    element: &mut Item,
    item: &mut Item,
) -> Result<u64, RdbError> {
    let mut bag = Bag::new();
    let mut listed = 0;
    while let Some(first) = packed.next(source)? {
        match shape {
            Shape::List => {
                put_sized(first, source, item)?;
                listed += 1;
                continue;
            }
            Shape::Set => put_plain(first, source, element)?,
            Shape::Pairs => {
                put_sized(first, source, element)?;
                put_sized(required(&mut packed, source)?, source, element)?;
            }
            Shape::Triples => {
                put_sized(first, source, element)?;
                put_sized(required(&mut packed, source)?, source, element)?;
                match required(&mut packed, source)? {
                    Element::Int(at) => put_field_expiry(element, at.max(0) as u64),
                    Element::Bytes(_) => return source.damaged("a field's expiry", "a string"),
                }
            }
            Shape::Scores => {
                put_sized(first, source, element)?;
                let score = match required(&mut packed, source)? {
                    Element::Int(n) => n as f64,
                    Element::Bytes(n) => short_score(n, source)?,
                };
                element.put_u64(score_bits(score));
            }
        }
        bag.add(element);
    }
    Ok(if let Shape::List = shape { listed } else { bag.put_into(item) })
}

fn required<P: Packed, S: Source>(packed: &mut P, source: &mut S) -> Result<Element, RdbError> {
    match packed.next(source)? {
        Some(element) => Ok(element),
        None => source.damaged("elements that belong together", "the end of the packed value"),
    }
}

/// A score in digits: what the server prints has 24 bytes at most.
pub(super) fn short_score<S: Source>(len: u64, source: &mut S) -> Result<f64, RdbError> {
    let n = len.min(PEEK_MAX as u64) as usize;
    match parse_score(&source.peek(n, "a score")?[..n]).filter(|_| len == n as u64) {
        Some(score) => {
            source.consume(n);
            Ok(score)
        }
        None => source.damaged("a score", "no number"),
    }
}

fn put_plain<S: Source>(element: Element, source: &mut S, item: &mut Item) -> Result<(), RdbError> {
    match element {
        Element::Int(n) => {
            item.put(decimal(n, &mut [0; 20]));
            Ok(())
        }
        Element::Bytes(len) => source.pieces(len, "an element", |piece| item.put(piece)),
    }
}

/// Puts an element's length and bytes into `item`.
pub(super) fn put_sized<S: Source>(element: Element, source: &mut S, item: &mut Item) -> Result<(), RdbError> {
    match element {
        Element::Int(n) => {
            let mut buffer = [0; 20];
            let digits = decimal(n, &mut buffer);
            item.put_u64(digits.len() as u64);
            item.put(digits);
            Ok(())
        }
        Element::Bytes(len) => {
            item.put_u64(len);
            source.pieces(len, "an element", |piece| item.put(piece))
        }
    }
}

pub(super) fn put_field_expiry(element: &mut Item, at: u64) {
    if at != 0 {
        element.put_u64(at);
    }
}

pub(super) fn parse_score(digits: &[u8]) -> Option<f64> {
    str::from_utf8(digits).ok()?.parse().ok()
}

/// -0 equals 0 to every command, and encodings do not keep the difference.
pub(super) fn score_bits(score: f64) -> u64 {
    if score == 0.0 { 0 } else { score.to_bits() }
}
