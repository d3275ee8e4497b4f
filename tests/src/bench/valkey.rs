//! Valkey: capture against BGSAVE and one read of the file.

use std::{fs::File, io, time::Duration};

use anyhow::{Context, Result};

use super::{
    Bench, data,
    floors::{bgsave, persistence},
};
use crate::resp::Resp;

const SCOPE: &str = "valkey";
const BGSAVE: &str = "BGSAVE and a read";

pub(super) async fn measure(bench: &mut Bench<'_>, keys: u32, seed: u64) -> Result<()> {
    bench.say(&format!("generating {keys} keys"));
    data::valkey(&mut connect(bench).await?, keys, seed).await?;
    let rdb = bench.cluster.valkey.as_ref().context("the benchmark's cluster has Valkey")?.data_dir().join("dump.rdb");
    for turn in 0..bench.repeat {
        let mut resp = quiet(bench).await?;
        let path = rdb.clone();
        let floor = async move {
            bgsave(&mut resp).await?;
            tokio::task::spawn_blocking(move || Ok(io::copy(&mut File::open(path)?, &mut io::sink())?)).await?
        };
        let bytes: u64 = bench.floor(SCOPE, BGSAVE, floor).await?;
        if turn == 0 {
            bench.report.note(format!("valkey: {keys} keys, RDB of {} MiB", bytes >> 20));
        }
        let id = bench.capture(SCOPE).await?;
        bench.restore(SCOPE, "restore", &id).await?;
        bench.delete(&id);
    }
    bench.report.ratio(SCOPE, "capture", BGSAVE, Some(1.3));
    Ok(())
}

async fn connect(bench: &Bench<'_>) -> Result<Resp> {
    bench.cluster.resp().await.context("the benchmark's cluster has Valkey")
}

/// A connection to a server that saves nothing of its own accord, neither now nor later. A restart forgets that.
async fn quiet(bench: &Bench<'_>) -> Result<Resp> {
    let mut resp = connect(bench).await?;
    resp.call(&["CONFIG", "SET", "save", ""]).await?;
    resp.call(&["CONFIG", "SET", "auto-aof-rewrite-percentage", "0"]).await?;
    for busy in ["loading", "rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled"] {
        while persistence(&mut resp, busy).await? != "0" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(resp)
}
