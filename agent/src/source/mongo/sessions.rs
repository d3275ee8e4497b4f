//! Who is connected to the server (law L14): the sessions of Java programs, of which a controller is one. What a session is,
//! is `prexor_format::laws`' to say.

use bson::{Bson, Document, doc};
use mongodb::options::ClientOptions;
use prexor_format::laws::Session;

use super::Server;
use crate::{connection::ConnectionString, source::SourceError};

/// Sessions that are told of: one that is too many is as good as a thousand.
const TOLD: i64 = 1000;

/// How a controller logs in, as `controller.yml` says.
#[derive(Debug, Default)]
struct Login {
    user: Option<String>,
    application: Option<String>,
}

/// The sessions of Java programs, idle ones too, as the primary sees them.
///
/// # Errors
/// `Denied` when the account may not see the sessions of others.
pub(super) async fn of(server: &Server, controllers: Option<&ConnectionString>) -> Result<Vec<Session>, SourceError> {
    let login = Login::of(controllers).await;
    let pipeline = vec![
        doc! { "$currentOp": { "allUsers": true, "idleConnections": true, "idleSessions": false } },
        doc! { "$match": { "client": { "$exists": true }, "clientMetadata.driver.name": { "$regex": "java", "$options": "i" } } },
        doc! { "$project": { "client": 1, "appName": 1, "clientMetadata.driver": 1, "effectiveUsers": 1 } },
        doc! { "$limit": TOLD },
    ];
    let command = doc! { "aggregate": 1, "pipeline": pipeline, "cursor": { "batchSize": TOLD } };
    let reply = server.ask_admin_or_fail(command, "see who is connected").await.map_err(|e| match e {
        SourceError::Denied(_) => SourceError::Denied(
            "the agent's account lacks inprog on the cluster, which the role in deploy/mongodb-role.json has"
                .to_owned(),
        ),
        other => other,
    })?;
    let found = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let found = found.map(Vec::as_slice).unwrap_or_default().iter().filter_map(Bson::as_document);
    Ok(found.map(|op| login.session(op)).filter(Session::is_of_java).collect())
}

impl Login {
    async fn of(uri: Option<&ConnectionString>) -> Self {
        let Some(uri) = uri else { return Self::default() };
        // One that cannot be understood is PrexorCloud's to complain of.
        let options = ClientOptions::parse(uri.expose()).await.unwrap_or_default();
        Self { user: options.credential.and_then(|c| c.username), application: options.app_name }
    }

    fn session(&self, op: &Document) -> Session {
        let application = op.get_str("appName").unwrap_or_default().to_owned();
        let driver = op.get_document("clientMetadata").and_then(|client| client.get_document("driver"));
        let of_driver = |field| driver.as_ref().ok().and_then(|d| d.get_str(field).ok()).unwrap_or_default();
        let users = op.get_array("effectiveUsers").map(Vec::as_slice).unwrap_or_default();
        let mut names = users.iter().filter_map(|user| user.as_document()?.get_str("user").ok());
        Session {
            address: op.get_str("client").unwrap_or_default().to_owned(),
            driver: format!("{} {}", of_driver("name"), of_driver("version")).trim_end().to_owned(),
            account: self.user.as_deref().is_some_and(|user| names.any(|name| name == user)),
            called_so: self.application.as_deref().unwrap_or_default() == application,
            application,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_is_compared_with_how_a_controller_logs_in() {
        let op = doc! {
            "client": "10.0.0.7:5", "clientMetadata": { "driver": { "name": "mongo-java-driver|sync", "version": "4.11.1" } },
            "effectiveUsers": [{ "user": "prexor", "db": "admin" }],
        };
        let session = async |uri: Option<&str>| {
            let uri = uri.map(ConnectionString::from);
            Login::of(uri.as_ref()).await.session(&op)
        };
        let plain = session(Some("mongodb://prexor:p@h/")).await;
        assert_eq!((plain.address.as_str(), plain.account, plain.called_so), ("10.0.0.7:5", true, true));
        assert_eq!(plain.driver, "mongo-java-driver|sync 4.11.1");
        assert!(!session(Some("mongodb://other:p@h/?appName=controller")).await.called_so);
        let unknown = session(None).await;
        assert!(!unknown.account && unknown.called_so);
        assert!(!session(Some("no uri")).await.account);
    }
}
