//! The certificates that were issued: what can be revoked, and what was.

use jiff::{SignedDuration, Timestamp};
use prexor_certs::{Leaf, Role};
use prexor_format::digest::Sha256Digest;
use prexor_proto::reason::Reason;
use sqlx::Row as _;

use super::{BEGIN, Catalog};
use crate::error::Error;

/// How long certificates are remembered after their end.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(90 * 24);

impl Catalog {
    /// Records a certificate that the root with the SHA-256 `ca` signed, before anybody gets it.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn add_certificate(&self, leaf: &Leaf, ca: Sha256Digest, now: Timestamp) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO certificates (serial, role, name, issued_ms, not_after_ms, ca) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&leaf.serial)
        .bind(leaf.identity.role().as_str())
        .bind(leaf.identity.name())
        .bind(now.as_millisecond())
        .bind(leaf.not_after.as_millisecond())
        .bind(ca.to_string())
        .execute(&self.pool)
        .await?;
        sqlx::query("DELETE FROM certificates WHERE not_after_ms < $1")
            .bind((now - REMEMBERED).as_millisecond())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// As [`Catalog::add_certificate`], for the owner of the certificate with the serial number `former`: unless that was
    /// revoked, a moment ago perhaps.
    ///
    /// # Errors
    /// `NOT_ALLOWED` when it was.
    pub async fn add_renewal(&self, leaf: &Leaf, ca: Sha256Digest, former: &str, now: Timestamp) -> Result<(), Error> {
        let done = sqlx::query(
            "INSERT INTO certificates (serial, role, name, issued_ms, not_after_ms, ca)
             SELECT $1, $2, $3, $4, $5, $6
             WHERE NOT EXISTS (SELECT 1 FROM certificates WHERE serial = $7 AND revoked_ms IS NOT NULL)",
        )
        .bind(&leaf.serial)
        .bind(leaf.identity.role().as_str())
        .bind(leaf.identity.name())
        .bind(now.as_millisecond())
        .bind(leaf.not_after.as_millisecond())
        .bind(ca.to_string())
        .bind(former)
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        Err(Error::new(Reason::NotAllowed, format!("the certificate of {} was revoked", leaf.identity)))
    }

