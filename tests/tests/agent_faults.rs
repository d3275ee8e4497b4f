//! Agents that are away, hang, or are cut off; a coordinator whose disk is slow, or whose clock goes back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use prexor_tests::{
    cluster::{Cluster, Said, Setup},
    servers::{self, PATIENCE, wait_until},
};

const IMPATIENT: &str = "agents: {heartbeat: 1s, answer: 2s, stall: 4s}";

fn said(child: Child) -> Said {
    child.wait_with_output().expect("prexorctl ends").into()
}

/// What the agent has open below the controller's root.
fn open_files(cluster: &Cluster) -> usize {
    let links = fs::read_dir(format!("/proc/{}/fd", cluster.agent_pid())).expect("the agent runs");
    let targets = links.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    targets.filter(|target| target.starts_with(cluster.root())).count()
}

/// Whatever was wrong is over: nothing is left of it, and a backup can be made.
async fn all_is_well(cluster: &Cluster) {
    wait_until("the agent to let go", PATIENCE, async || open_files(cluster) == 0).await;
    assert_eq!((cluster.backups(), cluster.backup_dirs()), (vec![], vec![]));
    let id = cluster.backup();
    cluster.ctl(&["backup", "verify", &id]).ok();
}

#[tokio::test]
async fn an_agent_that_is_away_is_seen_without_asking() {
    let mut cluster = Cluster::start_as(Setup { coordinator: IMPATIENT, ..Setup::default() }).await;
    cluster.kill_agent();
    let noticed = || cluster.log("prexor-coordinator").contains("an agent does not answer");
    wait_until("the coordinator to notice", PATIENCE, async || noticed()).await;
    let status = cluster.ctl(&["status"]).ok().out;
    let line = status.lines().find(|l| l.starts_with("Node h1")).expect("the node's line");
    assert!(line.contains("not reachable for ") && line.contains("connection refused"), "{status}");
    assert!(status.starts_with("Problems:\n  ! h1 is not reachable for "), "{status}");
    let node = cluster.ctl(&["status", "--json"]).ok().json()["nodes"][0].clone();
    assert!(
        node["last_seen"].as_str() <= node["unreachable_since"].as_str() && node["last_seen"].is_string(),
        "{node}"
    );

    let said = cluster.ctl(&["backup", "create"]).failed(5);
    assert!(said.err.contains("h1") && said.err.contains("connection refused"), "{}", said.err);
    cluster.start_agent().await;
    let back = || cluster.log("prexor-coordinator").contains("the agent answers again");
    wait_until("the coordinator to notice", PATIENCE, async || back()).await;
    let node = cluster.ctl(&["status", "--json"]).ok().json()["nodes"][0].clone();
    assert!(node["reachable"] == true && node["unreachable_since"].is_null(), "{node}");
    all_is_well(&cluster).await;
}

#[tokio::test]
async fn an_agent_that_hangs_fails_its_job_and_lets_go_when_it_wakes() {
    let cluster = Cluster::start_as(Setup { coordinator: IMPATIENT, ..Setup::default() }).await;
    cluster.ballast(512);
    let create = cluster.capture_has_begun("filesystem").await;
    cluster.pause_agent();
    // Only time can tell a process that hangs: nothing is closed, nothing refused.
    let said = said(create).failed(5);
    for words in ["h1", "has not moved for 4 s while capturing", "last heard: filesystem-h1 at ", " s ago"] {
        assert!(said.err.contains(words), "{words}: {}", said.err);
    }
    assert_eq!(cluster.jobs()[0]["failure"]["node"], "h1");
    // What it had to itself is free: the next one is not told to wait.
    let next = cluster.ctl(&["backup", "create", "--scope", "filesystem", "--no-queue"]).failed(5);
    assert!(next.err.contains("no agent can be reached"), "{}", next.err);
    let status = cluster.ctl(&["status"]).ok().out;
    assert!(status.contains("Node h1") && status.contains("not reachable for "), "{status}");
    cluster.resume_agent();
    all_is_well(&cluster).await;
}

#[tokio::test]
async fn a_network_that_is_cut_for_a_moment_is_waited_for_and_for_longer_is_not() {
    let setup = Setup { coordinator: IMPATIENT, proxied: true, ..Setup::default() };
    let cluster = Cluster::start_as(setup).await;
    cluster.ballast(512);
    let create = cluster.capture_has_begun("filesystem").await;
    cluster.network().cut();
    let sent = cluster.network().forwarded();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.network().heal();
    let made = said(create).ok().json();
    assert!(cluster.network().forwarded() > sent, "the cut came before the end");
    cluster.ctl(&["backup", "verify", made["id"].as_str().expect("an id")]).ok();
    cluster.ctl(&["backup", "delete", made["id"].as_str().expect("an id"), "--yes"]).ok();

    let create = cluster.capture_has_begun("filesystem").await;
    cluster.network().cut();
    let said = said(create).failed(5);
    assert!(said.err.contains("h1") && said.err.contains("has not moved for 4 s"), "{}", said.err);
    assert_eq!((cluster.backups(), cluster.backup_dirs()), (vec![], vec![]));
    let unreachable = || cluster.log("prexor-coordinator").contains("an agent does not answer");
    wait_until("the coordinator to notice", PATIENCE, async || unreachable()).await;
    cluster.network().heal();
    all_is_well(&cluster).await;
}

