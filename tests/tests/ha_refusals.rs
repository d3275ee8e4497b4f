//! What must keep a restore from beginning, on several hosts with a real systemd each: it is refused, says what to do, and no
//! controller was stopped, no file and no document touched. Needs root.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::Stdio,
    time::Instant,
};

use prexor_tests::fleet::{CONTROLLER_YML, Everything, Fleet, Logged, wait};

const NOTHING: [String; 0] = [];
const VERSION: &str = "/etc/stand-in-version";
const CLOCK: &str = "/etc/systemd/system/prexor-agent.service.d/clock.conf";

/// The fleet is expensive, so the cases share it and come one after the other; each mends what it broke.
#[test]
fn a_restore_that_must_not_be_is_refused_before_anything_is_touched() {
    let begun = Instant::now();
    let say = |what: &str| eprintln!("refusals: {what} at {:.1?}", begun.elapsed());
    let fleet = Fleet::start();
    for host in 1..=3 {
        fleet.until_reachable(host);
    }
    fleet.rack.host(2).write(VERSION, "PrexorCloud controller 1.0.1\n");
    fleet.configure_agent(2, &with_version_command(&fleet));
    fleet.rack.host(2).write("/etc/prexorcloud/templates/large", &does_not_compress(3 << 20));
    fleet.start_controllers(&[1, 2, 3]);
    let id = fleet.backup();
    let before = Still::of(&fleet);
    say("set up");
    for (what, case) in [
        ("an agent is missing", an_agent_is_missing as fn(&Fleet, &str)),
        ("the wrong host", another_controller_lives_there),
        ("another version", the_controller_has_another_version),
        ("another clock", the_clock_is_wrong),
        ("no room", there_is_no_room_to_stage),
        ("tampered with", the_store_was_tampered_with),
        ("a changed plan", the_plan_has_changed),
    ] {
        case(&fleet, &id);
        before.is_so_still(&fleet, what);
        say(what);
    }
    fleet.ctl(&["restore", &id, "--yes"]).ok();
    fleet.until_ready(&[1, 2, 3]);
}

/// What no refused restore changes.
struct Still {
    controllers: Vec<String>,
    renamed: usize,
    everything: Everything,
}

impl Still {
    fn of(fleet: &Fleet) -> Self {
        Self {
            controllers: (1..=3).map(|host| fleet.controller_pid(host)).collect(),
            renamed: fleet.oplog().iter().filter(|logged| **logged == Logged::Rename).count(),
            everything: fleet.snapshot().at_rest(),
        }
    }

    fn is_so_still(&self, fleet: &Fleet, after: &str) {
        let now = Self::of(fleet);
        assert_eq!(now.controllers, self.controllers, "{after}: a controller was stopped");
        assert_eq!(now.renamed, self.renamed, "{after}: collections were renamed");
        assert_eq!(self.everything.differences(&now.everything), NOTHING, "{after}");
    }
}

/// `agent.yml` has a section `controller` or not.
fn with_version_command(fleet: &Fleet) -> String {
    let text = fs::read_to_string(fleet.rack.host(2).path("/etc/prexor-agent/agent.yml")).expect("agent.yml");
    assert!(!text.contains("\ncontroller:"), "{text}");
    format!("controller:\n  version_command: [cat, {VERSION}]\n")
}

/// Hexadecimal digits of a simple generator: gzip leaves half of them.
fn does_not_compress(len: usize) -> String {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    };
    std::iter::repeat_with(&mut next).take(len / 16).collect()
}

fn an_agent_is_missing(fleet: &Fleet, id: &str) {
    fleet.rack.host(3).exec(&["systemctl", "stop", "prexor-agent"]).ok();
    wait("the coordinator to notice", || fleet.node(3)["reachable"] == false);
    let refused = fleet.ctl(&["restore", id, "--yes"]).failed(3);
    assert!(refused.err.contains("h3 does not answer, so its controller may be running"), "{refused:?}");
    assert!(refused.err.contains("bring its agent back, enrol another host in its place"), "{refused:?}");
    fleet.restart_agent(3);
}

fn another_controller_lives_there(fleet: &Fleet, id: &str) {
    let path = fleet.file(2, CONTROLLER_YML);
    let own = fs::read_to_string(&path).expect("controller.yml");
    let modified = fs::metadata(&path).and_then(|m| m.modified()).expect("a time");
    fs::write(&path, own.replace("8000-00000000000", "8000-99999999999")).expect("controller.yml");
    let refused = fleet.ctl(&["restore", id, "--yes"]).failed(3);
    assert!(refused.err.contains("these files belong to another controller than the one on h2"), "{refused:?}");
    fs::write(&path, own).expect("controller.yml");
    let file = fs::File::options().write(true).open(&path).expect("controller.yml");
    file.set_modified(modified).expect("the time of before");
}

