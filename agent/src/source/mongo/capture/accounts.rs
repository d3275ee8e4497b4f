//! Users and roles, as mongodump writes them: those of each database beside its collections; those of all databases, where
//! all are captured, under `admin`. Where the account may not read them they are no part of the backup.

use prexor_format::{
    bson::DocBuilder,
    digest::{ContentHasher, Order},
    manifest::{AccountKind, Accounts},
    mongodump::{ALL_ACCOUNTS, accounts_path, accounts_version_path},
};

use super::{
    super::{Databases, MongoConfig, accounts, catalog::all_of, privileges},
    Failure, Run,
    output::write_file,
};

/// Writes them at the time that the run reads. They are few, and held in memory.
pub(super) async fn capture(run: &Run, config: &MongoConfig, databases: &[String]) -> Result<Vec<Accounts>, Failure> {
    let server = &run.server;
    if !privileges::missing_for_accounts(server, true).await.map_err(Failure::Source)?.is_empty() {
        return Ok(Vec::new());
    }
    let everybody = [ALL_ACCOUNTS.to_owned()];
    let databases = if config.databases == Databases::All { &everybody } else { databases };
    let mut out = Vec::new();
    for database in databases {
        let mut found = Vec::new();
        for (what, collection) in [(AccountKind::Users, "system.users"), (AccountKind::Roles, "system.roles")] {
            run.sink.progress().set_subject(collection);
            found.push((what, read(run, collection, accounts::command(collection, database)).await?));
        }
        if found.iter().all(|(_, documents)| documents.is_empty()) {
            continue;
        }
        for (what, documents) in found {
            let mut content = ContentHasher::new(Order::Multiset);
            documents.iter().for_each(|d| content.add(d));
            let (path, bytes) = (accounts_path(database, what), documents.concat());
            out.push(Accounts {
                database: database.clone(),
                what,
                documents: documents.len() as u64,
                bson_bytes: bytes.len() as u64,
                data_path: path.clone(),
                content: content.finish(),
            });
            write_file(&run.sink, path, bytes, &run.tracker).await.map_err(Failure::Source)?;
        }
        let (mut filter, mut command) = (DocBuilder::new(), DocBuilder::new());
        filter.string("_id", "authSchema");
        command.string("find", "system.version").document("filter", &filter.finish());
        // Without it mongorestore assumes a version that still fits.
        if let Ok(version) = read(run, "system.version", command).await {
            let path = accounts_version_path(database);
            write_file(&run.sink, path, version.concat(), &run.tracker).await.map_err(Failure::Source)?;
        }
    }
    Ok(out)
}

async fn read(run: &Run, collection: &str, mut command: DocBuilder) -> Result<Vec<Vec<u8>>, Failure> {
    run.view.apply(&mut command);
    let found = async { all_of(run.server.cursor_on("admin", command.finish()).await?).await }.await;
    found.map_err(|e| Failure::of(e, &run.server, &format!("admin.{collection}"), run.view))
}
