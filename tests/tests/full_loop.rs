//! The main job on real servers: back up, list, verify, destroy, restore, and prove by content that all is as before.

use std::{fs, path::Path, process::Command};

use prexor_tests::{
    cluster::{Cluster, Said},
    servers::binaries,
};

fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str], dir: &Path) -> Said {
    Command::new(program).args(args).current_dir(dir).output().expect("the tool can be started").into()
}

#[tokio::test]
async fn what_is_restored_equals_what_was_backed_up() {
    let cluster = Cluster::start().await;
    let before = cluster.snapshot().await;

    let created = cluster.ctl(&["backup", "create", "--description", "pre-1.0.1-upgrade"]).ok().out;
    let lines: Vec<&str> = created.lines().collect();
    let id =
        lines[0].strip_prefix("-> Backup ").and_then(|l| l.strip_suffix(" created")).expect("the guide's first line");
    assert_eq!(lines[1], "files: mongo, valkey, filesystem");
    assert!(lines[2].starts_with("size: ") && lines[2].ends_with("iB"), "{created}");
    assert_eq!(lines[3], format!("path: {}/", cluster.backup_dir(id).display()));

    let list = cluster.ctl(&["backup", "list"]).ok().out;
    let header: Vec<&str> = list.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(header, ["ID", "CREATED", "SIZE", "SCOPE"]);
    assert!(list.lines().nth(1).is_some_and(|l| l.starts_with(id) && l.ends_with("mongo,valkey,filesystem")), "{list}");
    let json = cluster.ctl(&["backup", "list", "--json"]).ok().json();
    assert_eq!(json[0]["path"], format!("{}/", cluster.backup_dir(id).display()));

    let verified = cluster.ctl(&["backup", "verify", id]).ok().out;
    let lines: Vec<&str> = verified.lines().collect();
    assert_eq!(lines[..2], ["checksums OK", "manifest schema OK"]);
    assert!(lines[2].starts_with("mongo dump bson OK (") && lines[2].ends_with(" docs)"), "{verified}");
    assert!(lines[3].starts_with("valkey rdb OK (preamble version "), "{verified}");
    assert_eq!(lines[4..], ["filesystem tar OK"]);

    let dry = cluster.ctl(&["restore", id, "--dry-run"]).ok().out;
    assert!(dry.contains("drop+restore mongo"), "{dry}");
    assert_eq!(before.differences(&cluster.snapshot().await), [] as [String; 0], "a dry run changes nothing");

    fs::write(cluster.root().join("logs/controller.log"), "still here").expect("a log");
    cluster.destroy().await;
    let destroyed = cluster.snapshot().await;
    assert!(!before.differences(&destroyed).is_empty());
    let said = cluster.ctl(&["restore", id, "--yes"]).ok();
    let (restored, told) = (said.out, said.err);
    let root = cluster.root();
    for line in [
        "RestoreExecutor: drop+restore mongo... OK",
        "RestoreExecutor: replace valkey RDB... OK",
        &format!("RestoreExecutor: untar {}/... OK", root.display()),
    ] {
        assert!(restored.lines().any(|l| l == line), "{line}\nnot in\n{restored}");
    }
    assert!(restored.trim_end().ends_with("to bring the cluster back."), "{restored}");
    let expected = before.restored_over(&destroyed);
    assert_eq!(expected.differences(&cluster.snapshot().await), [] as [String; 0]);
    for corrected in ["lease-token:leader goes on at 1000041", "prexor:v1:player:* is left out"] {
        assert!(told.contains(corrected), "{told}");
        assert!(dry.contains(corrected), "{dry}");
    }
    assert_eq!(fs::read_to_string(root.join("logs/controller.log")).expect("logs survive"), "still here");

    let leftovers = run("find", &[".", "-name", "*prexor-job*", "-o", "-name", ".prexor-*"], root.parent().unwrap());
    assert_eq!(leftovers.ok().out, "", "nothing is left beside the root");
}

#[tokio::test]
async fn stock_tools_take_the_artifacts() {
    let cluster = Cluster::start().await;
    let id = cluster.backup();
    let dir = cluster.backup_dir(&id);
    run("sha256sum", &["--check", "--strict", "--quiet", "SHA256SUMS"], &dir).ok();
    let gz = run("find", &[".", "-name", "*.gz"], &dir).ok().out;
    assert!(gz.lines().count() > 10, "{gz}");
    for file in gz.lines() {
        run("gzip", &["-t", file], &dir).ok();
    }
    run(&binaries().valkey_check_rdb, &["valkey/dump.rdb"], &dir).ok();
    let unpacked = tempfile::tempdir().expect("a directory");
    let tar = dir.join("filesystem/h1/etc-prexorcloud.tar.gz").display().to_string();
    run("tar", &["-xzf", &tar, "--xattrs", "--acls"], unpacked.path()).ok();
    let (mut live, mut stock) = (
        prexor_tests::equality::files(&cluster.root(), &["logs"]).expect("the live tree"),
        prexor_tests::equality::files(unpacked.path(), &["logs"]).expect("the unpacked tree"),
    );
    for markers in [&mut live, &mut stock] {
        markers.retain(|path, _| !path.ends_with(".cluster-left") && !path.ends_with("pending-join-token"));
    }
    assert_eq!(prexor_tests::equality::differences("files", &live, &stock), [] as [String; 0]);

    // Modes: nobody but root reads what holds every secret of a cluster.
    let open = run("find", &[".", "-perm", "/077"], &dir).ok().out;
    assert_eq!(open, "", "group and others see nothing");
}