fn the_controller_has_another_version(fleet: &Fleet, id: &str) {
    for other in ["1.1.0", "1.0.0"] {
        fleet.rack.host(2).write(VERSION, &format!("PrexorCloud controller {other}\n"));
        let refused = fleet.ctl(&["restore", id, "--yes"]).failed(3);
        let says =
            format!("a controller of another version would be on h2 (version in the backup: 1.0.1, now: {other})");
        assert!(refused.err.contains(&says), "{refused:?}");
        assert!(refused.err.contains("--accept-versions"), "{refused:?}");
        let accepted = fleet.ctl(&["restore", id, "--accept-versions", "--dry-run"]).ok();
        assert!(accepted.out.contains(&says), "what is accepted is told: {accepted:?}");
    }
    fleet.rack.host(2).write(VERSION, "PrexorCloud controller 1.0.1\n");
}

fn the_clock_is_wrong(fleet: &Fleet, id: &str) {
    let host = fleet.rack.host(2);
    let library = host.exec(&["find", "/usr/lib", "-name", "libfaketimeMT.so.1"]).ok().out;
    let settings = format!("LD_PRELOAD={} FAKETIME=+10m DONT_FAKE_MONOTONIC=1", library.trim());
    host.write(CLOCK, &format!("[Service]\nEnvironment={settings}\n"));
    fleet.restart_agent(2);
    let refused = fleet.ctl(&["restore", id, "--yes"]).failed(3);
    assert!(refused.err.contains("the clock of h2 is "), "{refused:?}");
    assert!(refused.err.contains("s ahead of the coordinator's: set it right first"), "{refused:?}");
    fs::remove_file(host.path(CLOCK)).expect("the drop-in");
    fleet.restart_agent(2);
}

fn there_is_no_room_to_stage(fleet: &Fleet, id: &str) {
    let host = fleet.rack.host(2);
    let shell = |script: &str| host.exec(&["sh", "-ec", script]).ok();
    host.exec(&["systemctl", "stop", "prexor-agent"]).ok();
    shell(
        "cp -a /var/lib/prexor-agent /root/state; mount -t tmpfs -o size=1M,mode=0700 tmpfs /var/lib/prexor-agent; \
         cp -a /root/state/. /var/lib/prexor-agent/; rm -r /root/state",
    );
    fleet.restart_agent(2);
    let refused = fleet.ctl(&["restore", id, "--yes"]).failed(3);
    assert!(refused.err.contains("h2 needs ") && refused.err.contains(" free in its state_dir"), "{refused:?}");
    host.exec(&["systemctl", "stop", "prexor-agent"]).ok();
    shell("umount /var/lib/prexor-agent");
    fleet.restart_agent(2);
}

fn the_store_was_tampered_with(fleet: &Fleet, id: &str) {
    let host = fleet.rack.host(1);
    let found = host.exec(&["find", &format!("/var/backups/prexorcloud/{id}"), "-type", "f", "-path", "*h2*"]).ok().out;
    let path = host.path(found.trim());
    let own = fs::read(&path).unwrap_or_else(|e| panic!("{found}: {e}"));
    let mut other = own.clone();
    other[own.len() / 2] ^= 1;
    fs::write(&path, other).expect("the artifact");
    let refused = fleet.ctl(&["restore", id, "--yes"]).failed(1);
    assert!(refused.err.contains("everything is as it was before"), "{refused:?}");
    assert!(refused.err.contains("filesystem") && refused.err.contains("h2"), "{refused:?}");
    fs::write(&path, own).expect("the artifact");
}

/// A person looks at the plan, and before the word is typed a host is no longer as it was.
fn the_plan_has_changed(fleet: &Fleet, id: &str) {
    let ca = fleet.rack.host(1).path("/etc/prexorcloud/data/certs/ca.pem");
    let own = fs::read(&ca).expect("a CA");
    let modified = fs::metadata(&ca).and_then(|m| m.modified()).expect("a time");
    // It lends its terminal to what it runs.
    let typed = ["script", "--quiet", "--return", "--command", &format!("prexorctl restore {id}"), "/dev/null"];
    let mut command = fleet.rack.host(1).command(&typed);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut person = command.spawn().expect("script runs");
    let (mut screen, mut shown) = (person.stdout.take().expect("a pipe"), String::new());
    let mut byte = [0];
    while !shown.ends_with("to replace the live data: ") {
        screen.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e} after: {shown}"));
        shown.push(char::from(byte[0]));
    }
    fs::write(&ca, "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n").expect("another CA");
    writeln!(person.stdin.take().expect("a pipe"), "{id}").expect("the word");
    let mut rest = String::new();
    screen.read_to_string(&mut rest).expect("the rest");
    assert_eq!(person.wait().expect("it ends").code(), Some(3), "{rest}");
    assert!(rest.contains("have changed since the plan was shown"), "{rest}");
    assert!(rest.contains("run the command again: it shows the new plan"), "{rest}");
    fs::write(&ca, own).expect("the CA");
    let file = fs::File::options().write(true).open(&ca).expect("the CA");
    file.set_modified(modified).expect("the time of before");
}
