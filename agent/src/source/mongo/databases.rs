//! Which databases a backup holds.

use std::fmt;

use bson::{Bson, doc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{MongoConfig, Server};
use crate::source::SourceError;

/// What MongoDB keeps for itself.
const INTERNAL: [&str; 3] = ["admin", "config", "local"];

/// `mongo.databases` of `agent.yml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Databases {
    /// The one that `mongo.database` names.
    #[default]
    Default,
    /// All but MongoDB's own.
    All,
    /// These.
    These(Vec<String>),
}

impl Databases {
    /// Whether this database is captured and may be restored, where `default` is the configured one.
    pub(super) fn covers(&self, default: &str, name: &str) -> bool {
        match self {
            Self::Default => name == default,
            Self::All => !INTERNAL.contains(&name),
            Self::These(names) => names.iter().any(|n| n == name),
        }
    }

    /// What is wrong with the setting.
    pub(crate) fn problem(&self) -> Option<String> {
        let Self::These(names) = self else { return None };
        if names.is_empty() {
            return Some("mongo.databases names none: say `default`, `all`, or a list of names".to_owned());
        }
        let bad = names.iter().find(|n| !is_name(n) || INTERNAL.contains(&n.as_str()));
        bad.map(|n| format!("mongo.databases: '{n}' is no name of a database that can be backed up"))
    }

    fn of_word<E: de::Error>(word: &str) -> Result<Self, E> {
        match word {
            "default" => Ok(Self::Default),
            "all" => Ok(Self::All),
            other => Err(E::custom(format!("'{other}' is not `default`, `all` or a list of databases"))),
        }
    }
}

/// Whether MongoDB takes it as a database's name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && !name.contains(['/', '\\', '.', ' ', '"', '$', '\0'])
}

/// The databases that there are to capture now, by name. One that is configured and has nothing in it is among them.
pub(super) async fn present(server: &Server, config: &MongoConfig) -> Result<Vec<String>, SourceError> {
    let mut names = match &config.databases {
        Databases::Default => vec![config.database.clone()],
        Databases::These(names) => names.clone(),
        Databases::All => {
            let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": false };
            let reply = server.ask_admin_or_fail(command, "list the databases").await?;
            let all = reply.get_array("databases").map(Vec::as_slice).unwrap_or_default();
            let names = all.iter().filter_map(Bson::as_document).filter_map(|d| d.get_str("name").ok());
            names.filter(|n| !INTERNAL.contains(n)).map(str::to_owned).collect()
        }
    };
    names.sort();
    names.dedup();
    Ok(names)
}

impl Serialize for Databases {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_str("default"),
            Self::All => serializer.serialize_str("all"),
            Self::These(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Databases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Databases;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`default`, `all` or a list of databases")
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<Databases, E> {
                Databases::of_word(word)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Databases, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Databases::These(names))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_a_word_or_a_list() {
        let read = |json: &str| serde_json::from_str::<Databases>(json).map_err(|e| e.to_string());
        let these = Databases::These(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(read(r#""all""#), Ok(Databases::All));
        assert_eq!(read(r#"["a", "b"]"#), Ok(these.clone()));
        assert!(read(r#""every""#).unwrap_err().contains("'every' is not"));
        for setting in [Databases::Default, Databases::All, these.clone()] {
            assert_eq!(read(&serde_json::to_string(&setting).unwrap()), Ok(setting));
        }
        assert!(these.covers("c", "a") && !these.covers("c", "c"));
        assert!(Databases::All.covers("c", "x") && !Databases::All.covers("c", "admin"));
        assert!(Databases::Default.covers("c", "c") && !Databases::Default.covers("c", "a"));
        assert_eq!(these.problem(), None);
        for bad in [vec![], vec!["local".to_owned()], vec!["a/b".to_owned()]] {
            assert!(Databases::These(bad).problem().is_some());
        }
    }
}
