//! The MongoDB source on a server of its own: captured into a directory, restored from there verb by verb.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use mongodb::{
    Client, Database,
    bson::{DateTime, Document, doc},
};
use prexor_agent::{
    restore_unit::RestoreUnit,
    source::{
        Source as _, SourceError,
        mongo::{Databases, MongoConfig, MongoSource},
    },
};
use prexor_format::{
    manifest::{Artifact, Contents, MongoContents},
    selection::{Namespaces, Rename, Selection},
};

use crate::{
    capture::{stage_part, to_directory},
    dataset::DATABASE,
    equality::{self, Things, differences},
    servers::repository,
};

/// A source and a place for backups and units.
#[derive(Debug)]
pub struct Rig {
    /// With all privileges.
    pub client: Client,
    /// What is tested.
    pub source: MongoSource,
    dir: tempfile::TempDir,
}

impl Rig {
    /// A source that connects by `uri`.
    ///
    /// # Panics
    /// When there is no temporary directory.
    pub fn new(client: Client, uri: String) -> Self {
        Self::of(client, uri, Databases::default())
    }

    /// A source of these databases.
    ///
    /// # Panics
    /// When there is no temporary directory.
    pub fn of(client: Client, uri: String, databases: Databases) -> Self {
        let source = MongoSource::new(MongoConfig { uri: uri.into(), database: DATABASE.to_owned(), databases });
        Self { client, source, dir: tempfile::tempdir().expect("a scratch directory") }
    }

    /// The database that is captured and restored.
    pub fn db(&self) -> Database {
        self.client.database(DATABASE)
    }

    /// Where the last capture lies.
    pub fn backup(&self) -> PathBuf {
        self.dir.path().join("backup")
    }

    /// A directory of the test's own.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Captures into [`Self::backup`].
    ///
    /// # Panics
    /// When it fails.
    pub async fn capture(&self) -> Artifact {
        let _ = fs::remove_dir_all(self.backup());
        to_directory(&self.source, &"h1".parse().expect("a name"), &self.backup()).await.expect("a capture")
    }

    /// A unit with everything of the last capture.
    pub fn unit(&self, job: &str, artifact: &Artifact) -> RestoreUnit {
        self.part(job, artifact, &Selection::default())
    }

    /// A unit with a part of the last capture.
    ///
    /// # Panics
    /// When the files cannot be copied.
    pub fn part(&self, job: &str, artifact: &Artifact, selection: &Selection) -> RestoreUnit {
        stage_part(&self.dir.path().join("state"), job, artifact, &self.backup(), selection).expect("a unit")
    }

    /// Everything in the database, a restore's own collections included.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn everything(&self) -> Things {
        equality::mongo(&self.client, DATABASE).await.expect("the database can be read")
    }

    /// Everything but what a restore has there for a while.
    pub async fn live(&self) -> Things {
        let mut things = self.everything().await;
        things.retain(|name, _| !name.starts_with("_prexor_"));
        things
    }

    /// Prepares, swaps, checks and commits.
    ///
    /// # Errors
    /// The first verb's that fails; differences are one.
    pub async fn restore(&self, unit: &RestoreUnit) -> Result<(), SourceError> {
        self.source.prepare(unit).await?;
        self.source.swap(unit).await?;
        match self.source.check(unit).await?[..] {
            [] => self.source.commit(unit).await,
            ref found => Err(SourceError::Failed(found.join("; "))),
        }
    }
}

/// What the manifest says of a dump.
///
/// # Panics
/// When it is none.
pub fn contents(artifact: &Artifact) -> &MongoContents {
    match &artifact.contents {
        Contents::Mongo(contents) => contents,
        other => panic!("{other:?}"),
    }
}

/// Compares two states of the database.
///
/// # Panics
/// When they differ.
#[track_caller]
pub fn same(before: &Things, after: &Things) {
    assert_eq!(differences("mongo", before, after), Vec::<String>::new());
}