    /// The SHA-256 of the root that signed a certificate; empty for one that is not known.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn issuer(&self, serial: &str) -> Result<String, Error> {
        let row = sqlx::query("SELECT ca FROM certificates WHERE serial = $1").bind(serial);
        let row = row.fetch_optional(&self.pool).await?;
        Ok(row.map(|row| row.try_get("ca")).transpose()?.unwrap_or_default())
    }

    /// Revokes the certificates of somebody but for the one with the serial number `keep`, and with `tokens` also the
    /// tokens that are bound to the name. Returns the serial numbers that were not revoked before.
    ///
    /// # Errors
    /// When the catalog cannot be written; then nothing is revoked.
    pub async fn revoke(
        &self,
        role: Role,
        name: &str,
        keep: Option<&str>,
        tokens: bool,
        now: Timestamp,
    ) -> Result<Vec<String>, Error> {
        let mut transaction = self.pool.begin_with(BEGIN).await?;
        let rows = sqlx::query(
            "UPDATE certificates SET revoked_ms = $1
             WHERE role = $2 AND name = $3 AND revoked_ms IS NULL AND serial <> $4 RETURNING serial",
        )
        .bind(now.as_millisecond())
        .bind(role.as_str())
        .bind(name)
        .bind(keep.unwrap_or_default())
        .fetch_all(&mut *transaction)
        .await?;
        if tokens {
            sqlx::query(
                "UPDATE tokens SET revoked_ms = $1
                 WHERE role = $2 AND node = $3 AND spent_ms IS NULL AND revoked_ms IS NULL",
            )
            .bind(now.as_millisecond())
            .bind(role.as_str())
            .bind(name)
            .execute(&mut *transaction)
            .await?;
        }
        if role == Role::Agent && keep.is_none() {
            sqlx::query("UPDATE nodes SET revoked_ms = $1 WHERE name = $2")
                .bind(now.as_millisecond())
                .bind(name)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        rows.iter().map(|row| Ok(row.try_get("serial")?)).collect()
    }

    /// Whether a certificate was ever issued to somebody.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn is_known(&self, role: Role, name: &str) -> Result<bool, Error> {
        let row = sqlx::query("SELECT 1 FROM certificates WHERE role = $1 AND name = $2 LIMIT 1")
            .bind(role.as_str())
            .bind(name)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.is_some())
    }

    /// Agents and operators (`agent/h1`) that have certificates which are good, but none that this root signed; sorted.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn without_certificate_of(&self, ca: Sha256Digest, now: Timestamp) -> Result<Vec<String>, Error> {
        let rows = sqlx::query(
            "SELECT role, name FROM certificates
             WHERE not_after_ms > $1 AND revoked_ms IS NULL AND role <> 'coordinator'
             GROUP BY role, name HAVING SUM(CASE WHEN ca = $2 THEN 1 ELSE 0 END) = 0 ORDER BY role, name",
        )
        .bind(now.as_millisecond())
        .bind(ca.to_string())
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| Ok(format!("{}/{}", row.try_get::<String, _>("role")?, row.try_get::<String, _>("name")?)))
            .collect()
    }

    /// The serial numbers of all certificates that were revoked before their end, sorted.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn revoked_serials(&self, now: Timestamp) -> Result<Vec<String>, Error> {
        let rows = sqlx::query(
            "SELECT serial FROM certificates WHERE revoked_ms IS NOT NULL AND not_after_ms > $1 ORDER BY serial",
        )
        .bind(now.as_millisecond())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(row.try_get("serial")?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;

    use super::*;
    use crate::catalog::tests::scratch;

    #[tokio::test]
    async fn revoked_is_all_of_one_name_but_what_is_kept() {
        let (catalog, dir) = scratch().await;
        let now = Timestamp::now();
        let authority = prexor_certs::Authority::create(&dir.path().join("ca"), "c", now).unwrap();
        let mut serials = Vec::new();
        for (role, name) in [(Role::Agent, "h1"), (Role::Agent, "h1"), (Role::Agent, "h2"), (Role::Operator, "h1")] {
            let identity = prexor_certs::Identity::new("c", role, name).unwrap();
            let issued = authority.issue_credential(&identity, std::time::Duration::from_secs(3600), now).unwrap();
            catalog.add_certificate(issued.leaf(), authority.fingerprint(), now).await.unwrap();
            serials.push(issued.leaf().serial.clone());
        }
        let revoked = catalog.revoke(Role::Agent, "h1", Some(&serials[1]), false, now).await.unwrap();
        assert_eq!(revoked, serials[..1]);
        assert_eq!(catalog.revoked_serials(now).await.unwrap(), serials[..1]);
        let revoked = catalog.revoke(Role::Agent, "h1", None, true, now).await.unwrap();
        assert_eq!(revoked, serials[1..2], "each only once");
        let identity = prexor_certs::Identity::new("c", Role::Agent, "h1").unwrap();
        let next = authority.issue_credential(&identity, std::time::Duration::from_secs(3600), now).unwrap();
        let late = catalog.add_renewal(next.leaf(), authority.fingerprint(), &serials[1], now).await.unwrap_err();
        assert_eq!(late.reason, Reason::NotAllowed, "its owner was revoked while it was signed");
        let other = Sha256Digest::of(b"another root");
        assert_eq!(catalog.without_certificate_of(other, now).await.unwrap(), ["agent/h2", "operator/h1"]);
        catalog.add_renewal(next.leaf(), other, "unknown", now).await.unwrap();
        let left = catalog.without_certificate_of(authority.fingerprint(), now).await.unwrap();
        assert_eq!(left, ["agent/h1"]);
        assert_eq!(catalog.issuer(&next.leaf().serial).await.unwrap(), other.to_string());
        assert!(catalog.is_known(Role::Operator, "h1").await.unwrap());
        assert!(!catalog.is_known(Role::Operator, "h2").await.unwrap());
        assert_eq!(catalog.revoked_serials(now + 2.hours()).await.unwrap(), Vec::<String>::new(), "they have ended");
    }
}
