//! The tar reader and the rules by which verify and restore accept what it reads.

use std::collections::BTreeMap;

use prexor_format::tree::{
    Checker, Entry, EntryKind, Extent, FileHasher, Piece, SparseMap, Step, Tally, Totals, TreeError, TreePath,
    TreeReader, TreeWriter, verify_tar,
};

use super::Dribble;

/// See the module above. Headers are tried with their checksums put right, too, which no mutation does by itself.
pub fn check(data: &[u8]) {
    check_one(data);
    let mut repaired = data.to_vec();
    for block in repaired.chunks_exact_mut(512).filter(|b| b[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    if repaired != data {
        check_one(&repaired);
    }
}

fn check_one(data: &[u8]) {
    let whole = verify_tar(data);
    let dribbled = verify_tar(Dribble::new(data));
    match (&whole, &dribbled) {
        (Ok(a), Ok(b)) => assert_eq!(a, b, "the size of reads matters"),
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string(), "the size of reads matters"),
        _ => panic!("the size of reads matters: {whole:?} and {dribbled:?}"),
    }
    let (totals, accepted) = unpack(data);
    let Ok(summary) = whole else {
        return assert!(accepted.is_none(), "verify refuses what would be unpacked");
    };
    assert_eq!(summary.findings.is_empty(), accepted.is_some(), "verify and unpacking differ: {summary:?}");
    let Some(entries) = accepted else { return };
    assert_eq!((summary.entries, summary.files), (totals.entries, totals.files));
    assert_eq!((summary.bytes, summary.content), (totals.bytes, totals.content));
    rewrite(&entries, &totals);
}

/// An entry and where the data of its file is.
struct Unpacked {
    entry: Entry,
    extents: Vec<Extent>,
    data: Vec<u8>,
}

/// Takes the tar apart as a restore does, into a model of a file system; `None` when a restore would refuse it.
fn unpack(data: &[u8]) -> (Totals, Option<Vec<Unpacked>>) {
    let mut made = BTreeMap::new();
    let mut all = Vec::new();
    let mut tally = Tally::default();
    let result = walk(data, |unpacked, digest| {
        place(&mut made, &unpacked.entry);
        tally.add(&unpacked.entry, Some(&digest));
        all.push(unpacked);
    });
    let kept: usize = all.iter().map(|u| u.data.len() + 512).sum();
    assert!(kept <= data.len() + 512, "more bytes than there are in the tar");
    (tally.totals(), matches!(result, Ok(true)).then_some(all))
}

fn walk(data: &[u8], mut take: impl FnMut(Unpacked, prexor_format::digest::Sha256Digest)) -> Result<bool, TreeError> {
    let mut tar = TreeReader::new(data);
    let mut checker = Checker::default();
    let mut buf = [0; 700];
    while let Some(step) = tar.next_entry()? {
        let Step::Entry(entry) = step else { return Ok(false) };
        if checker.check(&entry).is_some() {
            return Ok(false);
        }
        let (mut hasher, mut at) = (FileHasher::default(), 0u64);
        let mut unpacked = Unpacked { entry, extents: Vec::new(), data: Vec::new() };
        loop {
            match tar.read_piece(&mut buf)? {
                Piece::End => break,
                Piece::Data(n) => {
                    hasher.update(&buf[..n]);
                    unpacked.data.extend_from_slice(&buf[..n]);
                    match unpacked.extents.last_mut() {
                        Some(e) if e.offset + e.len == at => e.len += n as u64,
                        _ => unpacked.extents.push(Extent { offset: at, len: n as u64 }),
                    }
                    at += n as u64;
                }
                Piece::Hole(zeros) => {
                    assert!(zeros > 0);
                    hasher.update_zeros(zeros);
                    at += zeros;
                }
            }
        }
        match unpacked.entry.kind {
            EntryKind::File { size } => assert_eq!(at, size, "{:?}", unpacked.entry),
            _ => assert_eq!(at, 0, "{:?}", unpacked.entry),
        }
        take(unpacked, hasher.finish());
    }
    Ok(true)
}

#[derive(Debug, PartialEq)]
enum Kind {
    Directory,
    File,
    Other,
}

/// Makes an entry in the model: everything above it must be a directory of this tar, and nothing may be there yet.
fn place(made: &mut BTreeMap<Vec<u8>, Kind>, entry: &Entry) {
    let plain = |path: &TreePath| {
        let bytes = path.as_bytes();
        let parts = || bytes.split(|b| *b == b'/');
        let bad = |c: &[u8]| c.is_empty() || c == b"." || c == b".." || c.contains(&0);
        assert!(path.is_root() || !parts().any(bad), "{path} leads elsewhere");
        bytes.to_vec()
    };
    let path = plain(&entry.path);
    for (i, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
        assert_eq!(made.get(&path[..i]), Some(&Kind::Directory), "{} goes through no directory", entry.path);
    }
    assert!(made.is_empty() || made.contains_key(&b""[..]), "the root comes first");
    let kind = match &entry.kind {
        EntryKind::Directory => Kind::Directory,
        EntryKind::File { .. } => Kind::File,
        EntryKind::HardLink { target } => {
            assert_eq!(made.get(&plain(target)), Some(&Kind::File), "{} is a link to no file", entry.path);
            Kind::Other
        }
        EntryKind::Symlink { target } => {
            assert!(!target.is_empty() && !target.contains(&0));
            Kind::Other
        }
        EntryKind::Fifo => Kind::Other,
    };
    let a = &entry.attributes;
    assert!(a.mode <= 0o7777 && a.mtime.nanos < 1_000_000_000, "{entry:?}");
    assert!(a.xattrs.is_sorted_by(|x, y| x.name < y.name), "{entry:?}");
    assert_eq!(made.insert(path, kind), None, "{} comes twice", entry.path);
}

/// What was accepted can be written, and means the same when it is read again.
fn rewrite(entries: &[Unpacked], totals: &Totals) {
    let mut tar = TreeWriter::new(Vec::new());
    for Unpacked { entry, extents, data } in entries {
        match entry.kind {
            EntryKind::File { size } if data.len() as u64 != size => {
                let map = SparseMap::new(extents.clone(), size).expect("pieces that were read in order");
                tar.sparse(entry, map).expect("an entry that was read");
            }
            _ => tar.entry(entry).expect("an entry that was read"),
        }
        if !data.is_empty() {
            tar.data(data).expect("data that was read");
        }
    }
    let (written, again) = tar.finish().expect("all data was written");
    assert_eq!(again, *totals);
    let summary = verify_tar(&written[..]).expect("what was just written");
    assert_eq!(summary.findings, []);
    assert_eq!((summary.entries, summary.content), (totals.entries, totals.content));
}
