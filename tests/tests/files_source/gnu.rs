//! Against GNU tar: holes that both keep and read of each other, and the same listing of the same tree.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use prexor_agent::source::{Source as _, SourceError};
use prexor_format::{digest::Sha256Digest, manifest::Artifact};
use rustix::fs::{SeekFrom, seek};

use super::{
    NOTHING, Rig, UUID, archive_of, contents, destroy,
    trees::{self, differences, list},
    verify,
};

fn tar(args: &[&str], archive: &Path, root: &Path) -> String {
    let mut run = Command::new("tar");
    let run = run.args(args).arg("-f").arg(archive).arg("-C").arg(root).env("LC_ALL", "C").env("TZ", "UTC");
    let run = if args.contains(&"-c") { run.arg(".") } else { run }.output().unwrap();
    assert!(run.status.success(), "{args:?}: {}", String::from_utf8_lossy(&run.stderr));
    run.stdout.escape_ascii().to_string().replace("\\n", "\n")
}

/// A file of `size` bytes with a few where `at` says.
fn sparse(path: &Path, size: u64, at: &[u64]) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for at in at {
        file.write_all_at(b"0123456789", *at).unwrap();
    }
}

/// Where a file has data, and what. Reads no holes.
pub(crate) fn extents(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let file = File::open(path).unwrap();
    let (mut out, mut at) = (Vec::new(), 0);
    while let Ok(begin) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(begin)).unwrap();
        let mut data = vec![0; usize::try_from(at - begin).unwrap()];
        file.read_exact_at(&mut data, begin).unwrap();
        out.push((begin, data));
    }
    out
}

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

