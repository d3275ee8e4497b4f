//! A controller's tree: many small text files, and jars, which do not compress and hold most of the bytes.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::Made;
use crate::dataset::Numbers;

/// Small files per MiB of the whole: 20,000 in 450 MiB.
const SMALL_PER_MIB: f64 = 20_000.0 / 450.0;
/// Bytes of a jar, most often.
const JAR: usize = 4 << 20;

/// Adds `mib` MiB to the tree at `root`.
pub(in crate::bench) fn files(root: &Path, mib: u32, seed: u64) -> Result<Made> {
    let mut numbers = Numbers::new(seed ^ 0xf11e5);
    let mut made = Made::default();
    let total = u64::from(mib) << 20;
    let small = (f64::from(mib) * SMALL_PER_MIB) as usize;
    for n in 0..small {
        let (group, instance) = (n % 40, n / 40 % 12);
        let kind = numbers.pick(&["yml", "json", "properties", "txt"]);
        let path = format!("templates/group-{group}/instance-{instance}/plugins/p{}/config-{n}.{kind}", n / 480 % 8);
        write(root, &path, text(&mut numbers).as_bytes(), &mut made)?;
    }
    let mut jar = vec![0; JAR];
    for n in 0.. {
        let left = total.saturating_sub(made.bytes);
        if left == 0 {
            break;
        }
        let size = left.min(JAR as u64) as usize;
        numbers.fill(&mut jar[..size]);
        // The signature of a zip.
        let signature = b"PK\x03\x04";
        let signed = signature.len().min(size);
        jar[..signed].copy_from_slice(&signature[..signed]);
        write(root, &format!("data/modules/m{}/module-{n}.jar", n % 9), &jar[..size], &mut made)?;
    }
    Ok(made)
}

/// 0.3 to 5 KiB of settings.
fn text(numbers: &mut Numbers) -> String {
    let mut text = String::new();
    for _ in 0..numbers.below(90) + 6 {
        let key = numbers.pick(&["max-players", "motd", "spawn", "permissions", "world", "timeout", "whitelist"]);
        let words = numbers.below(5) + 1;
        text.push_str(&format!("{key}-{}: {} {}\n", numbers.below(50), numbers.words(words), numbers.below(10_000)));
    }
    text
}

fn write(root: &Path, path: &str, bytes: &[u8], made: &mut Made) -> Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    made.add(bytes.len());
    fs::write(&path, bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_tree_of_the_size_asked_for() {
        let (a, b, c) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let made = files(a.path(), 3, 7).unwrap();
        assert_eq!((made.bytes, made.count), (3 << 20, 134));
        files(b.path(), 3, 7).unwrap();
        files(c.path(), 3, 8).unwrap();
        let read = |dir: &Path| fs::read(dir.join("data/modules/m0/module-0.jar")).unwrap();
        assert_eq!(read(a.path()), read(b.path()));
        assert_ne!(read(a.path()), read(c.path()));
    }
}
