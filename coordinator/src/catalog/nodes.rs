//! The hosts on which an agent is enrolled.

use jiff::Timestamp;
use prexor_format::id::NodeName;
use sqlx::Row as _;

use super::{Catalog, time};
use crate::error::Error;

/// An enrolled node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// Its host name as it said when it enrolled.
    pub hostname: String,
    /// `host:port` that the coordinator dials.
    pub address: String,
    /// The serial number of its latest certificate, in hexadecimal.
    pub serial: String,
    /// When that certificate ends.
    pub not_after: Timestamp,
    /// When it was issued.
    pub enrolled_at: Timestamp,
    /// When it was revoked; `None`: it was not, or has rejoined.
    pub revoked_at: Option<Timestamp>,
}

impl Catalog {
    /// Records a node; one with this name is replaced (it has enrolled again, or has a new certificate).
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn put_node(&self, node: &NodeRecord) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO nodes (name, hostname, address, serial, not_after_ms, enrolled_ms, revoked_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (name) DO UPDATE SET hostname = excluded.hostname, address = excluded.address,
                 serial = excluded.serial, not_after_ms = excluded.not_after_ms, enrolled_ms = excluded.enrolled_ms,
                 revoked_ms = excluded.revoked_ms",
        )
        .bind(node.name.as_str())
        .bind(&node.hostname)
        .bind(&node.address)
        .bind(&node.serial)
        .bind(node.not_after.as_millisecond())
        .bind(node.enrolled_at.as_millisecond())
        .bind(node.revoked_at.map(Timestamp::as_millisecond))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Takes note of the next certificate of a node, unless it was revoked meanwhile.
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn renew_node(&self, name: &NodeName, serial: &str, not_after: Timestamp) -> Result<(), Error> {
        sqlx::query("UPDATE nodes SET serial = $1, not_after_ms = $2 WHERE name = $3 AND revoked_ms IS NULL")
            .bind(serial)
            .bind(not_after.as_millisecond())
            .bind(name.as_str())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// All nodes that are not revoked, by name.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        let all = self.all_nodes().await?;
        Ok(all.into_iter().filter(|n| n.revoked_at.is_none()).collect())
    }

    /// All nodes, revoked ones too, by name.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn all_nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        let rows = sqlx::query("SELECT * FROM nodes ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let name: String = row.try_get("name")?;
                Ok(NodeRecord {
                    name: name.parse().map_err(|e| Error::internal(format!("the catalog: {e}")))?,
                    hostname: row.try_get("hostname")?,
                    address: row.try_get("address")?,
                    serial: row.try_get("serial")?,
                    not_after: time(row.try_get("not_after_ms")?)?,
                    enrolled_at: time(row.try_get("enrolled_ms")?)?,
                    revoked_at: row.try_get::<Option<i64>, _>("revoked_ms")?.map(time).transpose()?,
                })
            })
            .collect()
    }

    /// The node with this name.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is none, or it was revoked.
    pub async fn node(&self, name: &NodeName) -> Result<NodeRecord, Error> {
        match self.all_nodes().await?.into_iter().find(|n| n.name == *name) {
            Some(NodeRecord { revoked_at: Some(at), .. }) => Err(Error::not_found(format!(
                "the agent '{name}' was revoked at {at}: to let it in again, `prexorctl token create --node {name}` and, \
                 on its host, `prexorctl setup --rejoin`"
            ))),
            Some(node) => Ok(node),
            None => {
                Err(Error::not_found(format!("no agent is enrolled as '{name}': `prexorctl status` lists the nodes")))
            }
        }
    }
}
