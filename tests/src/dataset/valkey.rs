//! Valkey's keys: every family of PrexorCloud, every type, and values in all the encodings a server chooses between.

use anyhow::Result;

use super::{Numbers, Size};
use crate::resp::Resp;

/// Fills the databases of a server.
///
/// # Errors
/// When the server refuses.
pub async fn valkey(resp: &mut Resp, size: Size) -> Result<()> {
    let mut numbers = Numbers::new(0xca11);
    let mut fill = Commands::default();
    families(&mut fill, &mut numbers, size);
    modules(&mut fill, &mut numbers);
    fill.run(resp).await?;
    let library = "#!lua name=prexor\nserver.register_function('prexor_ping', function() return 'pong' end)";
    if resp.call(&["FUNCTION", "LOAD", "REPLACE", library]).await.is_err() {
        // Redis knows the same object by its older name.
        let library = library.replace("server.", "redis.");
        resp.call(&["FUNCTION", "LOAD", "REPLACE", &library]).await?;
    }
    resp.call(&["SELECT", "3"]).await?;
    resp.call(&["SET", "another:database", "3"]).await?;
    resp.call(&["SELECT", "0"]).await?;
    Ok(())
}

/// Many keys of a module: all types, a third with expiries to the millisecond, some 300 bytes each in an RDB file.
///
/// # Errors
/// When the server refuses.
pub async fn many_valkey(resp: &mut Resp, keys: u32) -> Result<()> {
    let mut numbers = Numbers::new(0x3a11);
    let mut commands: Vec<Vec<String>> = Vec::new();
    for n in 0..keys {
        let key = format!("prexor:v1:platform:many:{n}");
        let mut command = match n % 10 {
            0 | 1 => vec!["SET".to_owned(), key.clone(), numbers.hex::<170>()],
            2 => vec!["SET".to_owned(), key.clone(), numbers.words(90)],
            3 => ["HSET", &key, "node", &numbers.hex::<30>(), "token", &numbers.hex::<90>(), "n", &n.to_string()]
                .map(str::to_owned)
                .into(),
            4 => ["HSET", &key, "a", &numbers.hex::<150>(), "b", ""].map(str::to_owned).into(),
            5 => ["RPUSH", &key].map(str::to_owned).into(),
            6 => ["SADD", &key].map(str::to_owned).into(),
            7 => ["ZADD", &key].map(str::to_owned).into(),
            8 => ["XADD", &key, &format!("{}-{n}", n + 1), "type", "x", "data", &numbers.hex::<120>()]
                .map(str::to_owned)
                .into(),
            _ => vec!["SET".to_owned(), key.clone(), (u64::from(n) * 7919).to_string()],
        };
        for m in 0..10 {
            match n % 10 {
                5 | 6 => command.push(numbers.hex::<16>()),
                7 => command.extend([format!("{}.5", n % 977 + m), numbers.hex::<14>()]),
                _ => break,
            }
        }
        commands.push(command);
        if n % 3 == 0 {
            // Days away, and no two alike.
            commands.push(vec!["PEXPIRE".to_owned(), key, (3 * 86_400_000 + u64::from(n)).to_string()]);
        }
        if commands.len() >= 1000 || n + 1 == keys {
            resp.pipeline(&commands).await?;
            commands.clear();
        }
    }
    Ok(())
}

/// Deletes everything; leaves a key that no backup knows, and one with another value.
///
/// # Errors
/// When the server refuses.
pub async fn destroy_valkey(resp: &mut Resp) -> Result<()> {
    resp.call(&["FLUSHALL"]).await?;
    resp.call(&["FUNCTION", "FLUSH"]).await?;
    resp.call(&["SET", "born:after:the:backup", "1"]).await?;
    resp.call(&["SET", "prexor:v1:lease-token:leader", "0"]).await?;
    Ok(())
}

#[derive(Default)]
struct Commands(Vec<Vec<Vec<u8>>>);

impl Commands {
    fn add<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.0.push(args.iter().map(|arg| arg.as_ref().to_vec()).collect());
    }

    /// A command for a key, and its expiry in seconds.
    fn expiring<A: AsRef<[u8]>>(&mut self, seconds: u32, args: &[A]) {
        self.add(args);
        // To the millisecond, which EXPIRE would round.
        let milliseconds = (u64::from(seconds) * 1_000 + 7).to_string();
        self.add(&[b"PEXPIRE", args[1].as_ref(), milliseconds.as_bytes()]);
    }

    async fn run(self, resp: &mut Resp) -> Result<()> {
        for some in self.0.chunks(500) {
            resp.pipeline(some).await?;
        }
        Ok(())
    }
}

const DAY: u32 = 86_400;

