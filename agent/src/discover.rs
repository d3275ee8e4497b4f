//! Reads PrexorCloud's `controller.yml`, so that an agent finds the databases and directories by itself.
//!
//! Knows the file's keys and where installers put it; knows nothing of how the values are used. Keys that it does not
//! know are ignored, as PrexorCloud itself does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use prexor_format::{manifest::Controller, platform};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use crate::connection::ConnectionString;

/// Where PrexorCloud's installers put a controller: the guide's layout, and the one of later versions.
pub const LAYOUTS: [&str; 2] = ["/etc/prexorcloud", "/opt/prexorcloud/controller"];

/// The configuration, relative to a controller's root.
pub const CONFIG_FILE: &str = "config/controller.yml";

/// No configuration is larger: it is read into memory.
const MAX_CONFIG: u64 = 4 << 20;

/// What a `controller.yml` says about the things that are backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    /// The controller's root directory.
    pub root: PathBuf,
    /// The file that all of this comes from.
    pub config_path: PathBuf,
    /// `uuid` (law L3).
    pub uuid: Option<String>,
    /// `cluster.id` (law L11).
    pub cluster_id: Option<String>,
    /// `database.uri`, or the guide era's `mongo.uri`.
    pub mongo_uri: Option<ConnectionString>,
    /// `database.database`, by default `prexorcloud`.
    pub mongo_database: String,
    /// `redis.uri`; `None` is the profile without Valkey.
    pub valkey_uri: Option<ConnectionString>,
    /// `http.port`, where it is a port.
    pub http_port: Option<u16>,
    /// `modules.directory`, by default `data/modules`; absolute.
    pub modules_directory: PathBuf,
    /// The mark of `security.jwtSecret`, by which a change is seen.
    #[serde(default)]
    pub jwt_secret: Option<String>,
}

impl Discovered {
    /// As the manifest names the controller. Its version is not in this file: `controller.version_command` tells it.
    pub fn controller(&self) -> Controller {
        Controller {
            uuid: self.uuid.clone(),
            cluster_id: self.cluster_id.clone(),
            version: None,
            root: self.root.display().to_string(),
        }
    }
}

/// Why a `controller.yml` that is there cannot be used. Messages never quote the file: it holds passwords.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}; prexor-agent needs to read it, or name the roots and URIs in agent.yml", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no YAML, or a value is of another type than PrexorCloud takes.
    #[error("{}:{line}:{column}: {problem}; correct it, or name the roots and URIs in agent.yml", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1; 0 when the place is unknown.
        line: u64,
        /// From 1; 0 when the place is unknown.
        column: u64,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The first of `roots` that holds a `config/controller.yml`; `None` when none does. See [`LAYOUTS`].
