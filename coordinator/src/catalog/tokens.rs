//! Enrolment tokens, by the hash of their secret: the secret itself is never stored.

use jiff::Timestamp;
use sqlx::Row as _;

use super::Catalog;
use crate::error::Error;

/// A token to be recorded.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its name in logs: no secret.
    pub id: String,
    /// Of its secret, in hexadecimal.
    pub hash: String,
    /// `agent` or `operator`.
    pub role: String,
    /// The only name it is good for; `None`: any.
    pub node: Option<String>,
    /// What the operator said.
    pub description: String,
    /// The operator's identity.
    pub created_by: String,
    /// Now.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What a token was good for, once it is spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpentToken {
    /// `agent` or `operator`.
    pub role: String,
    /// What the operator said when it was made.
    pub description: String,
}

/// A token that could be spent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsableToken {
    /// The role that its certificate will have.
    pub role: String,
    /// Whether it is for one name only.
    pub bound: bool,
}

impl Catalog {
    /// Records a token.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn add_token(&self, token: &NewToken) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO tokens (id, hash, role, node, description, created_by, created_ms, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(&token.id)
        .bind(&token.hash)
        .bind(&token.role)
        .bind(&token.node)
        .bind(&token.description)
        .bind(&token.created_by)
        .bind(token.created_at.as_millisecond())
        .bind(token.expires_at.as_millisecond())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Spends a token for `name`. One statement: of two callers at once exactly one gets it. `None` when it is
    /// unknown, spent, expired or bound to another name.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn spend_token(
        &self,
        id: &str,
        hash: &str,
        name: &str,
        now: Timestamp,
    ) -> Result<Option<SpentToken>, Error> {
        let row = sqlx::query(
            "UPDATE tokens SET spent_ms = $1, spent_by = $2
             WHERE id = $3 AND hash = $4 AND spent_ms IS NULL AND expires_ms > $1 AND (node IS NULL OR node = $2)
             RETURNING role, description",
        )
        .bind(now.as_millisecond())
        .bind(name)
        .bind(id)
        .bind(hash)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|r| Ok(SpentToken { role: r.try_get("role")?, description: r.try_get("description")? })).transpose()
    }

    /// Whether [`Catalog::spend_token`] would take this token for `name` now: what it is good for, or why not. The reason is for
    /// the log; callers are told nothing of it.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn look_at_token(
        &self,
        id: &str,
        hash: &str,
        name: &str,
        now: Timestamp,
    ) -> Result<Result<UsableToken, &'static str>, Error> {
        let row = sqlx::query("SELECT role, node, spent_ms, expires_ms FROM tokens WHERE id = $1 AND hash = $2")
            .bind(id)
            .bind(hash)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(Err("unknown")) };
        let (spent, node): (Option<i64>, Option<String>) = (row.try_get("spent_ms")?, row.try_get("node")?);
        let expires: i64 = row.try_get("expires_ms")?;
        Ok(match (spent, node) {
            (Some(_), _) => Err("already spent"),
            _ if expires <= now.as_millisecond() => Err("expired"),
            (_, Some(node)) if node != name => Err("bound to another name"),
            (None, node) => Ok(UsableToken { role: row.try_get("role")?, bound: node.is_some() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;
    use crate::catalog::tests::scratch;

    fn token(id: &str, node: Option<&str>, now: Timestamp) -> NewToken {
        NewToken {
            id: id.to_owned(),
            hash: "aa".to_owned(),
            role: "agent".to_owned(),
            node: node.map(str::to_owned),
            description: "rejoin".to_owned(),
            created_by: "root".to_owned(),
            created_at: now,
            expires_at: now + 1.hour(),
        }
    }

    #[tokio::test]
    async fn of_many_at_once_one_spends_a_token() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(1_000).unwrap();
        catalog.add_token(&token("t", None, now)).await.unwrap();
        let tries: Vec<_> = (0..16)
            .map(|i| {
                let catalog = catalog.clone();
                tokio::spawn(async move { catalog.spend_token("t", "aa", &format!("h{i}"), now).await.unwrap() })
            })
            .collect();
        let results = futures::future::join_all(tries).await;
        assert_eq!(results.into_iter().filter(|r| r.as_ref().unwrap().is_some()).count(), 1);
    }

    #[tokio::test]
    async fn expired_bound_and_unknown_tokens_are_refused_and_explained() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(1_000).unwrap();
        catalog.add_token(&token("t", Some("h1"), now)).await.unwrap();
        for (id, hash, name, at, why) in [
            ("z", "aa", "h1", now, "unknown"),
            ("t", "ab", "h1", now, "unknown"),
            ("t", "aa", "h2", now, "bound to another name"),
            ("t", "aa", "h1", now + 1.hour(), "expired"),
        ] {
            assert_eq!(catalog.spend_token(id, hash, name, at).await.unwrap(), None);
            assert_eq!(catalog.look_at_token(id, hash, name, at).await.unwrap(), Err(why));
        }
        assert_eq!(
            catalog.look_at_token("t", "aa", "h1", now).await.unwrap(),
            Ok(UsableToken { role: "agent".to_owned(), bound: true })
        );
        assert!(catalog.spend_token("t", "aa", "h1", now).await.unwrap().is_some());
        assert_eq!(catalog.spend_token("t", "aa", "h1", now).await.unwrap(), None);
        assert_eq!(catalog.look_at_token("t", "aa", "h1", now).await.unwrap(), Err("already spent"));
    }
}
