//! Connection strings: most hold a password, so they show nothing of themselves and are wiped when they go.

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};

/// The URI of a database. Only [`ConnectionString::expose`] and serialization (into files of mode 0600) give it away.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "String")]
pub struct ConnectionString(SecretString);

impl ConnectionString {
    /// What it is, for whoever connects.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for ConnectionString {
    fn from(uri: String) -> Self {
        Self(uri.into())
    }
}

impl From<&str> for ConnectionString {
    fn from(uri: &str) -> Self {
        Self(uri.into())
    }
}

impl PartialEq for ConnectionString {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for ConnectionString {}

impl Serialize for ConnectionString {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kept_in_files_and_shown_nowhere() {
        let uri: ConnectionString = serde_json::from_str("\"mongodb://u:hunter2@h\"").unwrap();
        assert_eq!(uri, "mongodb://u:hunter2@h".into());
        assert_eq!(serde_json::to_string(&uri).unwrap(), "\"mongodb://u:hunter2@h\"");
        let shown = format!("{uri:?} {:#?}", Some(&uri));
        assert!(!shown.contains("hunter2") && !shown.contains("mongodb"), "{shown}");
    }
}
