//! A stand-in for PrexorCloud's controller on the test bed of several hosts. It is not that program: it does only what a restore has
//! to care for.
//!
//! At its start it refuses a database of another cluster. Then it writes documents into MongoDB, again and again, whether it
//! leads or not, and answers the readiness URL with 200 once the first one is acknowledged. They bear the fencing token that it drew
//! from Valkey (`INCR` of the lease's counter) and, while it leads, the epoch that it took in MongoDB. Who leads is decided by the lease, where there
//! is a Valkey, and by `cluster_leadership` in any case. While it leads it sends commands to a daemon.
//!
//! It ends with 1 when a server fails it; its unit starts it again. `controller.yml` below `ROOT` says who it is and where the
//! servers are, `RECORDER` where the daemon is, `PORT` overrules where it answers.
#![allow(clippy::print_stderr, reason = "its unit keeps what it says in the journal")]

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use mongodb::{
    Client, Collection,
    bson::{DateTime, Document, doc},
    options::{ClientOptions, ReturnDocument, WriteConcern},
};
use prexor_tests::{
    dataset::DATABASE,
    fleet::{Config, LEADER, LEADERSHIP, LEASE, LEASE_TOKEN, NOT_READY, WRITES},
    resp::{Reply, Resp},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const WRITE_EVERY: Duration = Duration::from_millis(200);
/// How long who leads does so without a renewal.
const LEASE_FOR: Duration = Duration::from_millis(2_000);
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// How long the daemon may take.
const COMMAND_LIMIT: Duration = Duration::from_millis(300);
/// `DuplicateKey`
const DUPLICATE_KEY: i32 = 11_000;

#[tokio::main]
async fn main() -> ExitCode {
    match control().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("stand-in-controller: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn control() -> Result<()> {
    let variable = |name: &'static str| std::env::var(name).context(name);
    let config = Config::read(Path::new(&variable("ROOT")?))?;
    let (ready, port) = (Arc::new(AtomicBool::new(false)), std::env::var("PORT").unwrap_or(config.port));
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).await.context("where it answers")?;
    tokio::spawn(answer(listener, ready.clone()));

    let mut options = ClientOptions::parse(&config.mongo_uri).await?;
    options.write_concern = Some(WriteConcern::majority());
    let database = Client::with_options(options)?.database(DATABASE);
    let identity = database.collection::<Document>("cluster_identity").find_one(doc! { "_id": "self" }).await?;
    let found = identity.as_ref().and_then(|d| d.get_str("clusterId").ok());
    ensure!(
        found == Some(&config.cluster),
        "the database is of cluster {found:?}, controller.yml says {}",
        config.cluster
    );

    let mut lease = match &config.valkey_uri {
        Some(uri) => Some(Lease::new(Resp::connect(uri).await?, &config.uuid).await?),
        None => None,
    };
    let mut leadership =
        Leadership { records: database.collection(LEADERSHIP), uuid: config.uuid.clone(), epoch: None };
    let (writes, recorder) = (database.collection::<Document>(WRITES), variable("RECORDER")?);
    let run = i64::try_from(UNIX_EPOCH.elapsed()?.as_nanos())?;
    let mut renewed: Option<Instant> = None;
    for seq in 0_i64.. {
        if renewed.is_none_or(|at| at.elapsed() >= RENEW_EVERY) {
            renewed = Some(Instant::now());
            let first = match &mut lease {
                Some(lease) => lease.holds().await?,
                None => true,
            };
            leadership.epoch = if first { leadership.lead().await? } else { None };
            if let Some(epoch) = leadership.epoch {
                let token = lease.as_ref().map_or(0, |lease| lease.token);
                // A daemon that is out of reach gets no commands.
                let _ = tokio::time::timeout(COMMAND_LIMIT, command(&recorder, run, epoch, token)).await;
            }
        }
        let mut write = doc! { "controller": &config.uuid, "run": run, "seq": seq };
        write.extend(lease.as_ref().map(|lease| ("token".to_owned(), lease.token.into())));
        write.extend(leadership.epoch.map(|epoch| ("ownerEpoch".to_owned(), epoch.into())));
        writes.insert_one(write).await?;
        ready.store(true, SeqCst);
        tokio::time::sleep(WRITE_EVERY).await;
    }
    Ok(())
}

/// The lease in Valkey, with a token from its counter.
struct Lease {
    valkey: Resp,
    uuid: String,
    token: i64,
}

impl Lease {
    async fn new(mut valkey: Resp, uuid: &str) -> Result<Self> {
        let token = valkey.call(&["INCR", LEASE_TOKEN]).await?.integer();
        Ok(Self { valkey, uuid: uuid.to_owned(), token })
    }

    /// Renews it or takes it, with a new token. Whether it has it now.
    async fn holds(&mut self) -> Result<bool> {
        let millis = LEASE_FOR.as_millis().to_string();
        let mine = format!("{}|{}", self.uuid, self.token);
        let holder = self.valkey.call(&["GET", LEASE]).await?;
        if holder.clone().bytes() == mine.as_bytes() {
            return Ok(self.valkey.call(&["PEXPIRE", LEASE, &millis]).await?.integer() == 1);
        }
        if holder != Reply::Bulk(None) {
            return Ok(false);
        }
        self.token = self.valkey.call(&["INCR", LEASE_TOKEN]).await?.integer();
        let mine = format!("{}|{}", self.uuid, self.token);
        Ok(self.valkey.call(&["SET", LEASE, &mine, "NX", "PX", &millis]).await? != Reply::Bulk(None))
    }
}

/// The record in MongoDB.
struct Leadership {
    records: Collection<Document>,
    uuid: String,
    epoch: Option<i64>,
}

impl Leadership {
    /// Renews it or takes it, with the next epoch, which is returned when it has it.
    async fn lead(&self) -> Result<Option<i64>> {
        let renew = vec![doc! { "$set": { "renewedAt": "$$NOW" } }];
        if let Some(epoch) = self.epoch {
            let mine = doc! { "_id": LEADER, "holder": &self.uuid, "epoch": epoch };
            if self.records.update_one(mine, renew).await?.matched_count == 1 {
                return Ok(Some(epoch));
            }
        }
        let past = DateTime::from_millis(DateTime::now().timestamp_millis() - i64::try_from(LEASE_FOR.as_millis())?);
        let free = doc! { "_id": LEADER, "$or": [
            { "holder": null }, { "holder": &self.uuid }, { "renewedAt": { "$lt": past } },
        ] };
        let take = doc! { "holder": &self.uuid, "renewedAt": "$$NOW", "epoch": { "$add": ["$epoch", 1_i64] } };
        let taken = self.records.find_one_and_update(free, vec![doc! { "$set": take }]);
        if let Some(record) = taken.return_document(ReturnDocument::After).await? {
            return Ok(Some(record.get_i64("epoch").context("an epoch that is no number")?));
        }
        // Nobody has ever led here, or somebody else does.
        let first = doc! { "_id": LEADER, "holder": &self.uuid, "epoch": 1_i64, "renewedAt": DateTime::now() };
        match self.records.insert_one(first).await {
            Ok(_) => Ok(Some(1)),
            Err(e) if e.to_string().contains(&format!("E{DUPLICATE_KEY}")) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

async fn command(recorder: &str, run: i64, epoch: i64, token: i64) -> Result<()> {
    let mut stream = TcpStream::connect(recorder).await?;
    stream.write_all(format!("{run} {epoch} {token}\n").as_bytes()).await?;
    let mut answer = [0; 16];
    let len = stream.read(&mut answer).await?;
    if answer[..len].starts_with(b"STALE") {
        eprintln!("stand-in-controller: the daemon has seen an epoch above {epoch}, or a token above {token}");
    }
    Ok(())
}

/// The readiness URL, and every other.
async fn answer(listener: TcpListener, ready: Arc<AtomicBool>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let is_ready = ready.load(SeqCst) && !Path::new(NOT_READY).exists();
        let line = if is_ready { "200 OK" } else { "503 Service Unavailable" };
        tokio::spawn(async move {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") && stream.read_buf(&mut asked).await.is_ok_and(|n| n > 0) {}
            // Whoever asked may have gone.
            let _ = stream.write_all(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
        });
    }
}
