//! `tests/bench`: measures backups and restores of generated data against the floors of this machine.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints its answers")]

use std::{env, process::ExitCode, str::FromStr};

use anyhow::{Context, Result, bail};
use prexor_tests::bench::{self, Options};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Some((options, json)) = parse(env::args().skip(1))? else {
        return Ok(ExitCode::from(64));
    };
    let report = bench::run(&options, &|what| eprintln!("{what}")).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The options, and whether JSON is wanted; `None` when they make no sense. `tests/bench --help` says what there is.
fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<(Options, bool)>> {
    let (mut options, mut json, mut only) = (Options::default(), false, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--files" => options.files = Some(value(&arg, args.next())?),
            "--mongo" => options.mongo = Some(value(&arg, args.next())?),
            "--valkey" => options.valkey = Some(value(&arg, args.next())?),
            "--catalog" => options.catalog = Some(value(&arg, args.next())?),
            "--seed" => options.seed = value(&arg, args.next())?,
            "--repeat" => options.repeat = value(&arg, args.next())?,
            "--only" => only = Some(value::<String>(&arg, args.next())?),
            "--json" => json = true,
            _ => {
                eprintln!("unknown argument {arg}; see tests/bench --help");
                return Ok(None);
            }
        }
    }
    if options.repeat == 0 {
        bail!("--repeat must be at least 1");
    }
    options = match only.as_deref() {
        None => options,
        Some("files") => Options { mongo: None, valkey: None, catalog: None, ..options },
        Some("mongo") => Options { files: None, valkey: None, catalog: None, ..options },
        Some("valkey") => Options { files: None, mongo: None, catalog: None, ..options },
        Some("live") => Options { files: None, mongo: None, catalog: None, live_alone: true, ..options },
        Some("catalog") => Options { files: None, mongo: None, valkey: None, ..options },
        Some(other) => bail!("--only takes files, mongo, valkey, live or catalog, not {other}"),
    };
    Ok(Some((options, json)))
}

fn value<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(name: &str, text: Option<String>) -> Result<T> {
    let text = text.with_context(|| format!("{name} needs a value"))?;
    text.parse().with_context(|| format!("{name} {text}"))
}
