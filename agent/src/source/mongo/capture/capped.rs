//! Capped collections at a cluster time. MongoDB keeps no history of them, so what they held is worked out:
//!
//! Their first documents are read, then the time T is chosen, then it is looked up where they ended at T. The rest is
//! read up to there. What the oplog says was removed until T is left out of the first documents; what was written
//! between these and T is either still to be read or taken from the oplog. When all is read the oplog must show that
//! nothing was changed after T but by the collection's overflowing, which removes only what was read already.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use prexor_format::bson::DocBuilder;

use super::{
    super::{
        catalog::{Catalog, all_of},
        drain::malformed,
        server::{CursorError, Server},
    },
    Failure,
    oplog::{self, Change, Entry},
    output::Output,
    ranges::id_of,
    scan::{BLOCK, Block, Budget, Scan, View, split},
};
use crate::source::SourceError;

/// Documents whose `_id`s are remembered, by hash: more than can overflow while a collection is read.
const REMEMBERED: usize = 1 << 20;

type Id = (u8, Vec<u8>);

/// A capped collection whose first documents are read, before T is chosen.
pub(super) struct Opened {
    scan: Scan,
    first: Vec<u8>,
}

/// A capped collection whose state at T is known.
pub(super) struct Capped {
    first: Vec<u8>,
    /// Where to read on, and the end; `None`: `first` is all.
    rest: Option<(Scan, Stop)>,
    uuid: String,
    time: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stop {
    /// The document with this `_id` was the last.
    Behind(Id),
    /// The document with this `_id` is not of the time any more.
    Before(Id),
}

/// Why the state at T is not known.
pub(super) enum Unknown {
    /// It changed in a way that cannot be followed; another T may do.
    Again(String),
    /// Something else.
    Failure(Failure),
}

impl From<Failure> for Unknown {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Reads the first documents of every capped collection.
pub(super) async fn open(
    server: &Arc<Server>,
    budget: &Budget,
    catalog: &Catalog,
) -> Result<BTreeMap<String, Opened>, Failure> {
    let mut opened = BTreeMap::new();
    for (name, _) in catalog.live.iter().filter(|(_, n)| n.is_capped()) {
        let mut scan = Scan::new(server, budget, name, View::Majority);
        // They are few and wait for the others, so they do not count.
        let mut first = Vec::new();
        if let Some(block) = scan.next().await? {
            block.join(&mut first).map_err(Failure::Source)?;
        }
        opened.insert(name.clone(), Opened { scan, first });
    }
    Ok(opened)
}

/// What the collections held at `time`. `since` is a time before they were opened.
pub(super) async fn settle(
    server: &Server,
    catalog: &Catalog,
    opened: BTreeMap<String, Opened>,
    since: u64,
    time: u64,
) -> Result<BTreeMap<String, Capped>, Unknown> {
    let mut settled = BTreeMap::new();
    for (name, Opened { scan, first }) in opened {
        let uuid = catalog.live.get(&name).and_then(|n| n.uuid.clone()).unwrap_or_default();
        let failed = |e: CursorError| Failure::of(e, server, &name, View::Majority);
        let tail = tail(server, &name).await.map_err(failed)?;
        let now = server.committed().await.map_err(Failure::Source)?.unwrap_or(time);
        let entries = oplog::entries(server, &uuid, since, now, true).await.map_err(failed)?;
        let again = |what: &str| Unknown::Again(format!("{name} {what}"));
        let (first, stop) = at(time, first, scan.ended(), tail, &entries).map_err(again)?;
        settled.insert(name, Capped { first, rest: stop.map(|stop| (scan, stop)), uuid, time });
    }
    Ok(settled)
}

/// The `_id` of the newest document.
async fn tail(server: &Server, name: &str) -> Result<Option<Id>, CursorError> {
    let (mut natural, mut command) = (DocBuilder::new(), DocBuilder::new());
    natural.int32("$natural", -1);
    command.string("find", name).document("sort", &natural.finish()).int32("limit", 1);
    View::Majority.apply(&mut command);
    Ok(all_of(server.cursor(command.finish()).await?).await?.first().and_then(|d| id_of(d)))
}

/// The first documents as of `time`, and where the rest stops (`None` when there is no rest).
fn at(
    time: u64,
    first: Vec<u8>,
    whole: bool,
    tail: Option<Id>,
    entries: &[Entry],
) -> Result<(Vec<u8>, Option<Stop>), &'static str> {
    const ODD: &str = "was changed in another way than by adding to it";
    let (before, after): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|e| e.time <= time);
    let mut removed = HashSet::new();
    for entry in &before {
        match &entry.change {
            Change::Delete => drop(removed.insert(&entry.id)),
            Change::Insert(_) if removed.contains(&entry.id) => return Err(ODD),
            Change::Insert(_) => {}
            Change::Other => return Err(ODD),
        }
    }
    if after.iter().any(|e| e.change == Change::Other) {
        return Err(ODD);
    }
    let (mut kept, mut have) = (Vec::with_capacity(first.len()), HashSet::new());
    for document in split(&first) {
        let document = document.map_err(|_| "sent what cannot be read")?;
        let id = id_of(document).unwrap_or_default();
        if !removed.contains(&id) {
            kept.extend_from_slice(document);
        }
        have.insert(id);
    }
    let inserted = |e: &&Entry| matches!(e.change, Change::Insert(_));
    if whole {
        for entry in before {
            if let Change::Insert(document) = &entry.change
                && !have.contains(&entry.id)
                && !removed.contains(&entry.id)
            {
                kept.extend_from_slice(document);
            }
        }
        return Ok((kept, None));
    }
    match after.iter().copied().find(inserted) {
        Some(next) => Ok((kept, Some(Stop::Before(next.id.clone())))),
        // Without an insert nothing overflows.
        None if !after.is_empty() => Err(ODD),
        None => Ok((kept, Some(Stop::Behind(tail.ok_or(ODD)?)))),
    }
}

