//! The fleet's servers: a MongoDB replica set with a member on every host, and in the profile with Valkey a primary and its
//! replica on two of them, none of them the first.

use futures::future::join_all;
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
};

use super::{DATABASE, Fleet, HOSTS};
use crate::{
    dataset::{self, Size},
    equality,
    resp::Resp,
    rig::Host,
    servers::{PATIENCE, binaries, wait_until},
};

const VALKEY_PASSWORD: &str = "valkey-secret";
/// The host with Valkey's primary.
pub const VALKEY: usize = 2;
/// The host with its replica.
pub const REPLICA: usize = 3;

impl Fleet {
    /// The host whose mongod is the primary now, however long that takes to be settled.
    ///
    /// # Panics
    /// When none of them is elected.
    pub fn primary(&self) -> usize {
        let uri = self.mongo_uri();
        let name = self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&uri).await.expect("a URI");
            let hello = client.database("admin").run_command(doc! { "hello": 1 }).await.expect("a primary");
            hello.get_str("primary").expect("whoever is primary knows it").to_owned()
        });
        let is_it = |host: &Host| name == format!("{}:27017", host.address);
        1 + self.rack.hosts().iter().position(is_it).unwrap_or_else(|| panic!("{name} is none of the hosts"))
    }

    /// Starts Valkey anew and waits until it answers.
    pub fn restart_valkey(&self) {
        self.rack.host(VALKEY).exec(&["systemctl", "restart", "valkey"]).ok();
        let valkey = self.valkey_uri();
        self.rack.on_the_wire(async move || answers(&valkey).await);
    }

    /// What is in the database for a restore that is not finished.
    pub fn temporary_collections(&self) -> usize {
        let uri = self.mongo_uri();
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&uri).await.expect("MongoDB");
            let names = client.database(DATABASE).list_collection_names().await.expect("names");
            names.iter().filter(|n| n.starts_with("_prexor_")).count()
        })
    }

    /// Where Valkey's replica differs from its primary once it is level, and all members of the replica set hold the same. Nobody
    /// may write meanwhile.
    ///
    /// # Panics
    /// When one of them does not answer or stays behind, or a member holds something else.
    pub fn differences_between_copies(&self) -> Vec<String> {
        let members: Vec<String> = self.rack.hosts().iter().map(member_uri).collect();
        let (valkey, replica) = (self.valkey_uri(), self.uri_of_valkey_on(REPLICA));
        let with_valkey = self.profile.valkey;
        self.rack.on_the_wire(async move || {
            wait_until("all members to hold the same", PATIENCE, async || {
                let hashes = join_all(members.iter().map(|uri| hashes_of(uri))).await;
                hashes.iter().all(|of_one| of_one.as_ref().is_some_and(|h| h.len() > 30) && *of_one == hashes[0])
            })
            .await;
            let mut differences = Vec::new();
            if with_valkey {
                let mut there = Resp::connect(&replica).await.expect("Valkey's replica");
                let mut here = Resp::connect(&valkey).await.expect("Valkey");
                wait_until("the replica to be level", PATIENCE, async || level(&mut here, &mut there).await).await;
                let (here, there) = (equality::valkey(&mut here).await, equality::valkey(&mut there).await);
                differences.extend(equality::differences("valkey", &here.expect("keys"), &there.expect("keys")));
            }
            differences
        })
    }

    pub(super) fn mongo_uri(&self) -> String {
        let members: Vec<String> = self.rack.hosts().iter().map(|h| format!("{}:27017", h.address)).collect();
        format!("mongodb://{}/?replicaSet=rs0", members.join(","))
    }

    pub(super) fn valkey_uri(&self) -> String {
        self.uri_of_valkey_on(VALKEY)
    }

    fn uri_of_valkey_on(&self, host: usize) -> String {
        format!("redis://:{VALKEY_PASSWORD}@{}:6379", self.rack.host(host).address)
    }

    /// A connection to Valkey's primary, in the profile that has one.
    pub(super) async fn resp(uri: Option<&str>) -> Option<Resp> {
        match uri {
            Some(uri) => Some(Resp::connect(uri).await.expect("Valkey")),
            None => None,
        }
    }

    /// Where Valkey is, in the profile that has one.
    pub(super) fn valkey(&self) -> Option<String> {
        self.profile.valkey.then(|| self.valkey_uri())
    }

    /// Its servers' units, enabled and started; they may not answer yet.
    pub(super) fn install_datastores(&self, number: usize) {
        let (host, servers) = (self.rack.host(number), binaries());
        host.exec(&["mkdir", "-p", "/var/lib/mongodb", "/var/lib/valkey"]).ok();
        let mongod = servers.mongod.display();
        let more = "--wiredTigerCacheSizeGB 0.25 --oplogSize 990 --setParameter diagnosticDataCollectionEnabled=false";
        unit(host, "mongod", &format!("{mongod} --dbpath /var/lib/mongodb --bind_ip_all --replSet rs0 --quiet {more}"));
        let role = match number {
            _ if !self.profile.valkey => return,
            VALKEY => String::new(),
            REPLICA => format!("--replicaof {} 6379", self.rack.host(VALKEY).address),
            _ => return,
        };
        let valkey = servers.valkey.display();
        let login = format!("--requirepass {VALKEY_PASSWORD} --masterauth {VALKEY_PASSWORD}");
        unit(host, "valkey", &format!("{valkey} --dir /var/lib/valkey --bind 0.0.0.0 --appendonly yes {login} {role}"));
    }

    /// Makes the members a replica set, and waits until all of them and Valkey serve.
    pub(super) fn unite_datastores(&self) {
        let members: Vec<String> = self.rack.hosts().iter().map(|h| format!("{}:27017", h.address)).collect();
        let (first, valkey) = (member_uri(self.rack.host(1)), self.valkey());
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&first).await.expect("a URI");
            let admin = client.database("admin");
            let member = |(id, host): (i32, String)| doc! { "_id": id, "host": host };
            let members: Vec<Document> = (0..).zip(members).map(member).collect();
            let config = doc! { "_id": "rs0", "members": members };
            wait_until("the members to take their configuration", PATIENCE, async || {
                admin.run_command(doc! { "replSetInitiate": &config }).await.is_ok()
            })
            .await;
            wait_until("all members to take part", PATIENCE, async || {
                let status: Result<Document, _> = admin.run_command(doc! { "replSetGetStatus": 1 }).await;
                status.is_ok_and(|status| states(&status) == [1, 2, 2])
            })
            .await;
            if let Some(valkey) = valkey {
                answers(&valkey).await;
            }
        });
    }

    /// Fills the datastores, and the files of the first host.
    pub(super) fn fill_datastores(&self) {
        let (site, root) = (self.site(), self.rack.host(1).path(self.root()));
        let (mongo, valkey) = (self.mongo_uri(), self.valkey());
        self.rack.on_the_wire(async move || {
            let client = Client::with_uri_str(&mongo).await.expect("MongoDB");
            let mut resp = Self::resp(valkey.as_deref()).await;
            dataset::fill(&client, DATABASE, resp.as_mut(), &root, &site, Size::SMALL).await.expect("data");
            // When a server loads append-only files, as after a rollback or power that failed, it does not know any more when
            // a consumer was last seen.
            if let Some(resp) = &mut resp {
                resp.call(&["XGROUP", "DESTROY", "prexor:v1:sse:events", "dashboards"]).await.expect("a group");
            }
            // MongoDB fills an empty timestamp in when a member replicates it or replays its log: no two of them have the same.
            let odd = client.database(DATABASE).collection::<Document>("mod_stats_odd");
            odd.delete_one(doc! { "_id": "zero" }).await.expect("a document to remove");
        });
    }
}

