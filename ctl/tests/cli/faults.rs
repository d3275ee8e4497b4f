//! What `prexorctl` does when calls get lost, connections break, readers leave and people press Ctrl-C.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::fs::OpenOptionsExt,
    process::{Command, Stdio},
};

use crate::scripted::{Said, Scripted};
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

#[tokio::test]
async fn a_lost_call_is_repeated_as_the_same_request_and_a_watch_resumes_without_gaps() {
    let coordinator = Scripted::start().await;
    let said = coordinator.run(&["backup", "create"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        said.out,
        "-> Backup bk-2026-05-10-001 created\n\
         files: mongo, valkey, filesystem\n\
         size: 142 MiB\n\
         path: /var/backups/prexorcloud/bk-2026-05-10-001/\n"
    );
    assert_eq!(
        said.err,
        "event 1\nevent 2\nevent 3\nlost the connection to the coordinator, trying again\nevent 4\nevent 5\n\
         warning: a socket was skipped\n"
    );
    let seen = coordinator.seen.lock().unwrap();
    assert_eq!(seen.request_ids.len(), 2);
    assert_eq!(seen.request_ids[0], seen.request_ids[1]);
    assert_eq!(seen.watched_after, [0, 3]);
}

#[tokio::test]
async fn programs_get_json_on_both_streams() {
    let coordinator = Scripted::start().await;
    let said = coordinator.run(&["backup", "create", "--json"]).await;
    let created: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(created["id"], "bk-2026-05-10-001");
    assert_eq!(said.err, "{\"warning\":{\"message\":\"a socket was skipped\"}}\n");
    let said = coordinator.run(&["backup", "show", "bk-2020-01-01-001", "--json"]).await;
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!((said.code, &error["error"]["reason"]), (Some(4), &"NOT_FOUND".into()));
    assert!(error["error"]["hint"].as_str().unwrap().contains("prexorctl backup list"), "{error}");
}

#[tokio::test]
async fn all_pages_are_listed() {
    let coordinator = Scripted::start().await;
    let said = coordinator.run(&["backup", "list"]).await;
    let ids: Vec<_> = said.out.lines().skip(1).map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!((ids.len(), ids[0], ids[9]), (10, "bk-2026-05-10-009", "bk-2026-05-10-000"));
    let said = coordinator.run(&["backup", "list", "--json"]).await;
    let list: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(list[0]["path"], "/var/backups/prexorcloud/bk-2026-05-10-009/");
}

#[tokio::test]
async fn a_reader_that_leaves_ends_nothing() {
    let coordinator = Scripted::start().await;
    let mut child = coordinator.command(&["backup", "create"]).spawn().unwrap();
    drop(child.stdout.take());
    let said = tokio::task::spawn_blocking(move || Said::from(child.wait_with_output().unwrap())).await.unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!said.err.contains("panic") && !said.err.contains("error"), "{}", said.err);

    let mut full = coordinator.command(&["backup", "list"]);
    full.stdout(File::create("/dev/full").unwrap());
    let said = tokio::task::spawn_blocking(move || Said::from(full.output().unwrap())).await.unwrap();
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("cannot write the output"), "{}", said.err);
}

#[tokio::test]
async fn ctrl_c_leaves_the_job_and_says_how_to_go_on() {
    let coordinator = Scripted::start().await;
    let mut child = coordinator.command(&["job", "watch", "job-000000000003"]).spawn().unwrap();
    let said = tokio::task::spawn_blocking(move || {
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        err.read_line(&mut first).unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let mut rest = String::new();
        err.read_to_string(&mut rest).unwrap();
        let output = child.wait_with_output().unwrap();
        Said { err: first + &rest, ..Said::from(output) }
    });
    let said = said.await.unwrap();
    assert_eq!(said.code, Some(130), "{said:?}");
    for words in ["job-000000000003 goes on", "prexorctl job watch job-000000000003", "prexorctl job cancel"] {
        assert!(said.err.contains(words), "{}", said.err);
    }
}

#[tokio::test]
async fn a_restore_needs_a_yes_and_applies_the_plan_that_was_shown() {
    let coordinator = Scripted::start().await;
    let said = coordinator.run(&["restore", "latest"]).await;
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("--yes"), "{}", said.err);
    assert!(coordinator.seen.lock().unwrap().applied.is_empty());

    let said = coordinator.run(&["restore", "latest", "--datastores", "--yes"]).await;
    assert_eq!(
        said.out,
        "RestoreExecutor: drop+restore mongo... OK\n\
         Run `systemctl start prexorcloud-controller` to bring the cluster back.\n"
    );
    let applied = coordinator.seen.lock().unwrap().applied.remove(0);
    let plan = applied.plan.unwrap();
    assert_eq!((plan.backup_id.as_str(), plan.scope), ("bk-2026-05-10-001", vec![1, 2]));
    assert_eq!(applied.plan_digest, vec![7; 32]);
}

