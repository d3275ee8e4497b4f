//! A rack of small Debian hosts on one machine, for what needs more than one host: each has a real systemd as PID 1, a disk,
//! an address and a network stack of its own, can be cut off, killed and booted.
//!
//! A host is a systemd-nspawn container over a Debian root that is built once and shared; its own changes are kept in an overlay. All
//! hosts hang on one bridge in a network namespace without a way out. Needs to be root. It knows nothing of backups.

mod host;
mod image;
mod network;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

pub use host::Host;
use network::Network;

use crate::servers::PATIENCE;

/// What a rack is made of.
#[derive(Debug, Clone, Default)]
pub struct Needs<'a> {
    /// Debian packages beyond systemd and the network's tools. Their services are not enabled.
    pub packages: &'a [&'a str],
    /// Directories of this machine that every host sees under the same path, and cannot change.
    pub shared: Vec<PathBuf>,
}

/// Hosts `h1`, `h2`, ... They end, with all they hold, when the rack is dropped.
#[derive(Debug)]
pub struct Rack {
    dir: PathBuf,
    network: Network,
    hosts: Vec<Host>,
}

impl Rack {
    /// Starts `count` hosts. Of racks of the same name there is one at a time: what is left of an earlier one is removed.
    ///
    /// # Panics
    /// When a host does not come up.
    pub fn up(name: &str, count: u8, needs: &Needs<'_>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "a rack of hosts needs root");
        let image = image::root(needs.packages);
        let dir = PathBuf::from("/var/tmp").join(format!("prexor-rack-{name}"));
        remove(&dir, name);
        fs::create_dir_all(dir.join("cgroup")).expect("the rack's directory");
        run(Command::new("mount").args(["-t", "cgroup2", "rack"]).arg(dir.join("cgroup")));
        let network = Network::create(name);
        let mut rack = Self { dir, network, hosts: Vec::new() };
        for number in 1..=count {
            rack.hosts.push(Host::create(&rack.dir, &rack.network, number, &image, &needs.shared));
        }
        for host in &rack.hosts {
            host.wait_until_up();
        }
        rack
    }

    /// The host with this number, from 1.
    ///
    /// # Panics
    /// When there is none.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number - 1]
    }

    /// All of them.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Loses every packet between two hosts, or of one host altogether: silence, no reset.
    pub fn cut(&mut self, host: usize, peer: Option<usize>) {
        self.network.cut(host, peer);
    }

    /// Ends all cuts.
    pub fn heal(&mut self) {
        self.network.heal();
    }

    /// A power cut for one host: its link goes, then everything on it gets SIGKILL. Its disk stays.
    pub fn kill(&mut self, number: usize) {
        self.network.unplug(number);
        self.hosts[number - 1].kill();
    }

    /// Switches a host on again and waits until it is up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(&mut self, number: usize) {
        self.hosts[number - 1].boot(&self.network);
        self.hosts[number - 1].wait_until_up();
    }

    /// Runs `work` on a thread whose sockets are on the hosts' network, with a runtime of its own.
    ///
    /// # Panics
    /// When `work` does, or there is no such thread to be had.
    pub fn on_the_wire<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let namespace = self.network.namespace();
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(namespace, Some(kind)).expect("the rack's network");
                // Its threads inherit the network of this one.
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                runtime.expect("a runtime").block_on(work())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            host.kill();
        }
        self.network.remove();
        remove_dir(&self.dir);
    }
}

/// Removes what a rack of this name left behind when its process was killed.
fn remove(dir: &Path, name: &str) {
    if let Ok(entries) = fs::read_dir(dir.join("cgroup").join("hosts")) {
        entries.flatten().for_each(|cgroup| host::end_all(&cgroup.path()));
    }
    Network::remove_all(name);
    remove_dir(dir);
}

fn remove_dir(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for root in entries.flatten().map(|e| e.path().join("root")).filter(|p| p.exists()) {
        unmount(&root);
    }
    let hosts = dir.join("cgroup/hosts");
    // Of a cgroup only the directories can be removed, the deepest first.
    run_quietly(Command::new("find").arg(&hosts).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]));
    unmount(&dir.join("cgroup"));
    run_quietly(Command::new("rm").args(["-rf", "--one-file-system"]).arg(dir));
}

fn unmount(path: &Path) {
    for _ in 0..100 {
        if !run_quietly(Command::new("mountpoint").arg("-q").arg(path)) {
            return;
        }
        run_quietly(Command::new("umount").arg(path));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command of this machine that has to work.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that may fail, such as the removal of what may not be there. Whether it worked.
fn run_quietly(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

/// Asks again and again, without a runtime.
fn wait(what: &str, mut ask: impl FnMut() -> io::Result<bool>) {
    let begun = std::time::Instant::now();
    while !ask().unwrap_or(false) {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