/// What controllers write.
fn families(fill: &mut Commands, numbers: &mut Numbers, size: Size) {
    let uuid = super::files::CONTROLLER_UUID;
    fill.expiring(2 * DAY, &["SET", "prexor:v1:lease:leader", &format!("{uuid}|41")]);
    for (resource, token) in [("leader", "41"), ("scheduler", "17"), ("gc", "3")] {
        fill.add(&["SET", &format!("prexor:v1:lease-token:{resource}"), token]);
    }
    for n in 1..=4 {
        fill.expiring(2 * DAY, &["SET", &format!("prexor:v1:nodeowner:node-{n}"), uuid]);
        fill.expiring(
            2 * DAY,
            &["HSET", &format!("prexor:v1:node:node-{n}"), "state", "READY", "load", &n.to_string()],
        );
        fill.add(&["SET", &format!("prexor:v1:workloadseq:node-{n}"), &(n * 1_000).to_string()]);
    }
    for n in 0..size.keys / 2 {
        let instance = format!("prexor:v1:instance:lobby-{n}");
        fill.expiring(3 * DAY, &["HSET", &instance, "node", "node-1", "players", "12", "token", &numbers.hex::<16>()]);
        let player = format!("prexor:v1:player:{}", numbers.hex::<16>());
        fill.add(&["SET", &player, &format!("{{\"instance\":\"lobby-{n}\",\"name\":\"player{n}\"}}")]);
    }
    for n in 0..20 {
        fill.expiring(DAY + n, &["SET", &format!("prexor:v1:jwt:revoked:{}", numbers.hex::<8>()), "1"]);
        fill.expiring(9 * DAY, &["SET", &format!("prexor:v1:plugintoken:{}", numbers.hex::<16>()), "lobby"]);
        fill.expiring(2 * DAY, &["INCR", &format!("prexor:v1:ratelimit:192.0.2.{n}")]);
    }
    fill.expiring(30 * DAY, &["SET", "prexor:v1:nodecert:revoked:0a1b2c", "node-9"]);
    fill.expiring(2 * DAY, &["SET", "prexor:v1:cooldown:group:lobby", "1"]);
    fill.expiring(2 * DAY, &["SET", "prexor:v1:login:fail:björn", "4"]);
    fill.expiring(2 * DAY, &["SET", "prexor:v1:login:lock:björn", "1"]);
    fill.expiring(2 * DAY, &["SET", "prexor:v1:pwreset:abcdef", "björn"]);
    for n in 1..=200 {
        fill.add(&["XADD", "prexor:v1:sse:events", &format!("{n}-1"), "type", "instance", "data", &numbers.words(4)]);
    }
    fill.add(&["XGROUP", "CREATE", "prexor:v1:sse:events", "dashboards", "0"]);
    fill.add(&["XREADGROUP", "GROUP", "dashboards", "one", "COUNT", "5", "STREAMS", "prexor:v1:sse:events", ">"]);
    fill.add(&["XACK", "prexor:v1:sse:events", "dashboards", "2-1"]);
    fill.add(&["XDEL", "prexor:v1:sse:events", "200-1"]);
    // A stream that lost all its entries, but not its last id.
    fill.add(&["XADD", "prexor:v1:sse:empty", "7-7", "a", "b"]);
    fill.add(&["XDEL", "prexor:v1:sse:empty", "7-7"]);
}

/// What modules write: any type, small and large.
fn modules(fill: &mut Commands, numbers: &mut Numbers) {
    let key = |name: &str| format!("prexor:v1:platform:stats:{name}").into_bytes();
    let many = |command: &str, name: &str, args: Vec<Vec<u8>>| [vec![command.into(), key(name)], args].concat();
    let text = |n: usize| n.to_string().into_bytes();

    fill.add(&many("SET", "empty", vec![Vec::new()]));
    fill.add(&many("SET", "integer", vec![b"-9223372036854775808".to_vec()]));
    fill.add(&many("SET", "like an integer", vec![b"007".to_vec()]));
    fill.add(&many("SET", "compresses", vec![b"prexor ".repeat(20_000)]));
    let mut random = vec![0; 300_000];
    numbers.fill(&mut random);
    fill.add(&many("SET", "random", vec![random]));
    fill.add(&many("SETBIT", "bits", vec![text(100_000), b"1".to_vec()]));
    fill.add(&many("PFADD", "hyperloglog", (0..500).map(text).collect()));
    // A key that is not text.
    fill.add(&[b"SET".as_slice(), b"prexor:v1:platform:stats:\x00\xff\r\n", b"\x00\xff\r\n"]);

    fill.add(&many("RPUSH", "list small", (0..10).map(text).collect()));
    fill.add(&many("RPUSH", "list large", (0..3_000).map(|_| numbers.words(3).into_bytes()).collect()));
    fill.add(&many("RPUSH", "list plain", vec![vec![b'x'; 70_000], b"y".to_vec()]));
    fill.add(&many("SADD", "set of integers", (0..100).map(text).collect()));
    fill.add(&many("SADD", "set of large integers", vec![b"9223372036854775807".to_vec(), b"1".to_vec()]));
    fill.add(&many("SADD", "set small", vec![b"a".to_vec(), b"b".to_vec()]));
    fill.add(&many("SADD", "set large", (0..1_000).map(|n| format!("member {n}").into_bytes()).collect()));
    let scores = ["-inf", "inf", "-0", "0.1", "3", "1e300", "-17"];
    let pairs =
        |count: usize| (0..count).flat_map(|n| [scores[n % scores.len()].as_bytes().to_vec(), text(n)]).collect();
    fill.add(&many("ZADD", "zset small", pairs(20)));
    fill.add(&many("ZADD", "zset large", pairs(1_000)));
    fill.add(&many("GEOADD", "geo", vec![b"13.4".to_vec(), b"52.5".to_vec(), "köln".into()]));
    fill.add(&many("HSET", "hash small", vec![b"a".to_vec(), b"1".to_vec()]));
    fill.add(&many("HSET", "hash large", (0..600).flat_map(|n| [text(n), numbers.words(4).into_bytes()]).collect()));
    fill.add(&many("PEXPIRE", "hash large", vec![text(DAY as usize * 1_000 + 123)]));
    fill.add(&many("PEXPIRE", "zset large", vec![text(DAY as usize * 2_000 + 456)]));
}
