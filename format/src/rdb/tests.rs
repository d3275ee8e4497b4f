//! Real files of Valkey 8.0 and Redis 7.0 (made by `testdata/make.sh`), what older and newer servers write put together
//! by hand, and damage of every sort.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{crc64, *};
use crate::{digest::Sha256Digest, manifest::KeyFamily};

const VALKEY_PACKED: &[u8] = include_bytes!("testdata/valkey-packed.rdb");
const VALKEY_PLAIN: &[u8] = include_bytes!("testdata/valkey-plain.rdb");
const REDIS_PACKED: &[u8] = include_bytes!("testdata/redis-packed.rdb");
const REDIS_PLAIN: &[u8] = include_bytes!("testdata/redis-plain.rdb");

/// Kind, expiry, elements and digest by database and key.
type Keys = BTreeMap<(u64, String), (Kind, Option<i64>, u64, Sha256Digest)>;

fn keys(file: &[u8]) -> Keys {
    let mut reader = Reader::new(file).unwrap();
    let mut keys = Keys::new();
    while let Some(e) = reader.next_entry().unwrap() {
        let key = String::from_utf8(e.key.to_vec()).unwrap();
        assert_eq!(e.key_len, key.len() as u64);
        keys.insert((e.db, key), (e.kind, e.expires_at_ms, e.elements, e.digest.unwrap()));
    }
    assert_eq!(reader.position(), file.len() as u64);
    keys
}

#[test]
fn real_files_hold_what_was_written() {
    for (file, version) in [(VALKEY_PACKED, 11), (VALKEY_PLAIN, 11), (REDIS_PACKED, 10), (REDIS_PLAIN, 10)] {
        let summary = summarise(file).unwrap();
        assert_eq!((summary.version, summary.keys, summary.expiring_keys), (version, 24, 2));
        assert_eq!((summary.checksum, summary.functions.libraries), (Checksum::Verified, 1));
        let families: Vec<_> = summary.families.iter().map(|f| (f.name.as_str(), f.keys)).collect();
        let expected = [("", 20), ("prexor:v1:lease-token:", 1), ("prexor:v1:lease:", 1), ("prexor:v1:node:", 1)];
        assert_eq!(families[..4], expected);
        assert_eq!(families[4..], [("prexor:v1:platform:shop:", 1)]);
        assert!(summary.aux.iter().any(|(name, _)| name.ends_with("-ver")));

        let keys = keys(file);
        let of = |db: u64, key: &str| {
            let (kind, expiry, elements, _) = keys[&(db, key.to_owned())];
            (kind, expiry, elements)
        };
        assert_eq!(of(0, "prexor:v1:lease:scheduler"), (Kind::String, Some(4_102_444_800_123), 1));
        assert_eq!(of(0, "list:long"), (Kind::List, None, 600));
        assert_eq!(of(0, "list:big"), (Kind::List, None, 3));
        assert_eq!(of(0, "set:ints"), (Kind::Set, None, 5));
        assert_eq!(of(0, "zset:small"), (Kind::SortedSet, None, 9));
        assert_eq!(of(0, "hash:long"), (Kind::Hash, None, 200));
        assert_eq!(of(0, "stream"), (Kind::Stream, None, 149));
        assert_eq!(of(0, "stream:emptied"), (Kind::Stream, None, 0));
        assert_eq!(of(9, "prexor:v1:node:n1"), (Kind::Hash, None, 1));
    }
}

#[test]
fn digests_do_not_depend_on_encodings_or_servers() {
    let packed = keys(VALKEY_PACKED);
    let plain = keys(VALKEY_PLAIN);
    assert_eq!(packed, plain);
    // Streams name moments of their own making, so those of two servers differ.
    let comparable = |keys: Keys| -> Keys { keys.into_iter().filter(|((_, key), _)| key != "stream").collect() };
    assert_eq!(keys(REDIS_PACKED), keys(REDIS_PLAIN));
    assert_eq!(comparable(packed), comparable(keys(REDIS_PLAIN)));
    let families = |file| summarise(file).unwrap().families;
    assert_eq!(families(VALKEY_PACKED), families(VALKEY_PLAIN));
    assert_eq!(summarise(VALKEY_PACKED).unwrap().functions, summarise(REDIS_PLAIN).unwrap().functions);
}

#[test]
fn keys_that_expired_can_be_left_out() {
    let at = |ms| -> (u64, u64, Vec<KeyFamily>) {
        let mut reader = Reader::new(VALKEY_PACKED).unwrap();
        let mut summary = Summary::alive_at(ms);
        while let Some(entry) = reader.next_entry().unwrap() {
            summary.add(&entry);
        }
        let s = summary.finish(&reader);
        (s.keys, s.expiring_keys, s.families)
    };
    assert_eq!(at(4_102_444_800_122).0, 24);
    assert_eq!((at(4_102_444_800_123).0, at(4_102_444_800_123).1), (23, 1));
    assert_eq!((at(4_102_444_800_999).0, at(4_102_444_800_999).1), (22, 0));
}

