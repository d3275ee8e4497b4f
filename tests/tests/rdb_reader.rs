//! The RDB reader on files of a real server: its serialised values are what servers load, as payloads and as files, and
//! damage anywhere in a large file is noticed.
#![allow(clippy::unwrap_used, reason = "a test that panics says what it needs to")]

use std::{fs, process::Command};

use prexor_format::rdb::{Facts, Library, Payload, RdbError, Reader, Record, Writer, summarise};
use prexor_tests::{
    dataset::{self, Size},
    resp::Resp,
    servers::{Valkey, binaries},
};

/// A server that may be asked for a digest of all that it holds.
async fn server() -> Valkey {
    Valkey::builder().setting("enable-debug-command yes").setting("save \"\"").start().await
}

fn digest(server: &Valkey) -> String {
    server.cli(&["DEBUG", "DIGEST"]).trim().to_owned()
}

async fn saved(server: &Valkey) -> Vec<u8> {
    server.client().await.call(&["SAVE"]).await.unwrap();
    fs::read(server.data_dir().join("dump.rdb")).unwrap()
}

/// The dataset, once as the server packs it by itself and once with nothing packed or compressed.
async fn files() -> Vec<(Vec<u8>, String)> {
    let server = server().await;
    let mut client = server.client().await;
    dataset::valkey(&mut client, Size::SMALL).await.unwrap();
    let packed = (saved(&server).await, digest(&server));
    for (setting, value) in [
        ("rdbcompression", "no"),
        ("hash-max-listpack-entries", "1"),
        ("zset-max-listpack-entries", "1"),
        ("set-max-intset-entries", "1"),
        ("set-max-listpack-entries", "0"),
        ("list-max-listpack-size", "1"),
        ("stream-node-max-entries", "1"),
    ] {
        client.call(&["CONFIG", "SET", setting, value]).await.unwrap();
    }
    client.call(&["DEBUG", "RELOAD"]).await.unwrap();
    let plain = (saved(&server).await, digest(&server));
    assert_eq!(packed.1, plain.1);
    vec![packed, plain]
}

async fn restore(client: &mut Resp, file: &[u8]) {
    let mut reader = Reader::new(file).unwrap();
    let version = u16::try_from(reader.version()).unwrap();
    let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
    while let Some(record) = reader.next_record().unwrap() {
        let mut payload = Vec::new();
        match record {
            Record::Library(l) => {
                Payload::append(Library::CODE, l.serialised.unwrap(), version, &mut payload);
                commands.push(vec![b"FUNCTION".into(), b"RESTORE".into(), payload]);
            }
            Record::Key(e) => {
                let at = e.serialised_at as usize;
                let serialised = &file[at..at + e.serialised_len as usize];
                Payload::append(e.code, serialised, version, &mut payload);
                let expiry = e.expires_at_ms.unwrap_or(0).to_string().into_bytes();
                commands.push(vec![b"SELECT".into(), e.db.to_string().into_bytes()]);
                commands.push(vec![b"RESTORE".into(), e.key.into(), expiry, payload, b"ABSTTL".into()]);
            }
        }
    }
    client.pipeline(&commands).await.unwrap();
}

fn rewritten(file: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(file).unwrap();
    let mut out = Writer::new(Vec::new(), reader.version(), &[("written-by", "a test")]).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        match record {
            Record::Library(l) => out.library(l.serialised.unwrap()).unwrap(),
            Record::Key(e) => {
                let facts = Facts { expires_at_ms: e.expires_at_ms, ..Facts::default() };
                out.key(e.db, e.key, e.code, &facts).unwrap();
                let at = e.serialised_at as usize;
                out.value(&file[at..at + e.serialised_len as usize]).unwrap();
            }
        }
    }
    out.finish().unwrap()
}

#[tokio::test]
async fn values_are_restored_as_payloads_and_as_files() {
    for (file, expected) in files().await {
        let families = summarise(&file[..]).unwrap().families;

        let other = server().await;
        restore(&mut other.client().await, &file).await;
        assert_eq!(digest(&other), expected);
        let again = summarise(&saved(&other).await[..]).unwrap();
        assert_eq!((again.families, again.functions.libraries), (families.clone(), 1));

        let mut third = server().await;
        third.stop().await;
        let dump = third.data_dir().join("dump.rdb");
        fs::write(&dump, rewritten(&file)).unwrap();
        let checked = Command::new(&binaries().valkey_check_rdb).arg(&dump).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        third.start().await;
        assert_eq!(digest(&third), expected);
        assert_eq!(summarise(&saved(&third).await[..]).unwrap().families, families);
    }
}

#[tokio::test]
async fn damage_anywhere_in_a_large_file_is_noticed() {
    const KEYS: usize = 60_000;
    let server = server().await;
    let mut client = server.client().await;
    dataset::valkey(&mut client, Size::SMALL).await.unwrap();
    let value = |n: usize| (0..30).map(|i| format!("{:x}", n * 31 + i * i)).collect::<String>();
    for first in (0..KEYS).step_by(1000) {
        let commands: Vec<_> =
            (first..first + 1000).map(|n| ["SET".to_owned(), format!("prexor:v1:player:{n}"), value(n)]).collect();
        client.pipeline(&commands).await.unwrap();
    }
    let mut file = saved(&server).await;
    assert!(file.len() > 8 << 20, "{}", file.len());
    let whole = summarise(&file[..]).unwrap();
    assert!(whole.keys > KEYS as u64);

    let (len, mut by_offset) = (file.len(), 0);
    for sample in 0..120 {
        let at = (sample * 2_654_435_761usize) % len;
        let bits = [0x01, 0x80, 0xff][sample % 3];
        file[at] ^= bits;
        match summarise(&file[..]).expect_err("damage that went unnoticed") {
            RdbError::Damaged { offset, .. } | RdbError::Truncated { offset, .. } => {
                assert!(offset <= len as u64);
                by_offset += 1;
            }
            RdbError::Checksum { .. } | RdbError::Unsupported(_) => {}
            RdbError::Io { source, .. } => panic!("{source}"),
        }
        file[at] ^= bits;
        assert!(matches!(
            summarise(&file[..at]),
            Err(RdbError::Truncated { offset, .. }) if offset == at as u64
        ));
    }
    assert!(by_offset > 0, "some of the damage is found where it is");
    assert_eq!(summarise(&file[..]).unwrap(), whole);
}
