//! Enrolment tokens, by the hash of their secret: the secret itself is never stored.

use jiff::{SignedDuration, Timestamp};
use sqlx::Row as _;

use super::{Catalog, time};
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

/// Whether a token could be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// Yes.
    Usable,
    /// It was spent.
    Spent,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.
    Revoked,
}

/// What is known of a token.
#[derive(Debug, Clone)]
pub struct TokenRecord {
    /// As it was made; its hash is left empty.
    pub token: NewToken,
    /// Whether it could be spent.
    pub state: TokenState,
    /// The name that enrolled with it.
    pub spent_by: Option<String>,
}

/// How long tokens that cannot be spent any more are listed.
const LISTED: SignedDuration = SignedDuration::from_hours(30 * 24);

impl Catalog {
    /// Tokens that can be spent, and those of late that cannot, the newest first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn tokens(&self, now: Timestamp) -> Result<Vec<TokenRecord>, Error> {
        let rows = sqlx::query("SELECT * FROM tokens WHERE expires_ms > $1 ORDER BY created_ms DESC, id")
            .bind((now - LISTED).as_millisecond())
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let expires_at = time(row.try_get("expires_ms")?)?;
                let spent: Option<i64> = row.try_get("spent_ms")?;
                let revoked: Option<i64> = row.try_get("revoked_ms")?;
                let state = match (spent, revoked) {
                    (Some(_), _) => TokenState::Spent,
                    (_, Some(_)) => TokenState::Revoked,
                    _ if expires_at <= now => TokenState::Expired,
                    _ => TokenState::Usable,
                };
                let token = NewToken {
                    id: row.try_get("id")?,
                    hash: String::new(),
                    role: row.try_get("role")?,
                    node: row.try_get("node")?,
                    description: row.try_get("description")?,
                    created_by: row.try_get("created_by")?,
                    created_at: time(row.try_get("created_ms")?)?,
                    expires_at,
                };
                Ok(TokenRecord { token, state, spent_by: row.try_get("spent_by")? })
            })
            .collect()
    }

    /// Revokes a token that could still be spent.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is none with this id, or it cannot be spent any more.
    pub async fn revoke_token(&self, id: &str, now: Timestamp) -> Result<(), Error> {
        let done = sqlx::query(
            "UPDATE tokens SET revoked_ms = $1
             WHERE id = $2 AND spent_ms IS NULL AND revoked_ms IS NULL AND expires_ms > $1",
        )
        .bind(now.as_millisecond())
        .bind(id)
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        Err(Error::not_found(format!(
            "no token '{}' could still be spent: `prexorctl token list` shows them",
            id.escape_default()
        )))
    }

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
    /// unknown, spent, revoked, expired or bound to another name.
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
             WHERE id = $3 AND hash = $4 AND spent_ms IS NULL AND revoked_ms IS NULL AND expires_ms > $1
               AND (node IS NULL OR node = $2)
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
        let row = sqlx::query("SELECT * FROM tokens WHERE id = $1 AND hash = $2")
            .bind(id)
            .bind(hash)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(Err("unknown")) };
        let (spent, node): (Option<i64>, Option<String>) = (row.try_get("spent_ms")?, row.try_get("node")?);
        let expires: i64 = row.try_get("expires_ms")?;
        let revoked: Option<i64> = row.try_get("revoked_ms")?;
        Ok(match (spent, node) {
            (Some(_), _) => Err("already spent"),
            _ if revoked.is_some() => Err("revoked"),
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

    #[tokio::test]
    async fn what_is_revoked_cannot_be_spent_and_what_is_spent_not_revoked() {
        let (catalog, _dir) = scratch().await;
        let now = Timestamp::from_second(1_000).unwrap();
        for id in ["usable", "revoked", "spent"] {
            catalog.add_token(&token(id, None, now)).await.unwrap();
        }
        catalog.add_token(&NewToken { expires_at: now, ..token("expired", None, now) }).await.unwrap();
        catalog.revoke_token("revoked", now).await.unwrap();
        catalog.spend_token("spent", "aa", "h1", now).await.unwrap().unwrap();
        assert_eq!(catalog.spend_token("revoked", "aa", "h1", now).await.unwrap(), None);
        assert_eq!(catalog.look_at_token("revoked", "aa", "h1", now).await.unwrap(), Err("revoked"));
        for id in ["revoked", "spent", "expired", "unknown"] {
            assert_eq!(catalog.revoke_token(id, now).await.unwrap_err().reason, prexor_proto::reason::Reason::NotFound);
        }
        let states: Vec<_> =
            catalog.tokens(now).await.unwrap().into_iter().map(|t| (t.token.id, t.state, t.spent_by)).collect();
        let is = |id: &str, state, by: Option<&str>| (id.to_owned(), state, by.map(str::to_owned));
        assert_eq!(
            states,
            [
                is("expired", TokenState::Expired, None),
                is("revoked", TokenState::Revoked, None),
                is("spent", TokenState::Spent, Some("h1")),
                is("usable", TokenState::Usable, None),
            ]
        );
    }
}
