//! A stand-in for PrexorCloud's controller in the suite `ha`. It is not that program: it does only what a restore has to care for.
//!
//! At its start it refuses a database of another cluster, and draws a fencing token from Valkey (`INCR` of the lease's counter).
//! Then it writes documents that bear that token into MongoDB, again and again, each of them whether it holds the lease or not,
//! and answers the readiness URL with 200 once the first one is acknowledged. It ends with 1 when a server fails it; its unit
//! starts it again. `MONGO_URI`, `VALKEY_URI` and `LISTEN` are its variables; controller.yml says who it is.
#![allow(clippy::print_stderr, reason = "its unit keeps what it says in the journal")]

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mongodb::{
    Client,
    bson::{Document, doc},
    options::{ClientOptions, WriteConcern},
};
use prexor_tests::{
    dataset::DATABASE,
    fleet::{CONTROLLER_YML, LEASE, LEASE_TOKEN, NOT_READY, WRITES},
    resp::{Reply, Resp},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const WRITE_EVERY: Duration = Duration::from_millis(50);
const LEASE_MILLIS: &str = "2000";

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
    let ready = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind(variable("LISTEN")?).await.context("LISTEN")?;
    tokio::spawn(answer(listener, ready.clone()));

    let config = std::fs::read_to_string(CONTROLLER_YML).context(CONTROLLER_YML)?;
    let value = |key: &str| config.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim().to_owned());
    let uuid = value("uuid:").context("controller.yml has no uuid")?;
    let cluster = value("  id:").context("controller.yml has no cluster.id")?;

    let mut options = ClientOptions::parse(variable("MONGO_URI")?).await?;
    options.write_concern = Some(WriteConcern::majority());
    let database = Client::with_options(options)?.database(DATABASE);
    let identity = database.collection::<Document>("cluster_identity").find_one(doc! { "_id": "self" }).await?;
    let found = identity.as_ref().and_then(|d| d.get_str("clusterId").ok());
    ensure!(found == Some(&cluster), "the database is of cluster {found:?}, controller.yml says {cluster}");

    let mut valkey = Resp::connect(&variable("VALKEY_URI")?).await?;
    let token = valkey.call(&["INCR", LEASE_TOKEN]).await?.integer();
    let mine = format!("{uuid}|{token}");
    let writes = database.collection::<Document>(WRITES);
    for seq in 0_i64.. {
        let holder = valkey.call(&["SET", LEASE, &mine, "NX", "GET", "PX", LEASE_MILLIS]).await?;
        let leads = holder == Reply::Bulk(None) || holder.bytes() == mine.as_bytes();
        if leads {
            valkey.call(&["PEXPIRE", LEASE, LEASE_MILLIS]).await?;
        }
        writes.insert_one(doc! { "controller": &uuid, "token": token, "seq": seq, "leads": leads }).await?;
        ready.store(true, SeqCst);
        tokio::time::sleep(WRITE_EVERY).await;
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
