//! BSON documents as a dump holds them, and the metadata beside them. The first byte chooses between the two.

use prexor_format::{
    bson::{DocumentReader, Elements, walk},
    digest::Order,
    manifest::CollectionType,
    mongodump::{
        Metadata, collection_expiries, definition_digest, document_to_json, unescape_stem, verify_collection,
        without_expiry,
    },
};

use super::Dribble;

/// See the module above.
pub fn check(data: &[u8]) {
    match data.split_first() {
        Some((b'{', _)) => metadata(data),
        Some((_, documents)) => collection(documents),
        None => {}
    }
}

/// A data file.
fn collection(data: &[u8]) {
    for order in [Order::Multiset, Order::Sequence] {
        match (verify_collection(data, order), verify_collection(Dribble::new(data), order)) {
            (Ok(a), Ok(b)) => assert_eq!(a, b, "the size of reads matters"),
            (Err(a), Err(b)) => assert_eq!(a.to_string(), b.to_string(), "the size of reads matters"),
            other => panic!("the size of reads matters: {other:?}"),
        }
    }
    let mut documents = DocumentReader::new(data);
    while let Ok(Some((doc, walked))) = documents.read() {
        assert_eq!(walk(doc), Ok(walked));
        assert_eq!(elements(doc), walked.elements, "the walk and the iterator differ");
        let json = document_to_json(doc);
        assert!(json.is_ok() || walked.invalid_utf8 > 0, "{json:?}");
        without_expiry(doc).expect("a document that was walked");
        let kind = CollectionType::Collection;
        let metadata = Metadata {
            options: doc.to_vec(),
            indexes: vec![doc.to_vec()],
            uuid: None,
            collection: "c".to_owned(),
            kind,
        };
        definition_digest(&metadata.options, &metadata.indexes, kind).expect("documents that were walked");
        for rule in collection_expiries(&metadata).expect("documents that were walked") {
            rule.may_have_taken(doc, 1_700_000_000_000);
        }
        if let Ok(json) = metadata.to_json() {
            self::metadata(&json);
        }
    }
    assert!(documents.offset() <= data.len() as u64);
    // As an iterator sees it that nobody has walked before.
    if let Ok(all) = Elements::of(data) {
        all.for_each(drop);
    }
    let _ = document_to_json(data);
}

fn elements(doc: &[u8]) -> u64 {
    let nested = |e: prexor_format::bson::Element<'_>| match e.kind {
        prexor_format::bson::kind::CODE_WITH_SCOPE => {
            let code = u32::from_le_bytes(e.value[4..8].try_into().expect("four bytes")) as usize;
            elements(&e.value[8 + code..])
        }
        _ => e.as_document().map_or(0, elements),
    };
    Elements::of(doc)
        .expect("a document that was walked")
        .map(|e| 1 + nested(e.expect("an element that was walked")))
        .sum()
}

/// What was read once is written in a form that is read to the same, and written the same again.
fn metadata(json: &[u8]) {
    unescape_stem(&String::from_utf8_lossy(json));
    let Ok(read) = Metadata::from_json(json, "db%2Fname") else { return };
    let written = read.to_json().expect("what came from JSON");
    let again =
        Metadata::from_json(&written, "").unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&written)));
    assert_eq!(
        String::from_utf8_lossy(&again.to_json().expect("what came from JSON")),
        String::from_utf8_lossy(&written)
    );
    let digest = |m: &Metadata| definition_digest(&m.options, &m.indexes, m.kind).expect("BSON of our own");
    assert_eq!(digest(&read), digest(&again));
    assert_eq!((&read.collection, &read.uuid, read.kind), (&again.collection, &again.uuid, again.kind));
    collection_expiries(&read).expect("BSON of our own");
}
