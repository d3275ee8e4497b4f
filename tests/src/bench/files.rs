//! Files: capture against `tar | gzip -6`, restore against `tar -xzf`.
//!
//! No tree is deleted before the last restore: ext4 without a journal looks for free inodes slowly for a minute after
//! many were freed, which would be on the account of whatever is timed next.

use std::fs;

use anyhow::{Context as _, Result};

use super::{Bench, data, floors::bash};

const SCOPE: &str = "filesystem";
/// Warm cache, so this is what reading and framing cost. GNU tar reads no file when it writes to /dev/null itself.
const TAR: &str = "tar | cat";
const TAR_GZIP: &str = "tar | gzip -6";
const UNTAR: &str = "tar -xzf";
/// Order and padding aside.
const SAME_LISTING: &str = r#"list() { tar --xattrs --acls -tvzf "$1" --exclude=./logs | tr -s ' ' | sort; }
diff <(list "$1") <(list "$2") >/dev/null"#;
/// What a restore promises: that a power cut after it loses nothing.
const UNTAR_SYNC: &str = "tar -xzf, synced";
const REMOVE: &str = "rm -rf";
const RESTORE: &str = "restore into an empty place";
/// Once only: it ends with the removal of the tree that was live before.
const RESTORE_LIVE: &str = "restore over a live tree";

pub(super) async fn measure(bench: &mut Bench<'_>, mib: u32, seed: u64) -> Result<()> {
    let (root, scratch) = (bench.cluster.root(), bench.cluster.dir().join("scratch"));
    fs::create_dir_all(&scratch)?;
    bench.say(&format!("generating {mib} MiB of files"));
    let made = data::files(&root, mib, seed)?;
    bench.report.note(format!("files: {} files, {} MiB", made.count, made.bytes >> 20));
    let (tree, gz) = (root.display().to_string(), scratch.join("floor.tar.gz"));
    let gz_arg = gz.display().to_string();
    let mut id = String::new();
    for turn in 0..bench.repeat {
        bench.floor(SCOPE, TAR, bash("tar -C \"$1\" -cf - . | cat >/dev/null", &[&tree])).await?;
        bench.floor(SCOPE, TAR_GZIP, bash("tar -C \"$1\" -cf - . | gzip -6 >\"$2\"", &[&tree, &gz_arg])).await?;
        id = bench.capture(SCOPE).await?;
        let artifact = bench.cluster.backup_dir(&id).join("filesystem/h1/etc-prexorcloud.tar.gz");
        bench.report.sizes(SCOPE, fs::metadata(&artifact)?.len(), fs::metadata(&gz)?.len());
        let artifact = artifact.display().to_string();
        bash(SAME_LISTING, &[&artifact, &gz_arg]).await.context("GNU tar lists our archive otherwise than its own")?;
        for (name, sync) in [(UNTAR, ""), (UNTAR_SYNC, "; sync -f \"$2\"")] {
            let into = scratch.join(format!("{name} {turn}"));
            fs::create_dir(&into)?;
            let script = format!("tar -C \"$2\" -xzf \"$1\"{sync}");
            bench.floor(SCOPE, name, bash(&script, &[&artifact, &into.display().to_string()])).await?;
        }
        fs::rename(&root, scratch.join(format!("live {turn}")))?;
        bench.restore(SCOPE, RESTORE, &id).await?;
        if turn + 1 < bench.repeat {
            bench.delete(&id);
        }
    }
    bench.restore(SCOPE, RESTORE_LIVE, &id).await?;
    let old = scratch.join("live 0").display().to_string();
    bench.floor(SCOPE, REMOVE, bash("rm -rf \"$1\"", &[&old])).await?;
    bench.delete(&id);
    bench.report.ratio(SCOPE, "capture", TAR, None);
    bench.report.ratio(SCOPE, "capture", TAR_GZIP, Some(0.25));
    bench.report.ratio(SCOPE, RESTORE, UNTAR, Some(1.3));
    bench.report.ratio(SCOPE, RESTORE, UNTAR_SYNC, None);
    Ok(fs::remove_dir_all(&scratch)?)
}