/// Runs one of the scripts beside this module with PyMongo, and returns what it printed.
///
/// # Panics
/// With what it said, when it fails.
pub fn python(script: &str, args: &[&str]) -> String {
    // `tests/run` has fetched PyMongo already.
    let path = std::env::var("PREXOR_PYTHONPATH").unwrap_or_else(|_| {
        let said = Command::new(repository().join("deploy/datastores")).arg("--python-bson").output();
        let said = String::from_utf8(said.expect("the script runs").stdout).expect("text");
        let line = said.lines().find_map(|l| l.strip_prefix("export PREXOR_PYTHONPATH="));
        line.expect("PyMongo is fetched").trim_matches('\'').to_owned()
    });
    let mut python = Command::new("python3");
    python.arg(repository().join("tests/src/mongo").join(script)).args(args).env("PYTHONPATH", path);
    let output = python.output().expect("python3 runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}: {out}{err}");
    out.into_owned()
}

/// `--ns`, `--ns-exclude`, `--ns-from` and `--ns-to`.
pub fn namespaces(include: &[&str], exclude: &[&str], rename: &[(&str, &str)]) -> Selection {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    let rename = rename.iter().map(|(f, t)| Rename { from: (*f).to_owned(), to: (*t).to_owned() }).collect();
    let namespaces = Namespaces { include: owned(include), exclude: owned(exclude), rename };
    Selection { namespaces, ..Selection::default() }
}

/// Documents that differ by number, with a text.
pub fn numbered(count: i32, with: &'static str) -> impl Iterator<Item = Document> {
    (0..count).map(move |n| doc! { "_id": n, "with": with })
}

/// A little of every kind: indexes that expire, capped, clustered, time series, views on views.
///
/// # Errors
/// When the server refuses.
pub async fn variety(db: &Database, with: &'static str) -> Result<()> {
    let dated = |mut d: Document| {
        d.insert("at", DateTime::now());
        d
    };
    db.collection("a").insert_many(numbered(200, with).map(dated)).await?;
    let ttl = doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 86_400 };
    let unique = doc! { "key": { "with": 1, "_id": -1 }, "name": "pair", "unique": true };
    db.run_command(doc! { "createIndexes": "a", "indexes": [ttl, unique] }).await?;
    db.run_command(doc! { "create": "b", "capped": true, "size": 8192, "max": 20 }).await?;
    db.collection("b").insert_many(numbered(50, with)).await?;
    let clustered = doc! { "key": { "_id": 1 }, "unique": true };
    db.run_command(doc! { "create": "c", "clusteredIndex": clustered, "expireAfterSeconds": 864_000 }).await?;
    db.collection("c").insert_many(numbered(30, with)).await?;
    series(db, "s", with, Some(864_000)).await?;
    db.run_command(doc! { "create": "v", "viewOn": "w", "pipeline": [{ "$limit": 5 }] }).await?;
    db.run_command(doc! { "create": "w", "viewOn": "a", "pipeline": [{ "$match": { "with": with } }] }).await?;
    db.collection(&format!("only {with}")).insert_many(numbered(5, with)).await?;
    Ok(())
}

/// A time series of a hundred measurements over the last hour and a half.
///
/// # Errors
/// When the server refuses.
pub async fn series(db: &Database, name: &str, with: &str, expire: Option<i64>) -> Result<()> {
    let mut command = doc! { "create": name, "timeseries": { "timeField": "ts", "metaField": "meta" } };
    if let Some(seconds) = expire {
        command.insert("expireAfterSeconds", seconds);
    }
    db.run_command(command).await?;
    let now = DateTime::now().timestamp_millis();
    let measured = |n: i64| doc! { "ts": DateTime::from_millis(now - n * 50_000), "meta": n % 3, "with": with };
    db.collection(name).insert_many((0..100).map(measured)).await?;
    Ok(())
}