pub(crate) fn with_holes(root: &Path) -> Vec<PathBuf> {
    trees::plain(root, UUID);
    let dir = root.join("holes");
    fs::create_dir(&dir).unwrap();
    let long = format!("{}\u{e9}", "n".repeat(200));
    for (name, size, at) in [
        ("all", 300 * KIB, &[][..]),
        ("leading", 300 * KIB, &[290 * KIB + 1]),
        ("trailing", 300 * KIB + 7, &[0]),
        ("several", 900 * KIB, &[3, 64 * KIB - 5, 128 * KIB + 1, 700 * KIB]),
        ("to the end", 800 * KIB + 3, &[800 * KIB - 7]),
        (&long, 100 * KIB, &[50 * KIB]),
        ("8 gib", 8 * GIB, &[KIB, 5 * GIB + 99, 8 * GIB - 10]),
        ("larger", 12 * GIB + 1, &[9 * GIB]),
    ] {
        sparse(&dir.join(name), size, at);
    }
    // Zeros that are data, and more names of a file with holes.
    fs::write(dir.join("zeros"), vec![0; 200 * 1024]).unwrap();
    fs::hard_link(dir.join("several"), dir.join("zz several")).unwrap();
    chown(dir.join("all"), Some(1234), Some(5678)).unwrap();
    trees::touch(&dir.join("all"), 1_234_567_890, 123_456_789);
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// Everything that a tree with holes must bring back: by its extents, as reading gigabytes of zeros takes long.
pub(crate) fn described(root: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(root.join("holes")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let describe = |p: &PathBuf| {
        let (m, name) = (fs::metadata(p).unwrap(), p.file_name().unwrap());
        let found = extents(p);
        let where_and_what: Vec<_> = found.iter().map(|(at, d)| (at, d.len(), Sha256Digest::of(d))).collect();
        let (time, owner) = ((m.mtime(), m.mtime_nsec()), (m.uid(), m.gid()));
        format!("{name:?} {} {:o} {owner:?} {time:?} {where_and_what:?}", m.len(), m.mode())
    };
    files.iter().map(describe).collect()
}

#[tokio::test]
async fn holes_come_back_as_holes() {
    let rig = Rig::new(&[]);
    let files = with_holes(&rig.root());
    let before = described(&rig.root());
    let artifact = rig.capture().await;
    assert!(artifact.warnings.is_empty(), "{:?}", artifact.warnings);
    assert!(artifact.files[0].size_bytes < 1 << 20, "{:?}", artifact.files);
    let archive = archive_of(&rig, &artifact);
    let summary = verify(&archive);
    assert_eq!(summary.differences(contents(&artifact)), NOTHING);
    assert!(summary.bytes > 20 * GIB);

    let out = rig.dir.path().join("gnu");
    fs::create_dir(&out).unwrap();
    tar(&["-x", "-z"], &archive, &out);
    assert_eq!(described(&out), before);
    fs::remove_dir_all(out).unwrap();

    files.iter().for_each(|f| fs::remove_file(f).unwrap());
    let unit = rig.stage(&artifact, "job-1");
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    // A byte in the middle of a hole is found.
    File::options().write(true).open(rig.root().join("holes/8 gib")).unwrap().write_all_at(b"x", 3 * GIB).unwrap();
    let said = rig.source.check(&unit).await.unwrap().join("\n");
    assert!(said.contains("'holes/8 gib' differs in content"), "{said}");
    rig.source.revert(&unit).await.unwrap();
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    rig.source.commit(&unit).await.unwrap();
    assert_eq!(described(&rig.root()), before);
}

/// The artifact with another archive in place of its own.
fn replaced(rig: &Rig, artifact: &Artifact, archive: &[u8]) -> Artifact {
    let mut artifact = artifact.clone();
    artifact.files[0].size_bytes = archive.len() as u64;
    artifact.files[0].sha256 = Sha256Digest::of(archive);
    fs::write(archive_of(rig, &artifact), archive).unwrap();
    artifact
}

/// Restores what GNU tar wrote of the root, in place of what we wrote of it.
async fn restore_theirs(rig: &Rig, job: &str, option: &str) {
    let artifact = rig.capture().await;
    let theirs = rig.dir.path().join("theirs.tar.gz");
    let options = ["-c", "-z", "--sparse", option, "--format=posix", "--sort=name", "--exclude=./logs"];
    tar(&options, &theirs, &rig.root());
    let artifact = replaced(rig, &artifact, &fs::read(theirs).unwrap());
    assert_eq!(verify(&archive_of(rig, &artifact)).differences(contents(&artifact)), NOTHING);
    destroy(&rig.root());
    let unit = rig.stage(&artifact, job);
    rig.source.prepare(&unit).await.unwrap();
    rig.source.swap(&unit).await.unwrap();
    assert_eq!(rig.source.check(&unit).await.unwrap(), NOTHING);
    rig.source.commit(&unit).await.unwrap();
}

#[tokio::test]
async fn archives_of_gnu_tar_with_holes_are_restored() {
    let rig = Rig::new(&[]);
    with_holes(&rig.root());
    let before = described(&rig.root());
    restore_theirs(&rig, "job-1", "--hole-detection=seek").await;
    assert_eq!(described(&rig.root()), before);
    // Finds zeros that are on the disk too, in smaller blocks; too slow for gigabytes of them.
    for large in ["8 gib", "larger"] {
        fs::remove_file(rig.root().join("holes").join(large)).unwrap();
    }
    restore_theirs(&rig, "job-2", "--hole-detection=raw").await;
}

#[tokio::test]
async fn listings_are_those_of_gnu_tar() {
    let rig = Rig::new(&["data/cache"]);
    with_holes(&rig.root());
    trees::rich(&rig.root(), UUID);
    fs::create_dir(rig.root().join("data/cache")).unwrap();
    // Owners with a name and without, alone and together.
    for (name, uid, gid) in [("daemon", 1, 1), ("adm", 0, 4), ("nameless", 54_321, 1), ("nobody", 65_534, 65_534)] {
        let path = rig.root().join(name);
        fs::write(&path, name).unwrap();
        chown(path, Some(uid), Some(gid)).unwrap();
    }
    let setfacl = |args: &[&str], name: &str| {
        let run = Command::new("setfacl").args(args).arg(rig.root().join(name)).status();
        match run {
            Ok(status) => assert!(status.success(), "setfacl {args:?}"),
            Err(e) => eprintln!("lists by setfacl are not tested: {e} (it is in the package acl)"),
        }
    };
    setfacl(&["-m", "u:daemon:rwx,g:adm:r--,u:54321:-w-"], "daemon");
    setfacl(&["-d", "-m", "g:daemon:r-x"], "templates");
    let ours = archive_of(&rig, &rig.capture().await);
    let theirs = rig.dir.path().join("theirs.tar.gz");
    let excluded = ["--exclude=./logs", "--exclude=./data/cache", "--exclude=./odd/socket"];
    let create = ["--xattrs", "--acls", "--format=posix", "--sort=name", "--sparse", "-c", "-z"];
    tar(&[&create[..], &excluded].concat(), &theirs, &rig.root());
    for options in [&["--xattrs", "--acls", "-t", "-v", "-z"][..], &["-t", "-v", "-z"], &["--numeric-owner", "-tvz"]] {
        let list = |archive: &Path| {
            let listing = tar(options, archive, Path::new("/"));
            // Owners are padded to the widest so far.
            let mut lines: Vec<_> =
                listing.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            lines.sort();
            lines
        };
        let (ours, theirs) = (list(&ours), list(&theirs));
        let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>();
        assert_eq!(only(&ours, &theirs), NOTHING, "only ours; only theirs: {:#?}", only(&theirs, &ours));
        assert_eq!(ours, theirs);
        assert!(ours.len() > 40, "{ours:?}");
    }
    // What GNU tar unpacks with lists is what it was.
    let out = rig.dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::remove_file(rig.root().join("odd/socket")).unwrap();
    fs::remove_dir(rig.root().join("data/cache")).unwrap();
    fs::remove_dir_all(rig.root().join("holes")).unwrap();
    tar(&["-x", "-z", "--xattrs", "--xattrs-include=*", "--acls"], &ours, &out);
    fs::remove_dir_all(out.join("holes")).unwrap();
    for root in [rig.root(), out.clone()] {
        ["", "odd", "data"].iter().for_each(|d| trees::touch(&root.join(d), 5, 5));
    }
    assert_eq!(differences(&list(&rig.root()), &list(&out)), NOTHING);
}

#[tokio::test]
async fn more_than_the_manifest_says_is_never_written() {
    use std::io::Write as _;

    use super::hostile::{entry, sized};
    let rig = Rig::new(&[]);
    trees::plain(&rig.root(), UUID);
    let artifact = rig.capture().await;
    let free = || rustix::fs::statvfs(rig.dir.path()).map(|s| s.f_bavail * s.f_frsize).unwrap();
    let root = entry("./", b'5', "", b"");
    let holes = |size: u64| {
        let records: Vec<String> = ["major=1", "minor=0", "name=./a", &format!("realsize={size}")]
            .iter()
            .map(|r| format!(" GNU.sparse.{r}\n"))
            .map(|r| format!("{}{r}", r.len() + 2))
            .collect();
        let mut map = format!("1\n{size}\n0\n").into_bytes();
        map.resize(512, 0);
        [root.clone(), entry("./x", b'x', "", records.concat().as_bytes()), entry("./a", b'0', "", &map)].concat()
    };
    let mut many = root.clone();
    (0..200_000).for_each(|n| many.extend(entry(&format!("./{n:06}"), b'0', "", b"")));
    let large = [root.clone(), sized("./a", b'0', "", 4 << 30, b"")].concat();
    for (number, (begin, zeros, said)) in [
        (large, 4u64 << 30, "more than the manifest says"),
        (many, 1024, "more than the manifest says"),
        (holes(8 << 40), 1024, "more than the manifest says"),
        (holes(i64::MAX as u64), 1024, "more than the manifest says"),
        ([root.clone(), vec![0; 1024]].concat(), 4 << 30, "after the end"),
    ]
    .into_iter()
    .enumerate()
    {
        let bomb = rig.dir.path().join("bomb.gz");
        let mut gz = Command::new("gzip")
            .arg("-1")
            .stdin(std::process::Stdio::piped())
            .stdout(File::create(&bomb).unwrap())
            .spawn()
            .unwrap();
        let mut input = gz.stdin.take().unwrap();
        input.write_all(&begin).unwrap();
        for _ in 0..zeros.div_ceil(1 << 20) {
            input.write_all(&vec![0; zeros.min(1 << 20) as usize]).unwrap();
        }
        drop(input);
        assert!(gz.wait().unwrap().success());
        let artifact = replaced(&rig, &artifact, &fs::read(&bomb).unwrap());
        let (unit, before) = (rig.stage(&artifact, &format!("job-{number}")), free());
        let error = rig.source.prepare(&unit).await.unwrap_err();
        assert!(matches!(error, SourceError::Invalid(_)) && error.to_string().contains(said), "{said}: {error}");
        assert!(before.saturating_sub(free()) < 1 << 30, "{said}");
        assert_eq!(rig.leftovers(), [] as [PathBuf; 0], "{said}");
    }
}