/// Runs `prexorctl` on a terminal, types this when it is asked, and returns what stood on it.
pub(crate) fn on_a_terminal(
    coordinator: &Scripted,
    args: &[&str],
    typed: &str,
) -> impl Future<Output = (Said, String)> + use<> {
    typed_after(coordinator, args, ": ", typed)
}

/// The same, where it is typed after these words.
fn typed_after(
    coordinator: &Scripted,
    args: &[&str],
    after: &str,
    typed: &str,
) -> impl Future<Output = (Said, String)> + use<> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let side = || {
        let open =
            File::options().read(true).write(true).custom_flags(rustix::fs::OFlags::NOCTTY.bits() as i32).open(&name);
        Stdio::from(open.unwrap())
    };
    // As a shell does: without a session that the terminal is of, Ctrl-C would be a character like others.
    let mut command = Command::new("setsid");
    command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_prexorctl")]).args(args);
    command.env("PREXORCTL_CONFIG", coordinator.config()).stdout(Stdio::piped());
    // Without a TERM nobody can draw on it, and CI has none.
    command.stdin(side()).stderr(side()).env("TERM", "xterm").env_remove("NO_COLOR");
    let (after, typed) = (after.to_owned(), typed.to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let child = command.spawn().unwrap();
        drop(command);
        let mut master = File::from(master);
        let mut screen = Vec::new();
        let (mut byte, mut asked) = ([0], false);
        // The answer is typed once it is asked for; at the end of the child reading fails.
        while master.read(&mut byte).is_ok_and(|n| n > 0) {
            screen.push(byte[0]);
            if screen.ends_with(after.as_bytes()) && !asked {
                asked = true;
                master.write_all(typed.as_bytes()).unwrap();
            }
        }
        (Said::from(child.wait_with_output().unwrap()), String::from_utf8_lossy(&screen).into_owned())
    });
    async { work.await.unwrap() }
}

#[tokio::test]
async fn a_person_types_the_backups_id_to_restore_it() {
    let coordinator = Scripted::start().await;
    let (said, screen) = on_a_terminal(&coordinator, &["restore", "latest"], "yes\n").await;
    assert_eq!(said.code, Some(3), "{screen}");
    assert!(screen.contains("not confirmed: nothing was changed"), "{screen}");
    assert!(coordinator.seen.lock().unwrap().applied.is_empty());
    let (said, screen) = on_a_terminal(&coordinator, &["restore", "latest"], "bk-2026-05-10-001\n").await;
    assert_eq!(said.code, Some(0), "{screen}");
    assert!(screen.contains("drop+restore mongo"), "the plan is shown: {screen}");
    assert_eq!(coordinator.seen.lock().unwrap().applied.len(), 1);
}

#[tokio::test]
async fn people_see_a_bar_and_scripts_see_lines() {
    let coordinator = Scripted::start().await;
    let watch = ["job", "watch", "job-000000000004"];
    let (said, screen) = on_a_terminal(&coordinator, &watch, "").await;
    assert_eq!(said.code, Some(0), "{screen}");
    assert!(screen.contains("mongo on h1") && screen.contains("[=>") && screen.contains("1.0 MiB/s"), "{screen:?}");
    assert!(screen.contains("d.audit_log"), "the end of the name is shown: {screen:?}");
    let said = coordinator.run(&watch).await;
    assert_eq!(
        said.err,
        "mongo on h1: 0 B of 10 MiB (0 %), prexorcloud.audit_log\n\
         mongo on h1: 10 MiB of 10 MiB (100 %), 1.0 MiB/s, prexorcloud.audit_log\n"
    );
}

/// On a terminal every host has a row with its step; Ctrl-C leaves the restore alone and says what there is to do.
#[tokio::test]
async fn a_restore_is_a_table_of_hosts_and_goes_on_without_whoever_leaves() {
    let coordinator = Scripted::start().await;
    let watch = ["job", "watch", "job-000000000005"];
    let (said, screen) = typed_after(&coordinator, &watch, "stop the controller: done", "\x03").await;
    assert_eq!(said.code, Some(130), "{screen:?}");
    for words in ["coordinator", "look at every host again: done", "h1", "h2", "1  stop the controller: done"] {
        assert!(screen.contains(words), "{words}: {screen:?}");
    }
    assert!(!screen.contains("h1: stop the controller..."), "rows instead of lines: {screen:?}");
    for words in ["goes on without us", "prexorctl job watch", "prexorctl job cancel", "prexorctl job resume"] {
        assert!(screen.contains(words), "{words}: {screen:?}");
    }
    assert_eq!(said.out, "");
}
