//! The RDB reader.

use std::io::Read;

use prexor_format::{
    digest::Sha256Digest,
    rdb::{
        Checksum, Facts, Kind, Parsed, Payload, RdbError, Reader, Record, SERIALISED_KEPT, Summary, Writer, summarise,
    },
};

use super::Dribble;

/// What is compared of an entry.
#[derive(Debug, PartialEq)]
struct Seen {
    db: u64,
    key: Vec<u8>,
    key_len: u64,
    kind: Kind,
    code: u8,
    expires_at_ms: Option<i64>,
    elements: u64,
    serialised_len: u64,
    digest: Option<Sha256Digest>,
}

/// See the module above.
pub fn check(data: &[u8]) {
    let (all, whole) = read(data);
    let (again, dribbled) = read(Dribble::new(data));
    assert_eq!(all, again, "the size of reads matters");
    // Which of two faults in a compressed value is met first depends on how much of it is unpacked ahead.
    assert_eq!(whole.as_ref().ok(), dribbled.as_ref().ok(), "the size of reads matters");
    let len = data.len() as u64;
    match &whole {
        Ok((end, _)) => assert_eq!(*end, len),
        Err(RdbError::Truncated { offset, .. }) => assert_eq!(*offset, len),
        Err(RdbError::Damaged { offset, .. }) => assert!(*offset <= len, "{offset} is beyond {len}"),
        Err(RdbError::Checksum { stored, computed }) => assert!(stored != computed && *stored != 0),
        Err(RdbError::Unsupported(_)) => {}
        Err(RdbError::Io { .. }) => panic!("reading from memory failed"),
    }
    let serialised: u64 = all.iter().map(|e| e.serialised_len).sum();
    assert!(serialised <= len && all.len() as u64 <= len);
    rewrite(data, &all);
    match (summarise(data), whole) {
        (Ok(summary), Ok((_, checksum))) => {
            assert_eq!((summary.checksum, summary.size_bytes), (checksum, len));
            assert_eq!(summary.keys, summary.families.iter().map(|f| f.keys).sum::<u64>());
            assert!(summary.expiring_keys <= summary.keys && summary.keys <= all.len() as u64);
        }
        (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string()),
        other => panic!("readers differ: {other:?}"),
    }
}

fn read<R: Read>(inner: R) -> (Vec<Seen>, Result<(u64, Checksum), RdbError>) {
    let mut all = Vec::new();
    let result = read_into(inner, &mut all);
    (all, result)
}

fn read_into<R: Read>(inner: R, all: &mut Vec<Seen>) -> Result<(u64, Checksum), RdbError> {
    let mut reader = Reader::new(inner)?;
    let mut summary = Summary::alive_at(1_700_000_000_000);
    while let Some(e) = reader.next_entry()? {
        summary.add(&e);
        all.push(Seen {
            db: e.db,
            key: e.key.to_vec(),
            key_len: e.key_len,
            kind: e.kind,
            code: e.code,
            expires_at_ms: e.expires_at_ms,
            elements: e.elements,
            serialised_len: e.serialised_len,
            digest: e.digest,
        });
    }
    summary.finish(&reader);
    Ok((reader.position(), reader.checksum().expect("the end was reached")))
}

/// Serialised values are what stands in the file, also to a reader that takes no digests, and mean the same in another.
fn rewrite(data: &[u8], all: &[Seen]) {
    let Ok(mut reader) = Reader::new(data).map(Reader::without_digests) else { return };
    let mut out = Writer::new(Vec::new(), reader.version(), &[]).expect("memory");
    let version = u16::try_from(reader.version()).expect("a version that was read");
    let mut libraries = 0;
    while let Ok(Some(record)) = reader.next_record() {
        let (at, len, serialised) = match &record {
            Record::Library(l) => (l.serialised_at, l.serialised_len, l.serialised),
            Record::Key(e) => (e.serialised_at, e.serialised_len, e.serialised),
        };
        let stands = &data[at as usize..][..len as usize];
        let kept = (stands.len() <= SERIALISED_KEPT).then_some(stands);
        assert_eq!(serialised, kept, "the value at {at}");
        match record {
            Record::Library(_) => {
                libraries += 1;
                out.library(stands).expect("memory");
            }
            Record::Key(e) if e.key.len() as u64 == e.key_len => {
                let facts =
                    Facts { expires_at_ms: e.expires_at_ms, idle_seconds: e.idle_seconds, frequency: e.frequency };
                out.key(e.db, e.key, e.code, &facts).expect("memory");
                out.value(stands).expect("memory");
                let mut payload = Vec::new();
                Payload::append(e.code, stands, version, &mut payload);
                assert_eq!(payload.len() as u64, Payload::len(len));
                assert_eq!(Payload::parse(&payload), Ok(Parsed { code: e.code, serialised: stands, version }));
            }
            Record::Key(_) => return,
        }
    }
    let written = out.finish().expect("memory");
    let (again, result) = read(&written[..]);
    assert_eq!(again, all);
    let (end, checksum) = result.expect("what was just written");
    let expected = if version < 5 { Checksum::Absent } else { Checksum::Verified };
    assert_eq!((end, checksum), (written.len() as u64, expected));
    assert_eq!(summarise(&written[..]).expect("what was just written").functions.libraries, libraries);
}