/// Of one mongod, whatever it is to the others.
fn member_uri(host: &Host) -> String {
    format!("mongodb://{}:27017/?directConnection=true", host.address)
}

/// How many members are in which state, the lowest numbers first.
fn states(status: &Document) -> Vec<i32> {
    let members = status.get_array("members").map(Vec::as_slice).unwrap_or_default();
    let mut states: Vec<i32> =
        members.iter().filter_map(Bson::as_document).filter_map(|m| m.get_i32("state").ok()).collect();
    states.sort_unstable();
    states
}

/// The server's own hashes of a member's collections; none while it has not all of them yet.
async fn hashes_of(uri: &str) -> Option<Document> {
    let client = Client::with_uri_str(uri).await.expect("a URI");
    let reply: Document = client.database(DATABASE).run_command(doc! { "dbHash": 1 }).await.ok()?;
    reply.get_document("collections").ok().cloned()
}

/// Whether a replica has all that its primary has sent.
async fn level(primary: &mut Resp, replica: &mut Resp) -> bool {
    let field = |info: &str, name: &str| info.lines().find_map(|l| Some(l.strip_prefix(name)?.trim().to_owned()));
    let ask = ["INFO", "replication"];
    let (Ok(primary), Ok(replica)) = (primary.call(&ask).await, replica.call(&ask).await) else { return false };
    let (primary, replica) = (primary.text(), replica.text());
    field(&replica, "master_link_status:").as_deref() == Some("up")
        && field(&primary, "master_repl_offset:") == field(&replica, "slave_repl_offset:")
}

async fn answers(valkey: &str) {
    wait_until("Valkey to answer", PATIENCE, async || Resp::connect(valkey).await.is_ok()).await;
}

/// A server that systemd starts again whatever ends it, with the open files that MongoDB's own unit gives it: it aborts when it
/// has no more of them.
fn unit(host: &Host, name: &str, command: &str) {
    let text = format!(
        "[Service]\nExecStart={command}\nRestart=always\nRestartSec=1\nLimitNOFILE=64000\n[Install]\nWantedBy=multi-user.target\n"
    );
    host.write(&format!("/etc/systemd/system/{name}.service"), &text);
    host.exec(&["systemctl", "daemon-reload"]).ok();
    host.exec(&["systemctl", "enable", "--now", name]).ok();
}

const _: () = assert!(VALKEY <= HOSTS && REPLICA <= HOSTS);