impl Capped {
    /// Reads the collection into `output`.
    pub(super) async fn read(
        self,
        server: &Server,
        budget: &Budget,
        name: &str,
        output: &Output,
    ) -> Result<(), Failure> {
        let mut ids = Vec::new();
        let first = Stopped { documents: self.first, ended: false };
        let first = match &self.rest {
            Some((_, stop)) => stop.cut(first.documents).map_err(Failure::Source)?,
            None => first,
        };
        remember(&mut ids, &first.documents);
        add(output, budget, first.documents).await?;
        if let Some((mut scan, stop)) = self.rest
            && !first.ended
        {
            loop {
                let Some(block) = scan.next().await? else {
                    return Err(Failure::Again(format!("the end of {name} was not found where it should be")));
                };
                let mut documents = Vec::new();
                block.join(&mut documents).map_err(Failure::Source)?;
                let cut = stop.cut(documents).map_err(Failure::Source)?;
                remember(&mut ids, &cut.documents);
                let block = Block::joined(cut.documents, block.into_permit());
                output.add(block).await.map_err(Failure::Source)?;
                if cut.ended {
                    break;
                }
            }
        } else {
            // All of it was read before T was chosen.
            return Ok(());
        }
        let failed = |e: CursorError| Failure::of(e, server, name, View::Majority);
        let now = server.committed().await.map_err(Failure::Source)?.unwrap_or(self.time);
        let later = oplog::entries(server, &self.uuid, self.time, now, false).await.map_err(failed)?;
        if !oplog::reaches(server, self.time).await.map_err(failed)? || !only_overflowed(&later, &ids) {
            return Err(Failure::Again(format!("{name} was changed in another way than by adding to it")));
        }
        Ok(())
    }
}

/// Whether these changes removed the oldest documents in their order, and did nothing else.
fn only_overflowed(later: &[Entry], ids: &[u64]) -> bool {
    later.iter().filter(|e| !matches!(e.change, Change::Insert(_))).enumerate().all(|(n, entry)| {
        // Behind the last that was read come those that were added later; what is removed of these does not matter.
        entry.change == Change::Delete
            && (ids.get(n) == Some(&hash(&entry.id)) || (n >= ids.len() && ids.len() < REMEMBERED))
    })
}

fn remember(ids: &mut Vec<u64>, documents: &[u8]) {
    let room = REMEMBERED - ids.len();
    ids.extend(split(documents).flatten().take(room).map(|d| hash(&id_of(d).unwrap_or_default())));
}

fn hash(id: &Id) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// Adds documents that were read long ago, in blocks of the usual size.
async fn add(output: &Output, budget: &Budget, documents: Vec<u8>) -> Result<(), Failure> {
    let mut block: Vec<u8> = Vec::new();
    let mut all = split(&documents).peekable();
    while let Some(document) = all.next() {
        let document = document.map_err(|e| Failure::Source(malformed(&e)))?;
        block.extend_from_slice(document);
        if block.len() >= BLOCK || all.peek().is_none() {
            let permit = budget.acquire(block.len()).await;
            let block = Block::joined(std::mem::take(&mut block), permit);
            output.add(block).await.map_err(Failure::Source)?;
        }
    }
    Ok(())
}