#[tokio::test]
async fn an_independent_reader_finds_the_same_documents() {
    let cluster = Cluster::start().await;
    let id = cluster.backup();
    let manifest = cluster.ctl(&["backup", "show", &id, "--json"]).ok().json();
    let script = r#"
import bson, glob, gzip, json, os, sys
out = {}
for path in glob.glob("mongo/**/*.bson.gz", recursive=True):
    n = 0
    with gzip.open(path) as f:
        while head := f.read(4):
            size = int.from_bytes(head, "little")
            doc = head + f.read(size - 4)
            assert len(doc) == size and doc[-1] == 0, path
            # Strings that are no UTF-8 and DBPointers are what servers accept and this reader does not.
            try:
                bson.decode(doc, bson.codec_options.CodecOptions(unicode_decode_error_handler="replace"))
            except bson.errors.InvalidBSON as e:
                print(path, e, file=sys.stderr)
            n += 1
    out[path] = n
json.dump(out, sys.stdout)
"#;
    let mut python = Command::new("python3");
    python.arg("-c").arg(script).current_dir(cluster.backup_dir(&id));
    if let Some(path) = std::env::var_os("PREXOR_PYTHONPATH") {
        python.env("PYTHONPATH", path);
    }
    let counted = Said::from(python.output().expect("python3 can be started")).ok().json();
    let mongo = manifest["artifacts"].as_array().unwrap().iter().find(|a| a["kind"] == "mongo").unwrap();
    let collections = mongo["contents"]["collections"].as_array().unwrap();
    let with_data: Vec<_> = collections.iter().filter(|c| c["data_path"].is_string()).collect();
    assert!(with_data.len() > 10);
    for c in with_data {
        assert_eq!(counted[c["data_path"].as_str().unwrap()], c["documents"], "{}", c["name"]);
    }
}

#[tokio::test]
async fn parts_are_restored_alone() {
    let cluster = Cluster::start().await;
    let before = cluster.snapshot().await;
    let id = cluster.backup();
    cluster.destroy().await;
    let out = cluster.ctl(&["restore", "latest", "--filesystem", "--yes"]).ok().out;
    assert!(!out.contains("drop+restore mongo") && out.contains("untar "), "{out}");
    let now = cluster.snapshot().await;
    assert_eq!(before.files, now.files);
    assert!(!now.mongo.contains_key("audit_log"), "the databases are left as they were: {:?}", now.mongo.keys());
    let out = cluster.ctl(&["restore", &id, "--datastores", "--yes"]).ok().out;
    assert!(out.contains("drop+restore mongo") && !out.contains("untar "), "{out}");
    assert_eq!(before.restored_over(&now).differences(&cluster.snapshot().await), [] as [String; 0]);
}

#[tokio::test]
async fn an_installation_without_valkey_has_two_artifacts() {
    let cluster = Cluster::start_without_valkey().await;
    let before = cluster.snapshot().await;
    let created = cluster.ctl(&["backup", "create"]).ok().out;
    assert!(created.contains("files: mongo, filesystem\n"), "{created}");
    let refused = cluster.ctl(&["backup", "create", "--scope", "valkey"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.err.contains("valkey"), "{}", refused.err);
    cluster.destroy().await;
    cluster.ctl(&["restore", "latest", "--yes"]).ok();
    assert_eq!(before.differences(&cluster.snapshot().await), [] as [String; 0]);
}

#[tokio::test]
async fn a_scope_holds_what_was_asked_for() {
    let cluster = Cluster::start().await;
    let created = cluster.ctl(&["backup", "create", "--scope", "mongo,filesystem", "--json"]).ok().json();
    assert_eq!(created["scope"], serde_json::json!(["mongo", "filesystem"]));
    let id = created["id"].as_str().unwrap();
    let lines = cluster.ctl(&["backup", "verify", id]).ok().out;
    assert!(!lines.contains("valkey"), "{lines}");
    let refused = cluster.ctl(&["restore", id, "--datastores", "--filesystem", "--dry-run"]);
    assert!(refused.out.contains("mongo") || refused.err.contains("valkey"), "{refused:?}");
    cluster.ctl(&["backup", "create", "--scope", "mango"]).failed(2);
    cluster.ctl(&["backup", "delete", id, "--yes"]).ok();
    assert_eq!(cluster.ctl(&["backup", "list", "--json"]).ok().json(), serde_json::json!([]));
    assert!(!cluster.backup_dir(id).exists());
}

#[tokio::test]
async fn on_a_terminal_progress_is_a_table_that_goes_away() {
    let cluster = Cluster::start().await;
    cluster.ballast(384);
    let ctl = cluster.ctl_command(&["backup", "create"]);
    let line = format!("stty cols 80 && {} backup create", ctl.get_program().display());
    // script(1) gives it a terminal, and writes what that shows.
    let mut on_terminal = Command::new("script");
    on_terminal.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
    on_terminal.envs(ctl.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let shown =
        Said::from(on_terminal.stdin(std::process::Stdio::null()).output().expect("script can be started")).ok();
    let rows = || shown.out.split(['\r', '\n']).filter(|row| row.contains("filesystem-h1"));
    assert!(rows().any(|row| row.contains("MiB/s")), "the rate: {:?}", shown.out);
    assert!(rows().any(|row| row.contains("ballast.bin")), "the path: {:?}", shown.out);
    assert!(shown.out.contains("\u{1b}[2K"), "rows are drawn over: {:?}", shown.out);
    let last = shown.out.rsplit("\u{1b}[2K").next().expect("an end").replace('\r', "");
    assert!(last.contains(" created\n") && last.contains("\npath: ") && !last.contains("MiB/s"), "{last:?}");
}
