//! The tools and calls that the product is compared with.

use std::{
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use mongodb::{
    Client, Database,
    bson::{Document, RawDocumentBuf, doc},
    options::{ClientOptions, Hint},
};
use prexor_format::{
    bson::DocBuilder,
    gzip,
    manifest::{CollectionType, MongoContents},
    mongodump::{Metadata, without_expiry},
};

use crate::resp::Resp;

/// Runs a command to its end and returns what it printed.
pub(super) async fn output(mut command: Command) -> Result<Vec<u8>> {
    let shown = format!("{:?}", command.get_program());
    command.stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || command.output()).await?.context(shown.clone())?;
    if !done.status.success() {
        bail!("{shown}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    }
    Ok(done.stdout)
}

/// Runs a script with arguments `$1`, `$2`, ...; a failure anywhere in a pipe is one.
pub(super) async fn bash(script: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "floor"]).args(args);
    Ok(String::from_utf8(output(command).await?)?)
}

/// Reads all collections to their ends, one after the other on one connection, and returns how many bytes of batches
/// came.
pub(super) async fn drain(uri: &str, database: &str) -> Result<u64> {
    let mut options = ClientOptions::parse(uri).await?;
    options.max_pool_size = Some(1);
    let db = Client::with_options(options)?.database(database);
    let mut bytes = 0;
    for name in db.list_collection_names().await? {
        let mut batches =
            db.collection::<Document>(&name).find(doc! {}).hint(Hint::Keys(doc! { "$natural": 1 })).batch().await?;
        while let Some(batch) = batches.next().await {
            bytes += batch?.as_raw_document().as_bytes().len() as u64;
        }
    }
    Ok(bytes)
}

/// The documents and indexes of a dump, as commands that only have to be sent.
pub(super) struct Bare {
    collections: Vec<BareCollection>,
}

struct BareCollection {
    create: Document,
    indexes: Option<Document>,
    capped: bool,
    inserts: Vec<RawDocumentBuf>,
}

impl Bare {
    /// Reads a dump of ours into memory.
    pub(super) fn of(dump: &MongoContents, backup: &Path) -> Result<Self> {
        let read = |path: &str| -> Result<Vec<u8>> {
            let mut bytes = Vec::new();
            gzip::reader(std::io::BufReader::new(std::fs::File::open(backup.join(path))?)).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let mut collections = Vec::new();
        for c in dump.collections.iter().filter(|c| c.kind == CollectionType::Collection) {
            let metadata = Metadata::from_json(&read(&c.metadata_path)?, "")?;
            let mut create = doc! { "create": &c.name };
            let (options, _) = without_expiry(&metadata.options)?;
            create.extend(Document::from_reader(&options[..])?);
            let mut specs = Vec::new();
            for index in &metadata.indexes {
                let (plain, _) = without_expiry(index)?;
                let spec = Document::from_reader(&plain[..])?;
                specs.extend((!matches!(spec.get_str("name"), Ok("_id_"))).then_some(spec));
            }
            let indexes = (!specs.is_empty()).then(|| doc! { "createIndexes": &c.name, "indexes": specs });
            let data = read(c.data_path.as_deref().context("a collection has data")?)?;
            let inserts = inserts(&c.name, &data)?;
            collections.push(BareCollection { create, indexes, capped: metadata.is_capped(), inserts });
        }
        Ok(Self { collections })
    }

    /// Sends everything to an empty database: batches with majority, two at a time, then the indexes in one pass.
    pub(super) async fn load(&self, db: &Database) -> Result<()> {
        for c in &self.collections {
            db.run_command(c.create.clone()).await?;
            let next = AtomicUsize::new(0);
            let worker = || async {
                while let Some(command) = c.inserts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let reply = db.run_raw_command(command.clone()).await?;
                    anyhow::ensure!(!reply.contains_key("writeErrors"), "{reply:?}");
                }
                anyhow::Ok(())
            };
            if c.capped {
                worker().await?
            } else {
                futures::try_join!(worker(), worker()).map(drop)?
            }
            if let Some(indexes) = &c.indexes {
                db.run_command(indexes.clone()).await?;
            }
        }
        Ok(())
    }
}

fn inserts(name: &str, mut data: &[u8]) -> Result<Vec<RawDocumentBuf>> {
    const BATCH: usize = 6 << 20;
    let mut out = Vec::new();
    while !data.is_empty() {
        let mut command = DocBuilder::new();
        let mut concern = DocBuilder::new();
        concern.string("w", "majority");
        command.string("insert", name).document("writeConcern", &concern.finish());
        let mut list = command.open_array("documents");
        while let Some(length) = data.first_chunk::<4>().map(|l| u32::from_le_bytes(*l) as usize) {
            if list.items() > 0 && command.size() + length > BATCH || list.items() == 100_000 {
                break;
            }
            let (document, rest) = data.split_at(length);
            command.item(&mut list, document);
            data = rest;
        }
        command.close(list);
        out.push(RawDocumentBuf::from_bytes(command.finish())?);
    }
    Ok(out)
}

/// Has the server save, and waits for the end of it.
pub(super) async fn bgsave(resp: &mut Resp) -> Result<()> {
    resp.call(&["BGSAVE"]).await?;
    while persistence(resp, "rdb_bgsave_in_progress").await? != "0" {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    match persistence(resp, "rdb_last_bgsave_status").await?.as_str() {
        "ok" => Ok(()),
        other => bail!("BGSAVE ended as {other}"),
    }
}

/// One value of `INFO persistence`.
pub(super) async fn persistence(resp: &mut Resp, name: &str) -> Result<String> {
    let info = resp.call(&["INFO", "persistence"]).await?.text();
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("INFO says nothing of {name}"))?.trim().to_owned())
}