/// Puts files together.
struct File(Vec<u8>);

impl File {
    fn new(magic: &str) -> Self {
        Self(magic.into())
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    fn len(self, n: usize) -> Self {
        assert!(n < 64);
        self.raw(&[n as u8])
    }
    fn text(self, s: &[u8]) -> Self {
        let head = [&[0x80][..], &(s.len() as u32).to_be_bytes()].concat();
        self.raw(&head).raw(s)
    }
    fn key(self, code: u8, key: &str) -> Self {
        self.raw(&[code]).text(key.as_bytes())
    }
    fn end(self) -> Vec<u8> {
        let mut file = self.raw(&[255]).0;
        let crc = crc64::update(0, &file);
        file.extend_from_slice(&crc.to_le_bytes());
        file
    }
}

fn ziplist(elements: &[&[u8]]) -> Vec<u8> {
    let (mut body, mut last, mut tail) = (Vec::new(), 0usize, 10);
    for e in elements {
        tail = 10 + body.len();
        let start = body.len();
        if last < 254 {
            body.push(last as u8);
        } else {
            body.push(0xfe);
            body.extend_from_slice(&(last as u32).to_le_bytes());
        }
        body.extend_from_slice(e);
        last = body.len() - start;
    }
    let mut out = (11 + body.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&(tail as u32).to_le_bytes());
    out.extend_from_slice(&(elements.len() as u16).to_le_bytes());
    out.extend_from_slice(&body);
    out.push(0xff);
    out
}

/// A listpack of short strings and of numbers below 128.
fn listpack(elements: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    for e in elements {
        let small = str::from_utf8(e).ok().and_then(|s| s.parse::<u8>().ok()).filter(|n| *n < 128);
        let len = match small {
            Some(n) => {
                body.push(n);
                1
            }
            None => {
                body.push(0x80 | e.len() as u8);
                body.extend_from_slice(e);
                1 + e.len()
            }
        };
        body.push(len as u8);
    }
    let mut out = (7 + body.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&(elements.len() as u16).to_le_bytes());
    out.extend_from_slice(&body);
    out.push(0xff);
    out
}

#[test]
fn encodings_of_old_servers() {
    let long = [&[0x41, 0x2c][..], &[b'w'; 300]].concat(); // 14-bit length
    let numbers: [&[u8]; 7] = [
        &[0xf1],
        &[0xfd],
        &[0xfe, 0x80],
        &[0xc0, 0xd4, 0xfe],
        &[0xf0, 0x70, 0x11, 0x01],
        &[0xd0, 0, 0, 0, 0x80],
        &[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80],
    ];
    let texts = ["0", "12", "-128", "-300", "70000", "-2147483648", "-9223372036854775808"];
    let mut packed: Vec<&[u8]> = numbers.to_vec();
    packed.push(&long);
    packed.push(b"\x03end");
    let mut plain = File::new("REDIS0003").key(1, "l").len(9);
    for t in texts {
        plain = plain.text(t.as_bytes());
    }
    let plain = plain.text(&[b'w'; 300]).text(b"end").raw(&[255]).0; // version 3 has no checksum
    let old = File::new("REDIS0007").key(10, "l").text(&ziplist(&packed)).end();
    let quick =
        File::new("REDIS0009").key(14, "l").len(2).text(&ziplist(&packed[..4])).text(&ziplist(&packed[4..])).end();
    assert_eq!(keys(&plain), keys(&old));
    assert_eq!(keys(&plain), keys(&quick));

    let zipmap = b"\x02\x01a\x01\x021__\x02bb\x03\x00xyz\xff";
    let hashes = [
        File::new("REDIS0006").key(9, "h").text(zipmap).end(),
        File::new("REDIS0006").key(13, "h").text(&ziplist(&[b"\x02bb", b"\x03xyz", b"\x01a", &[0xf2]])).end(),
        File::new("REDIS0006").key(4, "h").len(2).text(b"bb").text(b"xyz").text(b"a").text(b"1").end(),
        File::new("REDIS0011").key(16, "h").text(&listpack(&[b"a", b"1", b"bb", b"xyz"])).end(),
    ];
    let zsets = [
        File::new("REDIS0006")
            .key(3, "z")
            .len(3)
            .text(b"a")
            .raw(b"\x032.5")
            .text(b"b")
            .raw(&[254])
            .text(b"c")
            .raw(b"\x02-0"),
        File::new("REDIS0008").key(12, "z").text(&ziplist(&[
            b"\x01c",
            &[0xf1],
            b"\x01a",
            b"\x032.5",
            b"\x01b",
            b"\x03inf",
        ])),
        File::new("REDIS0008")
            .key(5, "z")
            .len(3)
            .text(b"b")
            .raw(&f64::INFINITY.to_le_bytes())
            .text(b"a")
            .raw(&2.5f64.to_le_bytes())
            .text(b"c")
            .raw(&0f64.to_le_bytes()),
    ]
    .map(File::end);
    let intset = [&2u32.to_le_bytes()[..], &2u32.to_le_bytes(), &(-5i16).to_le_bytes(), &7i16.to_le_bytes()].concat();
    let sets = [
        File::new("REDIS0006").key(2, "s").len(2).text(b"7").text(b"-5").end(),
        File::new("REDIS0006").key(11, "s").text(&intset).end(),
        File::new("REDIS0011").key(20, "s").text(&listpack(&[b"7", b"-5"])).end(),
    ];
    for same in [&hashes[..], &zsets, &sets] {
        same.iter().for_each(|f| assert_eq!(keys(f), keys(&same[0])));
    }
}

#[test]
fn streams_of_all_three_layouts() {
    // One entry 5-1 {f: v}, one group with one consumer that has it pending.
    let block = listpack(&[b"1", b"0", b"1", b"f", b"0", b"2", b"0", b"0", b"v", b"4"]);
    let id = [5u64.to_be_bytes(), 1u64.to_be_bytes()].concat();
    let time = 9u64.to_le_bytes();
    let file = |version: u8| {
        let code = [15, 19, 21][version as usize - 1];
        let mut f = File::new("REDIS0011").key(code, "s").len(1).text(&id).text(&block).len(1).len(5).len(1);
        if version > 1 {
            f = f.len(5).len(1).len(0).len(0).len(1);
        }
        f = f.len(1).text(b"group").len(5).len(1);
        if version > 1 {
            f = f.len(1);
        }
        f = f.len(1).raw(&id).raw(&time).len(1).len(1).text(b"consumer").raw(&time);
        if version > 2 {
            f = f.raw(&time);
        }
        f.len(1).raw(&id).end()
    };
    assert_eq!(keys(&file(1)), keys(&file(2)));
    assert_eq!(keys(&file(2)), keys(&file(3)));
}

#[test]
fn what_newer_servers_write() {
    let expiry = 1_900_000_000_000u64.to_le_bytes();
    let never = (-1i64).to_le_bytes();
    let pair = |f: File| f.text(b"f").text(b"v");
    let hash = |magic, code| File::new(magic).key(code, "h");
    // f expires at 1900000000000, g never does.
    let redis = pair(hash("REDIS0012", 24).raw(&expiry).len(2).len(1)).len(0).text(b"g").text(b"w").end();
    let valkey = pair(hash("VALKEY080", 22).len(2)).raw(&expiry).text(b"g").text(b"w").raw(&never).end();
    let mut packed = vec![0, 0, 0, 0, 6, 0];
    packed.extend_from_slice(b"\x81f\x02\x81v\x02\xf4");
    packed.extend_from_slice(&expiry);
    packed.extend_from_slice(b"\x09\x81g\x02\x81w\x02\x00\x01\xff");
    packed[0] = packed.len() as u8;
    let redis_packed = hash("REDIS0012", 25).raw(&expiry).text(&packed).end();
    assert_eq!(keys(&redis), keys(&valkey));
    assert_eq!(keys(&redis), keys(&redis_packed));
    let without = pair(hash("REDIS0012", 4).len(2)).text(b"g").text(b"w").end();
    assert_ne!(keys(&redis), keys(&without));
    assert!(summarise(&File::new("REDIS0011").key(24, "h").end()[..]).is_err());
}

#[test]
fn modules_and_hints_are_walked_over() {
    let parts =
        |f: File| f.len(2).len(1).len(1).len(7).len(3).raw(&[0; 4]).len(4).raw(&[0; 8]).len(5).text(b"x").len(0);
    let file = parts(File::new("REDIS0011").raw(&[247]).len(9))
        .raw(&[250])
        .text(b"redis-bits")
        .raw(&[0xc0, 64])
        .raw(&[254])
        .len(2)
        .raw(&[251])
        .len(1)
        .len(0)
        .raw(&[244])
        .len(1)
        .len(2)
        .len(3)
        .raw(&[248])
        .len(5)
        .raw(&[249, 77])
        .raw(&[253])
        .raw(&1_900_000_000u32.to_le_bytes());
    let file = parts(file.key(7, "m").len(9)).end();
    let keys = keys(&file);
    let (kind, expiry, elements, _) = keys[&(2, "m".to_owned())];
    assert_eq!((kind, expiry, elements), (Kind::Module, Some(1_900_000_000_000), 1));
    assert_eq!(summarise(&file[..]).unwrap().aux, [("redis-bits".to_owned(), "64".to_owned())]);
}

#[test]
fn errors_say_where_and_what() {
    let say = |file: &[u8]| summarise(file).unwrap_err().to_string();
    assert_eq!(say(b""), "the file ends at byte 0, within the header of an RDB file");
    assert_eq!(say(b"GARBAGE 1"), "damaged at byte 0: expected REDIS or VALKEY and a version, found GARBAGE 1");
    assert!(say(b"REDIS0013").contains("REDIS0013 is no version of RDB that can be read here"));
    assert!(say(b"VALKEY099").contains("VALKEY099 is no version"));
    assert_eq!(say(b"REDIS0011\xf6"), "damaged at byte 9: expected a key or an opcode, found 0xf6");
    assert_eq!(say(b"REDIS0011\x00\x01k\x05abc"), "the file ends at byte 16, within a string");
    let mut file = VALKEY_PACKED.to_vec();
    *file.last_mut().unwrap() ^= 1;
    assert!(say(&file).starts_with("checksum mismatch: the file says "));
    let trailing = [VALKEY_PACKED, b"x"].concat();
    assert_eq!(
        say(&trailing),
        format!("damaged at byte {}: expected the end of the file, found more bytes", trailing.len() - 1)
    );
    let unchecked = [&VALKEY_PACKED[..VALKEY_PACKED.len() - 8], &[0; 8]].concat();
    assert_eq!(summarise(&unchecked[..]).unwrap().checksum, Checksum::Disabled);
}

#[test]
fn what_could_be_read_before_the_damage_is_told() {
    let (all, end) = survey(VALKEY_PACKED).unwrap();
    end.unwrap();
    let lines = all.lines();
    assert_eq!(lines[0], "RDB version 11 of Valkey 8.0.1, 11 KiB, checksum verified");
    assert_eq!(lines[1..3], ["24 keys, 2 with an expiry", "(others) 20 keys"]);
    assert_eq!(lines.last().unwrap(), "1 library of functions");
    assert!(lines.contains(&"prexor:v1:lease: 1 key".to_owned()), "{lines:?}");
    let (some, end) = survey(&VALKEY_PACKED[..VALKEY_PACKED.len() / 2]).unwrap();
    assert!(matches!(end, Err(RdbError::Truncated { offset, .. }) if offset == VALKEY_PACKED.len() as u64 / 2));
    assert!((1..24).contains(&some.keys));
}

#[test]
fn every_byte_flipped_is_noticed() {
    for (original, step) in [(VALKEY_PACKED, 1), (VALKEY_PLAIN, 11)] {
        let mut file = original.to_vec();
        let mut reader_found = 0;
        for at in (0..file.len()).step_by(step) {
            for bits in [0x01, 0x80, 0xff] {
                file[at] ^= bits;
                let error = summarise(&file[..]).expect_err("a flipped byte went unnoticed");
                reader_found += usize::from(!matches!(error, RdbError::Checksum { .. }));
                file[at] ^= bits;
            }
        }
        assert!(reader_found > 0);
    }
}

#[test]
fn every_truncation_is_noticed() {
    for file in [VALKEY_PACKED, REDIS_PACKED] {
        for len in 0..file.len() {
            assert!(matches!(summarise(&file[..len]).unwrap_err(), RdbError::Truncated { .. }), "{len}");
        }
    }
}

#[test]
fn great_promises_cost_nothing() {
    // Lengths of 2^63 and the like: the reader must come to the end of the file, not allocate.
    let huge = [&[0x81][..], &(u64::MAX >> 1).to_be_bytes()].concat();
    for code in [0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 24] {
        let file = File::new("REDIS0012").key(code, "k").raw(&huge).raw(&huge).raw(&huge).0;
        assert!(summarise(&file[..]).is_err(), "{code}");
        let compressed = File::new("REDIS0012").key(code, "k").raw(&[0xc3]).raw(&huge).raw(&huge).raw(&[0xe0; 100]).0;
        assert!(summarise(&compressed[..]).is_err(), "{code}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// With the checksum off, so that only the reader stands between the bytes and the digest.
    #[test]
    fn several_flips_never_panic(flips in prop::collection::vec((9usize..10_900, any::<u8>()), 1..6)) {
        let mut file = VALKEY_PACKED.to_vec();
        let end = file.len() - 8;
        file[end..].fill(0);
        for (at, bits) in flips {
            file[at.min(end - 1)] ^= bits;
        }
        let _ = summarise(&file[..]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..400), code in 0u8..26) {
        let mut file = File::new("REDIS0012").key(code, "k").0;
        file.extend_from_slice(&tail);
        let _ = summarise(&file[..]);
        let mut packed = File::new("REDIS0012").key(code, "k").text(&tail).0;
        packed.push(255);
        let _ = summarise(&packed[..]);
    }
}
