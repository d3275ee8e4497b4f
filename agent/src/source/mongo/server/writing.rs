//! Writes that a majority of the replica set confirms (law L18), and what is made of their refusals.

use std::{sync::atomic::Ordering, time::Duration};

use bson::{Bson, Document, RawDocumentBuf};
use mongodb::{
    Database,
    error::{Error, ErrorKind},
    options::{Acknowledgment, InsertManyOptions, WriteConcern},
};
use prexor_format::bson::DocBuilder;

use super::{super::members, Server, raw};
use crate::source::SourceError;

/// How long a majority may take to have a write; without a limit a missing member hangs us for ever.
const MAJORITY_WITHIN: Duration = Duration::from_secs(60);
/// The same where a missing member is accepted.
const ACCEPTED_AFTER: Duration = Duration::from_secs(1);

/// `WriteConcernFailed`, `UnsatisfiableWriteConcern`: written, and the majority has not confirmed it.
const NOT_CONFIRMED: [i32; 2] = [64, 100];

/// A code and the server's words.
type Refusal = (i32, String);

impl Server {
    /// Runs a command that writes, with majority; `command` lacks its write concern. `doing` completes "cannot".
    pub(in crate::source::mongo) async fn write(&self, command: DocBuilder, doing: &str) -> Result<(), SourceError> {
        self.write_to(&self.db, command, doing).await
    }

    /// As [`Self::write`], on `admin`.
    pub(in crate::source::mongo) async fn write_admin(
        &self,
        command: DocBuilder,
        doing: &str,
    ) -> Result<(), SourceError> {
        self.write_to(&self.client.database("admin"), command, doing).await
    }

    /// From now on what the primary has written counts, also when the majority does not confirm it in time: for the way
    /// back, which must not end because a member is down.
    pub(in crate::source::mongo) fn accept_absent_members(&self) {
        self.accepts_absent.store(true, Ordering::Relaxed);
    }

    /// Inserts one document past the collection's validator, with majority. Of a command with a document of 16 MiB in it
    /// the driver holds four copies at a time, of a document that it is given as one three.
    pub(in crate::source::mongo) async fn insert_one(
        &self,
        collection: &str,
        document: Vec<u8>,
        doing: &str,
    ) -> Result<(), SourceError> {
        let mut concern = WriteConcern::builder().w(Acknowledgment::Majority).build();
        concern.w_timeout = Some(self.majority_within());
        let options = InsertManyOptions::builder().bypass_document_validation(true).write_concern(concern).build();
        let collection = self.db.collection::<RawDocumentBuf>(collection);
        let refused = match collection.insert_many([raw(document)?]).with_options(options).await {
            Ok(_) => return Ok(()),
            Err(e) => refusal_of_insert(&e).ok_or_else(|| self.explain(&e, doing))?,
        };
        self.refused(refused, doing).await
    }

    async fn write_to(&self, db: &Database, mut command: DocBuilder, doing: &str) -> Result<(), SourceError> {
        let mut concern = DocBuilder::new();
        let within = i32::try_from(self.majority_within().as_millis()).unwrap_or(i32::MAX);
        concern.string("w", "majority").int32("wtimeout", within);
        command.document("writeConcern", &concern.finish());
        let reply = db.run_raw_command(raw(command.finish())?).await.map_err(|e| self.explain(&e, doing))?;
        match refusal(&reply) {
            None => Ok(()),
            Some(refused) => self.refused(refused, doing).await,
        }
    }

    fn majority_within(&self) -> Duration {
        if self.accepts_absent.load(Ordering::Relaxed) { ACCEPTED_AFTER } else { MAJORITY_WITHIN }
    }

    async fn refused(&self, (code, message): Refusal, doing: &str) -> Result<(), SourceError> {
        if !NOT_CONFIRMED.contains(&code) {
            return Err(self.by_code(code, &message, doing));
        }
        let members = members::absent(self).await;
        if self.accepts_absent.load(Ordering::Relaxed) {
            tracing::warn!(doing, members, "written by the primary, not confirmed by a majority");
            return Ok(());
        }
        Err(SourceError::Failed(format!(
            "{}: to {doing} was not confirmed by a majority of the replica set within {} seconds ({members}): bring its \
             members back",
            self.target(),
            MAJORITY_WITHIN.as_secs()
        )))
    }
}

/// What a reply with `ok: 1` refuses all the same: single documents, or to wait for the majority.
fn refusal(reply: &Document) -> Option<Refusal> {
    let first = reply.get_array("writeErrors").ok().and_then(|e| e.first().and_then(Bson::as_document));
    let error = first.or_else(|| reply.get_document("writeConcernError").ok())?;
    let code = error.get_i32("code").unwrap_or_default();
    Some((code, error.get_str("errmsg").unwrap_or("no reason given").to_owned()))
}

/// The same in the driver's words.
fn refusal_of_insert(error: &Error) -> Option<Refusal> {
    let ErrorKind::InsertMany(refused) = error.kind.as_ref() else { return None };
    let document = refused.write_errors.iter().flatten().next().map(|e| (e.code, e.message.clone()));
    document.or_else(|| refused.write_concern_error.as_ref().map(|e| (e.code, e.message.clone())))
}
