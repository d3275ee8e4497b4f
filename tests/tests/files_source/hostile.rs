//! Archives that nobody should unpack, written block by block.

use std::io::Write as _;

use prexor_format::{digest::Sha256Digest, gzip::GzipWriter, manifest::Artifact};

/// An archive of these blocks, and `like` with its size and digest.
pub(crate) fn artifact(like: &Artifact, finding: &str, blocks: &[Vec<u8>]) -> (Artifact, Vec<u8>) {
    let mut tar = blocks.concat();
    if !finding.contains("ends in the middle") && !finding.contains("larger than") {
        tar.extend([0; 1024]);
    }
    let mut gz = GzipWriter::new(Vec::new());
    gz.write_all(&tar).unwrap();
    let gz = gz.finish().unwrap();
    let mut artifact = like.clone();
    artifact.files[0].size_bytes = gz.len() as u64;
    artifact.files[0].sha256 = Sha256Digest::of(&gz);
    (artifact, gz)
}

/// A header of a ustar archive (POSIX.1-2017, `pax`), padded data after it.
pub(crate) fn entry(name: &str, kind: u8, link: &str, data: &[u8]) -> Vec<u8> {
    sized(name, kind, link, data.len() as u64, data)
}

/// [`entry`] that announces another size than it has data.
pub(crate) fn sized(name: &str, kind: u8, link: &str, size: u64, data: &[u8]) -> Vec<u8> {
    let mut b = vec![0u8; 512];
    b[..name.len()].copy_from_slice(name.as_bytes());
    b[100..107].copy_from_slice(b"0000755");
    b[108..115].copy_from_slice(b"0000000");
    b[116..123].copy_from_slice(b"0000000");
    b[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    b[136..147].copy_from_slice(b"00000000000");
    b[148..156].copy_from_slice(b"        ");
    b[156] = kind;
    b[157..157 + link.len()].copy_from_slice(link.as_bytes());
    b[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u64 = b.iter().map(|c| u64::from(*c)).sum();
    b[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    b.extend_from_slice(data);
    b.resize(b.len().next_multiple_of(512), 0);
    b
}

/// Whole archives beginning with a root directory, with the finding that each is refused for.
pub(crate) fn archives() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let root = || entry("./", b'5', "", b"");
    let long_record = |keyword: &str, value: &str| {
        let body = format!(" {keyword}={value}\n");
        let len = (1..).find(|n: &usize| n.to_string().len() + body.len() == *n).unwrap();
        entry("./PaxHeaders/x", b'x', "", format!("{len}{body}").as_bytes())
    };
    vec![
        ("an absolute name", vec![root(), entry("/tmp/prexor-hostile", b'0', "", b"x")]),
        ("a name with '..'", vec![root(), entry("./../prexor-hostile", b'0', "", b"x")]),
        ("a name with '..'", vec![root(), entry("./a/../../prexor-hostile", b'0', "", b"x")]),
        ("a name with '..'", vec![root(), long_record("path", "./../prexor-hostile"), entry("./a", b'0', "", b"x")]),
        (
            "is in something that is no directory",
            vec![root(), entry("./a", b'2', "/tmp", b""), entry("./a/prexor-hostile", b'0', "", b"x")],
        ),
        (
            "is in something that is no directory",
            vec![root(), entry("./a", b'2', "../..", b""), entry("./a/b/", b'5', "", b"")],
        ),
        ("comes twice", vec![root(), entry("./a", b'0', "", b"x"), entry("./a", b'0', "", b"y")]),
        ("comes twice", vec![root(), entry("./a", b'2', "/tmp/prexor-hostile", b""), entry("./a", b'0', "", b"y")]),
        ("a hard link to an absolute name", vec![root(), entry("./a", b'1', "/etc/passwd", b"")]),
        ("a hard link to a name with '..'", vec![root(), entry("./a", b'1', "./../../etc/passwd", b"")]),
        ("no file that came before", vec![root(), entry("./b", b'1', "./a", b"")]),
        (
            "no file that came before",
            vec![root(), entry("./a", b'2', "/etc/passwd", b""), entry("./b", b'1', "./a", b"")],
        ),
        ("a device", vec![root(), entry("./a", b'3', "", b"")]),
        ("a device", vec![root(), entry("./a", b'4', "", b"")]),
        ("unknown type", vec![root(), entry("./a", b'L', "", b"./b")]),
        ("unknown type", vec![root(), entry("./a", b'g', "", b"12 path=./b\n")]),
        ("comes before the root", vec![entry("./a", b'0', "", b"x")]),
        ("no directory", vec![entry("./", b'2', "/tmp", b"")]),
        ("larger than any name", vec![root(), sized("./x", b'x', "", 1 << 30, b"")]),
        ("the tar ends in the middle", vec![root(), sized("./a", b'0', "", 20_000, b"x")]),
        ("more than the manifest says", vec![root(), entry("./a", b'0', "", &vec![0; 1 << 20])]),
        ("not those of the manifest", vec![root(), entry("./a", b'0', "", b"x")]),
    ]
}
