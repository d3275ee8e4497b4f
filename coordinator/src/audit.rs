//! The audit log: who did what, when, from where, and with what result. It lies in the catalog, which no restore
//! touches, and each entry is in the journal too.

use futures::future::BoxFuture;
use jiff::Timestamp;
use prexor_transport::access::{Seen, Witness};

use crate::catalog::{AuditEntry, Catalog};

/// What stands where nobody is known.
const NOBODY: &str = "-";

/// The longest detail, in characters.
const MAX_DETAIL: usize = 300;

/// Writes down what the API's door sees.
#[derive(Debug)]
pub struct Auditor {
    catalog: Catalog,
}

impl Auditor {
    /// Writes into this catalog.
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog }
    }
}

impl Witness for Auditor {
    fn note(&self, seen: Seen) -> BoxFuture<'_, ()> {
        Box::pin(async move { record(&self.catalog, seen).await })
    }
}

/// Writes an entry down. That it cannot be written is logged, with the entry, and stops nobody: an operator must be able
/// to work on a coordinator whose disk is full.
pub async fn record(catalog: &Catalog, seen: Seen) {
    let (result, detail) = match seen.outcome {
        Ok(()) => ("OK".to_owned(), String::new()),
        Err((reason, message)) => (reason.to_string(), message.chars().take(MAX_DETAIL).collect()),
    };
    let entry = AuditEntry {
        at: Timestamp::now(),
        who: seen.who.map_or_else(|| NOBODY.to_owned(), |who| who.to_string()),
        from: seen.from.map_or_else(|| NOBODY.to_owned(), |from| from.to_string()),
        action: seen.action,
        subject: seen.subject,
        result,
        detail,
    };
    let AuditEntry { who, from, action, subject, result, .. } = &entry;
    if result == "OK" {
        tracing::info!(who, from, action, subject, "done");
    } else {
        tracing::warn!(who, from, action, subject, result, "not done: {}", entry.detail);
    }
    if let Err(e) = catalog.add_audit(&entry).await {
        tracing::error!("an entry of the audit log is lost, it is only in this journal: {e}");
    }
}
