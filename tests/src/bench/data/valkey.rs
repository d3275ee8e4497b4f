//! A controller's keys: values and hashes of players and instances, about 300 bytes each, some of them with an expiry.

use anyhow::Result;

use crate::{dataset::Numbers, resp::Resp};

/// Commands that are sent at once.
const PIPELINE: u32 = 2_000;
/// Three days in milliseconds: nothing expires while we measure.
const EXPIRY: &str = "259200007";

/// Writes `keys` keys.
pub(in crate::bench) async fn valkey(resp: &mut Resp, keys: u32, seed: u64) -> Result<()> {
    let mut numbers = Numbers::new(seed ^ 0xca11e);
    let mut commands = Vec::new();
    for n in 0..keys {
        commands.push(command(&mut numbers, n));
        if commands.len() == PIPELINE as usize || n + 1 == keys {
            resp.pipeline(&commands).await?;
            commands.clear();
        }
    }
    Ok(())
}

fn command(numbers: &mut Numbers, n: u32) -> Vec<String> {
    let own = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
    let id = numbers.hex::<12>();
    match n % 10 {
        0..4 => {
            let value = format!(
                "{{\"instance\":\"lobby-{}\",\"name\":\"player{n}\",\"token\":\"{}\",\"last\":\"{}\"}}",
                n % 400,
                numbers.hex::<24>(),
                numbers.words(18)
            );
            own(&["SET", &format!("prexor:v1:player:{id}"), &value])
        }
        4..7 => own(&[
            "HSET",
            &format!("prexor:v1:instance:{id}"),
            "node",
            "node-1",
            "token",
            &numbers.hex::<32>(),
            "state",
            "RUNNING",
            "players",
            "12",
            "note",
            &numbers.words(20),
        ]),
        7 | 8 => own(&["SET", &format!("prexor:v1:platform:stats:{id}"), &numbers.words(40)]),
        _ => own(&["SET", &format!("prexor:v1:plugintoken:{id}"), &numbers.hex::<60>(), "PX", EXPIRY]),
    }
}
