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
}

impl Catalog {
    /// Records a node; one with this name is replaced (it has enrolled again).
    ///
    /// # Errors
    /// When the catalog cannot be written.
    pub async fn put_node(&self, node: &NodeRecord) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO nodes (name, hostname, address, serial, not_after_ms, enrolled_ms)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (name) DO UPDATE SET hostname = excluded.hostname, address = excluded.address,
                 serial = excluded.serial, not_after_ms = excluded.not_after_ms, enrolled_ms = excluded.enrolled_ms",
        )
        .bind(node.name.as_str())
        .bind(&node.hostname)
        .bind(&node.address)
        .bind(&node.serial)
        .bind(node.not_after.as_millisecond())
        .bind(node.enrolled_at.as_millisecond())
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// All nodes, by name.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
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
                })
            })
            .collect()
    }

    /// The node with this name.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is none.
    pub async fn node(&self, name: &NodeName) -> Result<NodeRecord, Error> {
        self.nodes().await?.into_iter().find(|n| n.name == *name).ok_or_else(|| {
            Error::not_found(format!("no agent is enrolled as '{name}': `prexorctl status` lists the nodes"))
        })
    }
}
