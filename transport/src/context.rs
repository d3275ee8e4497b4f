//! The context file: which coordinator a client talks to and with which credential. The coordinator writes the first
//! one for root, `prexorctl` reads it.
//!
//! It knows nothing of what is inside a credential directory. The file itself holds no secret.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Names the context file, before any other place.
pub const CONFIG_VARIABLE: &str = "PREXORCTL_CONFIG";

/// The context file of root and of units, which have no HOME.
pub const SYSTEM_CONFIG: &str = "/etc/prexorctl/config.yml";

/// What a context file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The name of the context in use.
    pub current: String,
    /// All contexts by name.
    pub contexts: BTreeMap<String, Context>,
    /// The command (argv) of PrexorCloud's own CLI, for verbs that are not ours; empty when there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platform_cli: Vec<String>,
}

/// How to reach one cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Where coordinators of the cluster listen, `host:port`; tried in this order.
    pub endpoints: Vec<String>,
    /// The cluster's name, as in its certificates.
    pub cluster: String,
    /// The credential directory. Relative paths in the file are relative to the file; loaded ones are absolute.
    pub credential: PathBuf,
}

/// Why there is no usable context.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// None of the places holds a file.
    #[error("no context file: looked for {}", .0.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound(Vec<PathBuf>),
    /// The file cannot be read or written.
    #[error("cannot {action} the context file {}: {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no context file.
    #[error("the context file {} is not valid: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl Contexts {
    /// A file with this one context, in use.
    pub fn single(name: &str, context: Context) -> Self {
        Self {
            current: name.to_owned(),
            contexts: BTreeMap::from([(name.to_owned(), context)]),
            platform_cli: Vec::new(),
        }
    }

    /// The context in use.
    ///
    /// # Errors
    /// When `current` names none.
    pub fn current(&self) -> Result<&Context, String> {
        self.contexts.get(&self.current).ok_or_else(|| {
            let names = self.contexts.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            format!("`current` names the context '{}', which is not there; there are: {names}", self.current)
        })
    }

    /// Reads a file and checks that its current context can be used.
    ///
    /// # Errors
    /// When it cannot be read, has unknown keys, or names no endpoint.
    pub fn load(path: &Path) -> Result<Self, ContextError> {
        let io = |source| ContextError::Io { action: "read", path: path.to_owned(), source };
        let invalid = |message: String| ContextError::Invalid { path: path.to_owned(), message };
        let text = fs::read_to_string(path).map_err(io)?;
        let mut all: Self = serde_saphyr::from_str(&text).map_err(|e| invalid(e.to_string()))?;
        if all.current().map_err(invalid)?.endpoints.is_empty() {
            return Err(invalid(format!("the context '{}' has no endpoints", all.current)));
        }
        let base = directory(path);
        for context in all.contexts.values_mut() {
            context.credential = base.join(&context.credential);
        }
        Ok(all)
    }

    /// Writes the file whole or not at all (mode 0600, missing directories 0700). Credential directories below the
    /// file's directory are written relative to it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ContextError> {
        let base = directory(path);
        let mut all = self.clone();
        for context in all.contexts.values_mut() {
            if let Ok(relative) = context.credential.strip_prefix(base) {
                context.credential = relative.to_owned();
            }
        }
        let text = serde_saphyr::to_string(&all)
            .map_err(|e| ContextError::Invalid { path: path.to_owned(), message: e.to_string() })?;
        write_whole(path, base, text.as_bytes()).map_err(|source| ContextError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }
}

/// The places where a context file is looked for, in order, given what the environment says.
pub fn candidates(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = set(CONFIG_VARIABLE) {
        return vec![path];
    }
    let user = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    user.map(|dir| dir.join("prexorctl/config.yml")).into_iter().chain([PathBuf::from(SYSTEM_CONFIG)]).collect()
}

/// The first of the candidates that exists. A file that is there but cannot be looked at is an error, not passed over.
///
/// # Errors
/// When there is none.
pub fn find(candidates: Vec<PathBuf>) -> Result<PathBuf, ContextError> {
    for path in &candidates {
        match fs::metadata(path) {
            Ok(_) => return Ok(path.clone()),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(ContextError::Io { action: "read", path: path.clone(), source }),
        }
    }
    Err(ContextError::NotFound(candidates))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_whole(path: &Path, base: &Path, text: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(base)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = path.with_file_name(name);
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        io::Write::write_all(&mut file, text)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(base)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn context(credential: &str) -> Context {
        Context {
            endpoints: vec!["127.0.0.1:9443".into()],
            cluster: "prexorcloud".into(),
            credential: credential.into(),
        }
    }

    #[test]
    fn places_are_tried_in_order() {
        let env = |pairs: &'static [(&str, &str)]| {
            let found = candidates(|n| pairs.iter().find(|p| p.0 == n).map(|p| p.1.into()));
            found.iter().map(|p| p.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(env(&[("PREXORCTL_CONFIG", "/x.yml"), ("HOME", "/h")]), ["/x.yml"]);
        assert_eq!(env(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]), ["/c/prexorctl/config.yml", SYSTEM_CONFIG]);
        assert_eq!(
            env(&[("HOME", "/h"), ("PREXORCTL_CONFIG", "")]),
            ["/h/.config/prexorctl/config.yml", SYSTEM_CONFIG]
        );
        assert_eq!(env(&[]), [SYSTEM_CONFIG]);
    }

    #[test]
    fn the_first_that_exists_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a.yml"), dir.path().join("b.yml"));
        let missing = find(vec![a.clone(), b.clone()]).unwrap_err().to_string();
        assert!(missing.contains("a.yml") && missing.contains("b.yml"), "{missing}");
        fs::write(&b, "").unwrap();
        assert_eq!(find(vec![a, b.clone()]).unwrap(), b);
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/config.yml");
        let credential = dir.path().join("deep/credentials/default");
        let mut all = Contexts::single("default", context(credential.to_str().unwrap()));
        all.platform_cli = vec!["prexor".into(), "--plain".into()];
        all.save(&path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("credential: credentials/default"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Contexts::load(&path).unwrap(), all);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yml");
        let contexts = "contexts: {a: {endpoints: [h:1], cluster: c, credential: d}, b: {endpoints: [], cluster: c, credential: d}}";
        for (head, word) in [
            ("current: z\n", "'z'"),
            ("current: b\n", "no endpoints"),
            ("current: a\nendpoint: x\n", "endpoint"),
            ("", "current"),
        ] {
            fs::write(&path, format!("{head}{contexts}\n")).unwrap();
            let error = Contexts::load(&path).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("config.yml"), "{error}");
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(Contexts::load(&path).is_err());
    }
}