///
/// # Errors
/// When the file is there and cannot be used: another root is not tried then, it would be another controller's.
pub fn discover<P: AsRef<Path>>(roots: &[P]) -> Result<Option<Discovered>, DiscoverError> {
    for root in roots {
        let root = root.as_ref();
        let path = root.join(CONFIG_FILE);
        match read(&path) {
            Ok(text) => return parse(root, path, &text).map(Some),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(DiscoverError::Unreadable { path, source }),
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() || meta.len() > MAX_CONFIG {
        return Err(io::Error::other("it is no regular file of reasonable size"));
    }
    fs::read_to_string(path)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ControllerYml {
    uuid: Option<String>,
    database: Option<Database>,
    mongo: Option<Database>,
    redis: Option<Redis>,
    cluster: Option<Cluster>,
    modules: Option<Modules>,
    http: Option<Http>,
    security: Option<Security>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Security {
    jwt_secret: Option<JwtSecret>,
}

/// What is no text is PrexorCloud's to complain of, as with ports.
#[derive(Deserialize)]
#[serde(untagged)]
enum JwtSecret {
    Text(Mark),
    Other(serde::de::IgnoredAny),
}

/// Of a secret that is not kept.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Mark(String);

impl From<String> for Mark {
    fn from(secret: String) -> Self {
        // It is wiped when it goes.
        let secret = SecretString::from(secret);
        Self(platform::mark(secret.expose_secret().as_bytes()))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Http {
    port: Option<Port>,
}

/// What is no port is PrexorCloud's to complain of: it keeps nobody from making a backup.
#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Other(serde::de::IgnoredAny),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Database {
    uri: Option<ConnectionString>,
    database: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Redis {
    uri: Option<ConnectionString>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Cluster {
    id: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Modules {
    directory: Option<String>,
}

fn parse(root: &Path, config_path: PathBuf, text: &str) -> Result<Discovered, DiscoverError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    // An empty file is a null document, not an empty mapping.
    let parsed = serde_saphyr::from_str_with_options::<Option<ControllerYml>>(text, options);
    let yml = parsed.map_err(|e| malformed(&config_path, &e))?.unwrap_or_default();
    let given = |value: Option<String>| value.filter(|v| !v.trim().is_empty());
    let given_uri = |uri: Option<ConnectionString>| uri.filter(|u| !u.expose().trim().is_empty());
    let database = yml.database.unwrap_or_default();
    let mongo = yml.mongo.unwrap_or_default();
    let directory = given(yml.modules.unwrap_or_default().directory);
    Ok(Discovered {
        uuid: given(yml.uuid),
        cluster_id: given(yml.cluster.unwrap_or_default().id),
        mongo_uri: given_uri(database.uri).or_else(|| given_uri(mongo.uri)),
        mongo_database: given(database.database)
            .or_else(|| given(mongo.database))
            .unwrap_or_else(|| "prexorcloud".to_owned()),
        valkey_uri: given_uri(yml.redis.unwrap_or_default().uri),
        http_port: match yml.http.unwrap_or_default().port {
            Some(Port::Number(port)) => Some(port),
            Some(Port::Other(_)) | None => None,
        },
        jwt_secret: match yml.security.unwrap_or_default().jwt_secret {
            Some(JwtSecret::Text(Mark(mark))) => Some(mark),
            Some(JwtSecret::Other(_)) | None => None,
        },
        modules_directory: root.join(directory.as_deref().unwrap_or("data/modules")),
        root: root.to_owned(),
        config_path,
    })
}

/// Only the place is taken from the parser's message: the text may quote a value, and values are passwords.
fn malformed(path: &Path, error: &serde_saphyr::Error) -> DiscoverError {
    let (line, column) = error.location().map_or((0, 0), |l| (l.line(), l.column()));
    let problem = match error {
        serde_saphyr::Error::Eof { .. } => "the file ends in the middle",
        serde_saphyr::Error::Unexpected { .. } => "a value is of another type than PrexorCloud takes here",
        _ => "this is not the YAML that PrexorCloud reads",
    };
    DiscoverError::Malformed { path: path.to_owned(), line, column, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        fs::write(dir.path().join(CONFIG_FILE), config).unwrap();
        dir
    }

    fn discovered(config: &str) -> Discovered {
        discover(&[root_with(config).path()]).unwrap().unwrap()
    }

    const FULL: &str = "
uuid: 6f1c2f5e-0b1a-4a7e-9a53-0d9d1d1c8f10
http: { port: 8080, cors: ['*'] }
database:
  uri: mongodb://prexor:hunter2@127.0.0.1:27017/?replicaSet=rs0
  database: cloud
redis:
  uri: redis://:hunter2@127.0.0.1:6379
cluster: { id: c-1 }
security: { jwtSecret: hunter2 }
modules: { directory: /srv/modules, dataDirectory: data/modules }
";

    #[test]
    fn both_eras_and_both_profiles() {
        let d = discovered(FULL);
        assert_eq!(
            d.mongo_uri.as_ref().map(ConnectionString::expose),
            Some("mongodb://prexor:hunter2@127.0.0.1:27017/?replicaSet=rs0")
        );
        assert_eq!((d.mongo_database.as_str(), d.cluster_id.as_deref()), ("cloud", Some("c-1")));
        assert_eq!(d.valkey_uri.as_ref().map(ConnectionString::expose), Some("redis://:hunter2@127.0.0.1:6379"));
        assert_eq!(d.modules_directory, Path::new("/srv/modules"));
        assert_eq!(d.controller().uuid.as_deref(), Some("6f1c2f5e-0b1a-4a7e-9a53-0d9d1d1c8f10"));
        assert_eq!(d.http_port, Some(8080));
        assert_eq!(d.jwt_secret, Some(platform::mark(b"hunter2")));
        for other in ["security: { jwtSecret: [a] }", "security: {}", "security:"] {
            assert_eq!(discovered(other).jwt_secret, None, "{other}");
        }
        for other in ["http: { port: '${PORT}' }", "http: { port: 99999 }", "http: {}", "http:"] {
            assert_eq!(discovered(other).http_port, None, "{other}");
        }

        let guide = discovered("uuid: u\nmongo:\n  uri: mongodb://h\nredis:\n  uri: null\n");
        assert_eq!((guide.mongo_uri, guide.valkey_uri), (Some("mongodb://h".into()), None));
        assert_eq!(guide.mongo_database, "prexorcloud");
        assert_eq!(guide.modules_directory, guide.root.join("data/modules"));

        for without in ["redis:\n", "redis: {}\n", "redis: { uri: '' }\n", "", "# nothing\n"] {
            assert_eq!(discovered(without).valkey_uri, None, "{without:?}");
        }
    }

    #[test]
    fn the_first_root_with_a_configuration_counts() {
        let (one, two) = (tempfile::tempdir().unwrap(), root_with("uuid: two"));
        assert_eq!(discover(&[one.path(), two.path()]).unwrap().unwrap().root, two.path());
        assert_eq!(discover(&[one.path()]).unwrap(), None);
        assert_eq!(discover::<&Path>(&[]).unwrap(), None);
    }

    #[test]
    fn no_secret_is_shown() {
        assert!(!format!("{:?}", discovered(FULL)).contains("hunter2"));
        for broken in [
            "database: mongodb://prexor:hunter2@h\n",
            "redis:\n  uri: [hunter2\n",
            "redis:\n  uri: { hunter2: 1 }\n",
            "a: 'hunter2\n",
            "uuid: u\n hunter2: {\n",
            "- hunter2\n",
            "x: *hunter2\n",
        ] {
            let dir = root_with(broken);
            let error = discover(&[dir.path()]).unwrap_err();
            let (shown, debug) = (error.to_string(), format!("{error:?}"));
            assert!(!shown.contains("hunter2") && !debug.contains("hunter2"), "{shown}");
            assert!(shown.contains("controller.yml:"), "{shown}");
        }
    }

    #[test]
    fn errors_name_file_and_line() {
        let dir = root_with("uuid: u\ndatabase:\n  uri: [a]\n");
        let error = discover(&[dir.path()]).unwrap_err().to_string();
        assert!(error.contains("config/controller.yml:3:"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(CONFIG_FILE)).unwrap();
        assert!(matches!(discover(&[dir.path()]), Err(DiscoverError::Unreadable { .. })));
    }
}
