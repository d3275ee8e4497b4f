//! Files: capture against `tar | gzip -6`, restore against `tar -xzf`.

use std::fs;

use anyhow::Result;

use super::{Bench, data, floors::bash};

const SCOPE: &str = "filesystem";
/// Warm cache, so this is what reading and framing cost. GNU tar reads no file when it writes to /dev/null itself.
const TAR: &str = "tar | cat";
const TAR_GZIP: &str = "tar | gzip -6";
const UNTAR: &str = "tar -xzf";
const RESTORE: &str = "restore";
const RESTORE_EMPTY: &str = "restore into an empty place";

pub(super) async fn measure(bench: &mut Bench<'_>, mib: u32, seed: u64) -> Result<()> {
    let (root, scratch) = (bench.cluster.root(), bench.cluster.dir().join("scratch"));
    fs::create_dir_all(&scratch)?;
    bench.say(&format!("generating {mib} MiB of files"));
    let made = data::files(&root, mib, seed)?;
    bench.report.note(format!("files: {} files, {} MiB", made.count, made.bytes >> 20));
    let (tree, gz, empty) = (root.display().to_string(), scratch.join("floor.tar.gz"), scratch.join("empty"));
    let (gz_arg, empty_arg) = (gz.display().to_string(), empty.display().to_string());
    for _ in 0..bench.repeat {
        bench.floor(SCOPE, TAR, bash("tar -C \"$1\" -cf - . | cat >/dev/null", &[&tree])).await?;
        bench.floor(SCOPE, TAR_GZIP, bash("tar -C \"$1\" -cf - . | gzip -6 >\"$2\"", &[&tree, &gz_arg])).await?;
        let id = bench.capture(SCOPE).await?;
        let artifact = bench.cluster.backup_dir(&id).join("filesystem/h1/etc-prexorcloud.tar.gz");
        bench.report.sizes(SCOPE, fs::metadata(&artifact)?.len(), fs::metadata(&gz)?.len());
        fs::create_dir(&empty)?;
        let args = [&*artifact.display().to_string(), &empty_arg];
        bench.floor(SCOPE, UNTAR, bash("tar -C \"$2\" -xzf \"$1\"", &args)).await?;
        fs::remove_dir_all(&empty)?;
        bench.restore(SCOPE, RESTORE, &id).await?;
        fs::remove_dir_all(&root)?;
        bench.restore(SCOPE, RESTORE_EMPTY, &id).await?;
        bench.delete(&id);
    }
    bench.report.ratio(SCOPE, "capture", TAR, None);
    bench.report.ratio(SCOPE, "capture", TAR_GZIP, Some(0.25));
    bench.report.ratio(SCOPE, RESTORE_EMPTY, UNTAR, Some(1.3));
    bench.report.ratio(SCOPE, RESTORE, UNTAR, None);
    Ok(fs::remove_dir_all(&scratch)?)
}
