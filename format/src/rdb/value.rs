//! The values of keys: every type and encoding is read into the same digest (see `digest.rs`).

use super::{
    collect::{Collect, Packing, Shape, parse_score, put_field_expiry, score_bits},
    digest::{Bag, Item},
    error::RdbError,
    input::Source,
    reader::Kind,
    stream,
    text::Values,
};

/// Who wrote the file: both use types 22 and 23, for different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Redis,
    Valkey,
}

impl Values<'_> {
    /// Takes the value of a key of type `code`, for which [`kind_of`] knows a kind, and puts it into `item`; tells its
    /// number of elements.
    pub(super) fn value(&mut self, code: u8, dialect: Dialect, item: &mut Item) -> Result<u64, RdbError> {
        use Dialect::{Redis, Valkey};
        self.element.clear();
        match (code, dialect) {
            (0, _) => self.string("a string value", |piece| item.put(piece)).map(|_| 1),
            (1, _) => self.counted("a list", |v| v.string_into("an element of a list", item)),
            (2, _) => self.bag("a set", item, |v, e| v.string_element("a member of a set", e)),
            (3, _) => self.bag("a sorted set", item, |v, e| {
                v.string_into("a member of a sorted set", e)?;
                let score = v.old_score()?;
                e.put_u64(score_bits(score));
                Ok(())
            }),
            (4, _) => self.bag("a hash", item, Self::pair),
            (5, _) => self.bag("a sorted set", item, |v, e| {
                v.string_into("a member of a sorted set", e)?;
                e.put_u64(score_bits(f64::from_le_bytes(v.input.array("a score")?)));
                Ok(())
            }),
            (7, _) => self.module(item),
            (9, _) => self.packed("a zipmap", Collect { shape: Shape::Pairs, packing: Packing::Zipmap, item }),
            (10, _) => self.packed("a ziplist", Collect { shape: Shape::List, packing: Packing::Ziplist, item }),
            (11, _) => self.packed("an intset", Collect { shape: Shape::Set, packing: Packing::Intset, item }),
            (12, _) => self.packed("a ziplist", Collect { shape: Shape::Scores, packing: Packing::Ziplist, item }),
            (13, _) => self.packed("a ziplist", Collect { shape: Shape::Pairs, packing: Packing::Ziplist, item }),
            (14, _) => {
                let nodes = self.length("a quicklist")?;
                self.sum(nodes, |v| {
                    v.packed("a ziplist", Collect { shape: Shape::List, packing: Packing::Ziplist, item })
                })
            }
            (15, _) => stream::read(self, 1, item),
            (16, _) => self.packed("a listpack", Collect { shape: Shape::Pairs, packing: Packing::Listpack, item }),
            (17, _) => self.packed("a listpack", Collect { shape: Shape::Scores, packing: Packing::Listpack, item }),
            (18, _) => self.quicklist(item),
            (19, _) => stream::read(self, 2, item),
            (20, _) => self.packed("a listpack", Collect { shape: Shape::Set, packing: Packing::Listpack, item }),
            (21, _) => stream::read(self, 3, item),
            (22, Valkey) => self.bag("a hash", item, |v, e| {
                v.pair(e)?;
                let at = i64::from_le_bytes(v.input.array("a field's expiry")?);
                put_field_expiry(e, if at < 0 { 0 } else { at as u64 });
                Ok(())
            }),
            (22, Redis) => self.hash_with_expiries(0, item),
            (24, Redis) => {
                let first = u64::from_le_bytes(self.input.array("a hash's first expiry")?);
                self.hash_with_expiries(first, item)
            }
            (23 | 25, Redis) => {
                if code == 25 {
                    let _first: [u8; 8] = self.input.array("a hash's first expiry")?;
                }
                self.packed("a listpack", Collect { shape: Shape::Triples, packing: Packing::Listpack, item })
            }
            _ => self.input.damaged("a type of value", format!("type {code}")),
        }
    }

    /// Sums up what `read` tells, `times` times.
    fn sum(&mut self, times: u64, mut read: impl FnMut(&mut Self) -> Result<u64, RdbError>) -> Result<u64, RdbError> {
        let mut sum = 0u64;
        for _ in 0..times {
            sum = sum.saturating_add(read(self)?);
        }
        Ok(sum)
    }

    /// A number, then as many things.
    fn counted(
        &mut self,
        what: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<(), RdbError>,
    ) -> Result<u64, RdbError> {
        let count = self.length(what)?;
        self.sum(count, |v| read(v).map(|()| 1))
    }

    /// A number, then as many elements whose order does not count.
    fn bag(
        &mut self,
        what: &'static str,
        item: &mut Item,
        mut read: impl FnMut(&mut Self, &mut Item) -> Result<(), RdbError>,
    ) -> Result<u64, RdbError> {
        let mut bag = Bag::new();
        let mut element = std::mem::take(&mut self.element);
        self.counted(what, |v| {
            read(v, &mut element)?;
            bag.add(&mut element);
            Ok(())
        })?;
        self.element = element;
        Ok(bag.put_into(item))
    }

    fn string_element(&mut self, what: &'static str, element: &mut Item) -> Result<(), RdbError> {
        self.string(what, |piece| element.put(piece)).map(|_| ())
    }

    fn pair(&mut self, element: &mut Item) -> Result<(), RdbError> {
        self.string_into("a field of a hash", element)?;
        self.string_into("a value in a hash", element)
    }

    /// Redis 7.4: a field's expiry counts from one before the hash's first; 0 means none.
    fn hash_with_expiries(&mut self, first: u64, item: &mut Item) -> Result<u64, RdbError> {
        self.bag("a hash", item, |v, e| {
            let after = v.length("a field's expiry")?;
            v.pair(e)?;
            let at = if after == 0 { 0 } else { after.saturating_add(first.saturating_sub(1)) };
            put_field_expiry(e, at);
            Ok(())
        })
    }

    fn quicklist(&mut self, item: &mut Item) -> Result<u64, RdbError> {
        let nodes = self.length("a quicklist")?;
        self.sum(nodes, |v| match v.length("a node of a quicklist")? {
            1 => v.string_into("an element of a list", item).map(|()| 1),
            2 => v.packed("a listpack", Collect { shape: Shape::List, packing: Packing::Listpack, item }),
            other => v.input.damaged("a node of a quicklist", format!("container {other}")),
        })
    }

    /// The score of the oldest sorted sets: a byte of length and digits, or a mark.
    pub(super) fn old_score(&mut self) -> Result<f64, RdbError> {
        match self.input.byte("a score")? {
            253 => Ok(f64::NAN),
            254 => Ok(f64::INFINITY),
            255 => Ok(f64::NEG_INFINITY),
            len => {
                let mut digits = Vec::with_capacity(len.into());
                self.input.pieces(len.into(), "a score", |piece| digits.extend_from_slice(piece))?;
                parse_score(&digits).map_or_else(|| self.input.damaged("a score", "no number"), Ok)
            }
        }
    }

    fn module(&mut self, item: &mut Item) -> Result<u64, RdbError> {
        self.module_type = self.length("a module's type")?;
        item.put_u64(self.module_type);
        self.module_parts(item).map(|()| 1)
    }

    /// A module's data: parts that say what they are, up to an end mark.
    pub(super) fn module_parts(&mut self, item: &mut Item) -> Result<(), RdbError> {
        const PART: &str = "a part of a module's data";
        loop {
            let sort = self.length(PART)?;
            item.put(&[sort as u8]);
            match sort {
                0 => return Ok(()),
                1 | 2 => item.put_u64(self.length(PART)?),
                3 => item.put(&self.input.array::<4>(PART)?),
                4 => item.put(&self.input.array::<8>(PART)?),
                5 => self.string_into(PART, item)?,
                other => return self.input.damaged(PART, format!("sort {other}")),
            }
        }
    }
}

/// What a type byte stands for; `None` for what no reader can read without the module or version that wrote it.
pub(super) fn kind_of(code: u8, dialect: Dialect) -> Option<Kind> {
    Some(match code {
        0 => Kind::String,
        1 | 10 | 14 | 18 => Kind::List,
        2 | 11 | 20 => Kind::Set,
        3 | 5 | 12 | 17 => Kind::SortedSet,
        4 | 9 | 13 | 16 | 22 => Kind::Hash,
        23..=25 if dialect == Dialect::Redis => Kind::Hash,
        7 => Kind::Module,
        15 | 19 | 21 => Kind::Stream,
        _ => return None,
    })
}