/// The most memory that a process had since it was last asked to forget it, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("proc(5): resets the peak");
}

/// Every write of the coordinator takes this long, as on a bad disk. `None` where no process may trace another.
#[expect(clippy::print_stderr, reason = "a test that proves nothing must say so")]
async fn slow_down(cluster: &Cluster, log: &Path) -> Option<Child> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", "trace=write", "-e", "inject=write:delay_enter=8000", "-o"]).arg(log);
    strace.args(["-p", &cluster.coordinator_pid().to_string()]);
    let mut child = servers::spawn(&mut strace, &cluster.dir().join("strace.log")).expect("strace can be started");
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{}/status", cluster.coordinator_pid())).expect("it runs");
        !status.contains("TracerPid:\t0\n")
    };
    wait_until("strace", PATIENCE, async || traced() || child.try_wait().expect("a child").is_some()).await;
    if traced() {
        return Some(child);
    }
    eprintln!("skipped: no process may trace another here: {}", fs::read_to_string(log).unwrap_or_default());
    None
}

#[tokio::test]
async fn a_slow_disk_of_the_coordinator_costs_time_and_no_memory() {
    let cluster = Cluster::start().await;
    cluster.ballast(192);
    let programs = [cluster.agent_pid(), cluster.coordinator_pid()];
    let mut measured = Vec::new();
    for slow in [false, true] {
        let log = cluster.dir().join("writes.log");
        let strace = if slow { Some(slow_down(&cluster, &log).await) } else { None };
        if let Some(None) = strace {
            return;
        }
        programs.into_iter().for_each(forget_peak);
        let id = cluster.backup();
        measured.push(programs.map(peak));
        if let Some(strace) = strace.flatten() {
            servers::kill_now(strace);
            let delayed = fs::read_to_string(&log).expect("a log").matches("(DELAYED)").count();
            assert!(delayed > 500, "{delayed} writes were slow");
        }
        cluster.ctl(&["backup", "verify", &id]).ok();
    }
    for (fast, slow) in measured[0].into_iter().zip(measured[1]) {
        assert!(slow < fast + fast / 4 + (8 << 20), "bytes: {measured:?}");
        assert!(slow < 128 << 20, "bytes: {measured:?}");
    }
}

/// libfaketime, which lets a process see another clock. `tests/run` installs it.
fn faketime() -> PathBuf {
    let places = fs::read_dir("/usr/lib").expect("/usr/lib").flatten().map(|e| e.path());
    let library = places.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    library.expect("libfaketime is not there: install the package faketime, or use tests/run")
}

#[tokio::test]
async fn a_clock_that_goes_back_between_two_backups_changes_no_order() {
    let clock = tempfile::NamedTempFile::new().expect("a file");
    let env = [
        ("LD_PRELOAD", faketime().display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", clock.path().display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    // Certificates are issued by this clock, and none is good before its time.
    fs::write(clock.path(), "-300\n").expect("the clock");
    let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let mut cluster = Cluster::start_as(Setup { env, ..Setup::default() }).await;
    let mut made = Vec::new();
    for offset in ["+0", "-100", "-50", "-120"] {
        fs::write(clock.path(), format!("{offset}\n")).expect("the clock");
        made.insert(0, cluster.backup());
        assert_eq!(cluster.ctl(&["backup", "show", "latest", "--json"]).ok().json()["id"], made[0].as_str());
    }
    let listed = cluster.backups();
    assert_eq!(listed.iter().map(|b| b["id"].as_str().expect("an id")).collect::<Vec<_>>(), made);
    assert!(listed[0]["created_at"].as_str() < listed[3]["created_at"].as_str(), "the clock did go back: {listed:?}");
    let jobs = cluster.jobs();
    assert_eq!(jobs.iter().map(|j| j["backup_id"].as_str().expect("a backup")).collect::<Vec<_>>(), made);
    let rises = |pair: &[String]| pair[0] > pair[1] || pair[0][..13] != pair[1][..13];
    assert!(made.windows(2).all(rises), "ids rise within a day: {made:?}");
    let plan = cluster.ctl(&["restore", "latest", "--dry-run", "--json"]).ok().json();
    assert_eq!(plan["backup_id"], made[0].as_str());
    // Also for a coordinator that was started again.
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    assert_eq!(cluster.backups()[0]["id"], made[0].as_str());
    cluster.ctl(&["backup", "verify", "latest"]).ok();
}
