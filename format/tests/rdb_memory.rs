//! Values of any size pass through the RDB reader in the same memory. A process of its own, so that its peak is ours.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    io::{self, Cursor, Read},
};

use prexor_format::rdb::{Checksum, Kind, Reader};

const HUGE: u64 = 512 << 20;

/// The peak of this process's memory in KiB; other systems than Linux do not tell.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// `count` times the same bytes.
fn repeated(piece: &[u8], count: u64) -> impl Read {
    struct Repeated {
        pieces: Vec<u8>,
        at: usize,
        left: u64,
    }
    impl Read for Repeated {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let most = usize::try_from(self.left).unwrap().min(buf.len());
            let n = most.min(self.pieces.len() - self.at);
            buf[..n].copy_from_slice(&self.pieces[self.at..][..n]);
            self.at = (self.at + n) % self.pieces.len();
            self.left -= n as u64;
            Ok(n)
        }
    }
    Repeated { pieces: piece.repeat(5_000), at: 0, left: count * piece.len() as u64 }
}

fn length(n: u64) -> Vec<u8> {
    [&[0x81][..], &n.to_be_bytes()].concat()
}

/// A file of one key whose value is `head` and `value`, and no checksum.
fn file(code: u8, head: &[u8], value: impl Read) -> impl Read {
    let begin = [&b"REDIS0011"[..], &[code, 1, b'k'], head].concat();
    Cursor::new(begin).chain(value).chain(&[255, 0, 0, 0, 0, 0, 0, 0, 0][..])
}

fn read(file: impl Read) -> (Kind, u64, u64) {
    let mut reader = Reader::new(file).unwrap();
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(entry.serialised, None, "too large to be kept");
    let seen = (entry.kind, entry.elements, entry.serialised_len);
    assert_eq!(reader.next_entry().unwrap(), None);
    assert_eq!(reader.checksum(), Some(Checksum::Disabled));
    seen
}

#[test]
fn values_of_any_size_take_no_memory() {
    let before = peak();
    let (kind, elements, len) =
        read(file(0, &length(HUGE), repeated(b"value ", HUGE / 6).chain(&b"vvvv"[..HUGE as usize % 6])));
    assert_eq!((kind, elements, len), (Kind::String, 1, HUGE + 9));

    // Compressed: a literal, then references of 264 bytes to the byte before.
    let references = HUGE / 264;
    let head = [&[0xc3][..], &length(2 + 3 * references), &length(1 + 264 * references), &[0, b'x']].concat();
    let (kind, _, len) = read(file(0, &head, repeated(&[0xe0, 0xff, 0], references)));
    assert_eq!((kind, len), (Kind::String, head.len() as u64 + 3 * references));

    let (kind, elements, _) = read(file(1, &length(4_000_000), repeated(b"\x07element", 4_000_000)));
    assert_eq!((kind, elements), (Kind::List, 4_000_000));
    let (kind, elements, _) = read(file(4, &length(2_000_000), repeated(b"\x05field\x05value", 2_000_000)));
    assert_eq!((kind, elements), (Kind::Hash, 2_000_000));
    let grown = peak() - before;
    assert!(grown < 4 << 10, "{grown} KiB more than before");
}
