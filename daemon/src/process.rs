//! This process as its surroundings see it: the umask it writes with, and whether it is ready.

use std::io;

use rustix::{
    fs::Mode,
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
};
use sd_notify::NotifyState;

/// From here on, files and directories are created for their owner only (umask 077).
pub fn private_files() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// From here on, a crash leaves no memory behind, in which keys are: no core file is written, and with `sealed` no handler
/// of the system gets one either and no other process of the same user can look into this one.
///
/// `sealed` also takes `/proc/self` away from processes that do not run as root.
///
/// # Errors
/// If the system does not let it.
pub fn no_dumps(sealed: bool) -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    if sealed {
        set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    }
    Ok(())
}

/// From here on, as many files and connections can be open as the system allows this process: the usual limit of 1024 is
/// below what the listeners take.
///
/// # Errors
/// If the system does not let it.
pub fn many_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}

/// Tells the service manager that the daemon serves (`READY=1` to `NOTIFY_SOCKET`, see sd_notify(3)).
///
/// Without a service manager it does nothing.
///
/// # Errors
/// If the socket is named but cannot be written to.
pub fn ready() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Ready])
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
        path::Path,
        process::Command,
        time::Duration,
    };

    use super::*;

    /// What changes the process as a whole runs in one of its own: this test again, told where to leave its traces.
    #[test]
    fn a_daemon_says_ready_and_writes_for_its_owner_only() {
        const CHILD: &str = "PREXOR_TEST_CHILD";
        if let Some(dir) = std::env::var_os(CHILD) {
            private_files();
            no_dumps(true).unwrap();
            many_files().unwrap();
            let files = getrlimit(Resource::Nofile);
            assert_eq!(files.current, files.maximum);
            let limits = fs::read_to_string("/proc/self/limits").unwrap();
            let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
            assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
            fs::write(Path::new(&dir).join("file"), "").unwrap();
            fs::create_dir(Path::new(&dir).join("dir")).unwrap();
            return ready().unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::tests::a_daemon_says_ready_and_writes_for_its_owner_only"])
            .env(CHILD, dir.path())
            .env("NOTIFY_SOCKET", &socket)
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let mut message = [0; 64];
        let n = manager.recv(&mut message).unwrap();
        assert_eq!(message[..n].trim_ascii(), b"READY=1");
        for (name, mode) in [("file", 0o600), ("dir", 0o700)] {
            let found = fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{name}");
        }
    }

    #[test]
    fn without_a_service_manager_ready_is_quiet() {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            ready().unwrap();
        }
    }
}