struct Stopped {
    documents: Vec<u8>,
    ended: bool,
}

impl Stop {
    /// The documents up to the end.
    fn cut(&self, mut documents: Vec<u8>) -> Result<Stopped, SourceError> {
        let end = self.find(&documents)?;
        documents.truncate(end.unwrap_or(documents.len()));
        Ok(Stopped { documents, ended: end.is_some() })
    }

    fn find(&self, documents: &[u8]) -> Result<Option<usize>, SourceError> {
        let mut length = 0;
        for document in split(documents) {
            let document = document.map_err(|e| malformed(&e))?;
            let id = id_of(document);
            match self {
                Self::Behind(last) if id.as_ref() == Some(last) => return Ok(Some(length + document.len())),
                Self::Before(next) if id.as_ref() == Some(next) => return Ok(Some(length)),
                Self::Behind(_) | Self::Before(_) => length += document.len(),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(id: i32) -> Vec<u8> {
        let mut b = DocBuilder::new();
        b.int32("_id", id);
        b.finish()
    }

    fn documents(ids: impl IntoIterator<Item = i32>) -> Vec<u8> {
        ids.into_iter().flat_map(document).collect()
    }

    fn id(n: i32) -> Id {
        id_of(&document(n)).unwrap()
    }

    fn entry(time: u64, change: Change, n: i32) -> Entry {
        Entry { time, change, id: id(n) }
    }

    fn insert(time: u64, n: i32) -> Entry {
        entry(time, Change::Insert(document(n)), n)
    }

    fn delete(time: u64, n: i32) -> Entry {
        entry(time, Change::Delete, n)
    }

    #[test]
    fn what_was_read_whole_is_brought_to_the_time() {
        // Read after 3 had come and 1 had gone; T is 10.
        let entries = [insert(5, 3), delete(6, 1), insert(8, 4), delete(9, 2), insert(11, 5), delete(12, 3)];
        assert_eq!(at(10, documents([2, 3]), true, Some(id(5)), &entries), Ok((documents([3, 4]), None)));
        // Nothing was there, and something came.
        assert_eq!(at(10, Vec::new(), true, Some(id(4)), &entries[2..3]), Ok((documents([4]), None)));
    }

    #[test]
    fn the_rest_ends_where_the_collection_ended() {
        let first = || documents([1, 2]);
        let behind = |n| Some(Stop::Behind(id(n)));
        assert_eq!(at(10, first(), false, Some(id(9)), &[]), Ok((first(), behind(9))));
        assert_eq!(at(10, first(), false, Some(id(9)), &[insert(9, 9), delete(9, 1)]), Ok((documents([2]), behind(9))));
        let later = [insert(9, 9), insert(11, 10), delete(11, 1)];
        assert_eq!(at(10, first(), false, Some(id(10)), &later), Ok((first(), Some(Stop::Before(id(10))))));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let refused = |entries: &[Entry]| at(10, documents([1, 2]), false, Some(id(9)), entries).is_err();
        assert!(refused(&[entry(5, Change::Other, 1)]));
        assert!(refused(&[entry(11, Change::Other, 1)]));
        assert!(refused(&[delete(5, 1), insert(6, 1)]));
        assert!(refused(&[delete(11, 9)]));
        assert!(!refused(&[delete(5, 1)]));
    }

    #[test]
    fn a_block_is_cut_at_the_end() {
        let cut = |stop: Stop| stop.cut(documents([1, 2, 3])).map(|s| (s.documents, s.ended)).unwrap();
        assert_eq!(cut(Stop::Behind(id(2))), (documents([1, 2]), true));
        assert_eq!(cut(Stop::Before(id(2))), (documents([1]), true));
        assert_eq!(cut(Stop::Before(id(1))), (Vec::new(), true));
        assert_eq!(cut(Stop::Behind(id(7))), (documents([1, 2, 3]), false));
    }

    #[test]
    fn only_what_overflows_in_its_order_is_harmless() {
        let mut ids = Vec::new();
        remember(&mut ids, &documents([1, 2, 3]));
        assert!(only_overflowed(&[], &ids));
        assert!(only_overflowed(&[delete(11, 1), insert(11, 7), delete(12, 2)], &ids));
        assert!(only_overflowed(&[delete(11, 1), delete(11, 2), delete(11, 3), delete(12, 4)], &ids));
        assert!(!only_overflowed(&[delete(11, 2)], &ids));
        assert!(!only_overflowed(&[delete(11, 1), entry(11, Change::Other, 2)], &ids));
    }
}
