//! The data of `deploy/quickstart`: fills scratch servers and a tree, destroys both, and proves that a restore brought all
//! of it back.
//!
//! Where things are comes from `MONGO_URI`, `VALKEY_URI` and `CONFIG_ROOT`, the variables that the quickstart sets.
#![allow(clippy::print_stdout, reason = "a program that prints its answers")]

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use mongodb::Client;
use prexor_tests::{
    dataset::{self, DATABASE, EXCLUDED, Layout, Site, Size},
    equality::Snapshot,
    resp::Resp,
    servers::{MONGO_PASSWORD, MONGO_USER, create_root_user, free_port, initiate_replica_set, mongo_uri},
};

const USAGE: &str = "quickstart-data: what deploy/quickstart needs

  ports COUNT        print that many free ports
  init-mongo PORT    make the mongod on this port a replica set with a user, and print its URI
  fill               fill the servers and the tree
  snapshot FILE      write down all that is there
  destroy            drop, flush and remove everything
  compare FILE [OVER]
                     compare all that is there with a snapshot, or with what its restore over another one leaves; exits 1
                     and names what differs
";

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ports", count] => {
            for _ in 0..count.parse::<u32>().context("ports COUNT")? {
                println!("{}", free_port());
            }
        }
        ["init-mongo", port] => {
            let port = port.parse().context("init-mongo PORT")?;
            initiate_replica_set(port).await;
            create_root_user(port, MONGO_USER, MONGO_PASSWORD).await;
            println!("{}", mongo_uri(port, Some((MONGO_USER, MONGO_PASSWORD)), true));
        }
        ["fill"] => Scratch::open().await?.fill().await?,
        ["destroy"] => Scratch::open().await?.destroy().await?,
        ["snapshot", file] => {
            let snapshot = Scratch::open().await?.snapshot().await?;
            fs::write(file, serde_json::to_vec(&snapshot)?).with_context(|| file.to_owned())?;
            println!("{}", snapshot.summary());
        }
        ["compare", file, ref live @ ..] => {
            let read = |file: &str| -> Result<Snapshot> {
                Ok(serde_json::from_slice(&fs::read(file).with_context(|| file.to_owned())?)?)
            };
            let mut before = read(file)?;
            // Restored over this: the laws of a restore correct some of Valkey's keys.
            if let [live] = live {
                before = before.restored_over(&read(live)?);
            }
            let after = Scratch::open().await?.snapshot().await?;
            let found = before.differences(&after);
            for difference in found.iter().take(40) {
                println!("{difference}");
            }
            if !found.is_empty() {
                println!("{} differences", found.len());
                return Ok(ExitCode::FAILURE);
            }
            println!("equal: {}", after.summary());
        }
        _ => {
            print!("{USAGE}");
            return Ok(ExitCode::from(64));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The servers and the tree of a quickstart.
struct Scratch {
    mongo_uri: String,
    valkey_uri: String,
    root: PathBuf,
    client: Client,
    resp: Resp,
}

impl Scratch {
    async fn open() -> Result<Self> {
        let variable = |name| env::var(name).with_context(|| format!("{name} is not set; see target/quickstart/env"));
        let (mongo_uri, valkey_uri) = (variable("MONGO_URI")?, variable("VALKEY_URI")?);
        let root = PathBuf::from(variable("CONFIG_ROOT")?);
        if !root.is_absolute() || root.starts_with("/etc") || root.starts_with("/opt") {
            bail!("{} is not a scratch tree", root.display());
        }
        let client = Client::with_uri_str(&mongo_uri).await?;
        let resp = Resp::connect(&valkey_uri).await?;
        Ok(Self { mongo_uri, valkey_uri, root, client, resp })
    }

    async fn fill(mut self) -> Result<()> {
        let site = Site {
            layout: Layout::Guide,
            mongo_uri: self.mongo_uri,
            database: DATABASE.to_owned(),
            valkey_uri: Some(self.valkey_uri),
        };
        dataset::fill(&self.client, DATABASE, Some(&mut self.resp), &self.root, &site, Size::SHOWN).await
    }

    async fn destroy(mut self) -> Result<()> {
        dataset::destroy(&self.client, DATABASE, Some(&mut self.resp), &self.root).await
    }

    async fn snapshot(mut self) -> Result<Snapshot> {
        Snapshot::take(&self.client, DATABASE, Some(&mut self.resp), &self.root, EXCLUDED).await
    }
}
