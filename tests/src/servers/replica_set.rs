//! A replica set of several members, without authentication.

use mongodb::{
    Client,
    bson::{Document, doc},
    options::ClientOptions,
};

use super::{
    Mongod, PATIENCE,
    mongod::{SET, direct, is_primary},
    wait_for,
};

/// Running members; ended and removed when dropped.
#[derive(Debug)]
pub struct ReplicaSet {
    /// In the order of the set's configuration.
    pub members: Vec<Mongod>,
}

impl ReplicaSet {
    /// Starts so many members, which elect a new primary within a second or two.
    ///
    /// # Panics
    /// When they do not start or elect nobody.
    pub async fn start(count: usize) -> Self {
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(Mongod::builder().member().start().await);
        }
        let host = |(n, m): (usize, &Mongod)| doc! { "_id": n as i32, "host": format!("127.0.0.1:{}", m.port()) };
        let hosts: Vec<Document> = members.iter().enumerate().map(host).collect();
        let settings = doc! { "electionTimeoutMillis": 1_500, "heartbeatIntervalMillis": 300 };
        let config = doc! { "_id": SET, "members": hosts, "settings": settings };
        let first = direct(members[0].port()).await;
        first.database("admin").run_command(doc! { "replSetInitiate": config }).await.expect("a set is initiated");
        let set = Self { members };
        set.primary().await;
        set
    }

    /// How to connect to whoever is primary.
    pub fn uri(&self) -> String {
        let hosts: Vec<String> = self.members.iter().map(|m| format!("127.0.0.1:{}", m.port())).collect();
        format!("mongodb://{}/?replicaSet={SET}", hosts.join(","))
    }

    /// A client that follows the primary.
    ///
    /// # Panics
    /// When the URI cannot be used.
    pub async fn client(&self) -> Client {
        let options = ClientOptions::parse(self.uri()).await.expect("our own URI parses");
        Client::with_options(options).expect("our own options are valid")
    }

    /// A client that speaks to this member alone, whatever its role.
    pub async fn direct(&self, member: usize) -> Client {
        direct(self.members[member].port()).await
    }

    /// The number of the member that is primary; waits until one is.
    ///
    /// # Panics
    /// When none becomes it.
    pub async fn primary(&self) -> usize {
        wait_for("a primary", PATIENCE, async || {
            for (n, member) in self.members.iter().enumerate() {
                if member.pid().is_some() && is_primary(&direct(member.port()).await).await {
                    return Some(n);
                }
            }
            None
        })
        .await
    }

    /// Has the primary step down, so that another member is elected.
    ///
    /// # Panics
    /// When it refuses.
    pub async fn step_down(&self) {
        let primary = direct(self.members[self.primary().await].port()).await;
        let command = doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 5, "force": true };
        primary.database("admin").run_command(command).await.expect("it steps down");
    }
}
