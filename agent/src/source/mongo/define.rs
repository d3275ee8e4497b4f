//! Creates, renames and drops namespaces.

use prexor_format::{
    bson::{BsonError, DocBuilder, Elements},
    mongodump::{FUNCTIONS, without_expiry},
};

use super::{Server, catalog, temporary};
use crate::source::SourceError;

/// What listIndexes tells and `createIndexes` chooses by itself.
const NOT_INDEXED: [&[u8]; 2] = [b"v", b"ns"];

/// Creates a collection, view or time series; nothing expires in it yet (see [`set_expiries`]). The options are those
/// of [`as_created`](prexor_format::mongodump::as_created).
pub(super) async fn create(server: &Server, name: &str, options: &[u8]) -> Result<(), SourceError> {
    let (options, _) = without_expiry(options).map_err(|e| unusable(name, e))?;
    let mut command = DocBuilder::new();
    command.string("create", name).elements_of(&options);
    server.write(command, &format!("create {name}")).await
}

/// Builds all indexes at once, without their expiry (see [`set_expiries`]).
pub(super) async fn create_indexes(
    server: &Server,
    name: &str,
    options: &[u8],
    indexes: &[Vec<u8>],
) -> Result<(), SourceError> {
    let collated = Elements::find(options, "collation").is_some();
    let mut specs = Vec::new();
    for index in indexes {
        let has = |key| Elements::find(index, key).is_some();
        let is_id = Elements::find(index, "name").and_then(|n| n.as_str()) == Some("_id_");
        // Both come with the collection itself.
        if is_id || has("clustered") {
            continue;
        }
        let (plain, _) = without_expiry(index).map_err(|e| unusable(name, e))?;
        let mut spec = DocBuilder::new();
        for e in Elements::of(&plain).map_err(|e| unusable(name, e))? {
            let e = e.map_err(|e| unusable(name, e))?;
            if !NOT_INDEXED.contains(&e.name) {
                spec.raw(e.kind, e.name, e.value);
            }
        }
        if collated && !has("collation") {
            // Otherwise it would take the collection's collation.
            let mut simple = DocBuilder::new();
            simple.string("locale", "simple");
            spec.document("collation", &simple.finish());
        }
        specs.push(spec.finish());
    }
    if specs.is_empty() {
        return Ok(());
    }
    let mut command = DocBuilder::new();
    command.string("createIndexes", name).array_of("indexes", specs).boolean("ignoreUnknownIndexOptions", true);
    if server.replica_set.is_some() {
        // The default waits for every voting member, for ever when one is down.
        command.string("commitQuorum", "majority");
    }
    server.write(command, &format!("build the indexes of {name}")).await
}

/// Creates a time series under its name, with data that `load` brings, and with exactly these indexes.
pub(super) async fn create_time_series(
    server: &Server,
    name: &str,
    options: &[u8],
    indexes: &[Vec<u8>],
    load: impl Future<Output = Result<(), SourceError>>,
) -> Result<(), SourceError> {
    create(server, name, options).await?;
    load.await?;
    create_indexes(server, name, options, indexes).await?;
    // From MongoDB 6.3 on a time series is born with an index on its meta and time fields.
    for extra in surplus(&catalog::indexes(server, name).await?.unwrap_or_default(), indexes) {
        let mut command = DocBuilder::new();
        command.string("dropIndexes", name).string("index", &extra);
        server.write(command, &format!("drop the index {extra} of {name}, which the backup does not have")).await?;
    }
    Ok(())
}

/// The names of indexes that are there and not wanted.
fn surplus(there: &[Vec<u8>], wanted: &[Vec<u8>]) -> Vec<String> {
    let name = |index: &Vec<u8>| Elements::find(index, "name").and_then(|n| n.as_str()).map(str::to_owned);
    let wanted: Vec<_> = wanted.iter().filter_map(name).collect();
    there.iter().filter_map(name).filter(|n| !wanted.contains(n)).collect()
}

/// Lets documents expire as options and indexes say. Setting what is set already does nothing.
pub(super) async fn set_expiries(
    server: &Server,
    name: &str,
    options: &[u8],
    indexes: &[Vec<u8>],
) -> Result<(), SourceError> {
    let doing = format!("set when documents of {name} expire");
    if let (_, Some(seconds)) = without_expiry(options).map_err(|e| unusable(name, e))? {
        let mut command = DocBuilder::new();
        command.string("collMod", name).int64("expireAfterSeconds", seconds);
        server.write(command, &doing).await?;
    }
    for index in indexes {
        let (_, expiry) = without_expiry(index).map_err(|e| unusable(name, e))?;
        let (Some(seconds), Some(index)) = (expiry, Elements::find(index, "name").and_then(|n| n.as_str())) else {
            continue;
        };
        let mut spec = DocBuilder::new();
        spec.string("name", index).int64("expireAfterSeconds", seconds);
        let mut command = DocBuilder::new();
        command.string("collMod", name).document("index", &spec.finish());
        server.write(command, &doing).await?;
    }
    Ok(())
}

/// Renames a collection; refused by the server when `to` exists.
pub(super) async fn rename(server: &Server, from: &str, to: &str) -> Result<(), SourceError> {
    rename_over(server, from, to, false).await
}

async fn rename_over(server: &Server, from: &str, to: &str, existing: bool) -> Result<(), SourceError> {
    let mut command = DocBuilder::new();
    command
        .string("renameCollection", &format!("{}.{from}", server.database()))
        .string("to", &format!("{}.{to}", server.database()))
        .boolean("dropTarget", existing);
    server.write_admin(command, &format!("rename {from} to {to}")).await
}

/// Drops a namespace that is there.
pub(super) async fn drop(server: &Server, mut name: &str) -> Result<(), SourceError> {
    if name == FUNCTIONS {
        // The server lets it be renamed, and not be dropped.
        rename_over(server, name, temporary::FUNCTIONS_ASIDE, true).await?;
        name = temporary::FUNCTIONS_ASIDE;
    }
    let mut command = DocBuilder::new();
    command.string("drop", name);
    server.write(command, &format!("drop {name}")).await
}

fn unusable(name: &str, error: BsonError) -> SourceError {
    SourceError::Invalid(format!("the options or indexes of {name} cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_only_the_server_made_is_surplus() {
        let index = |name: &str| {
            let mut b = DocBuilder::new();
            b.string("name", name);
            b.finish()
        };
        assert_eq!(surplus(&[index("meta_1_ts_1"), index("a")], &[index("a"), index("b")]), ["meta_1_ts_1"]);
    }
}
