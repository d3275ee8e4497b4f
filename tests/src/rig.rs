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
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
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

/// How long work on the hosts' network may take; a server that lost power says nothing of it to whoever waits for its answer.
const WIRE_LIMIT: Duration = Duration::from_secs(300);

/// Where racks keep their hosts' disks; each in a directory that its process holds a lock on.
const RACKS: &str = "/var/tmp";
const PREFIX: &str = "prexor-rack-";

/// Hosts `h1`, `h2`, ... They end, with all they hold, when the rack is dropped. When the process is killed a guard ends
/// them, and the next rack removes what they leave: mounts, cgroups, namespaces and disks.
#[derive(Debug)]
pub struct Rack {
    dir: PathBuf,
    network: Network,
    hosts: Vec<Host>,
    guard: Child,
    /// Says that this rack is in use.
    _lock: fs::File,
}

impl Rack {
    /// Starts `count` hosts.
    ///
    /// # Panics
    /// When this machine cannot run hosts, or one does not come up.
    pub fn up(count: u8, needs: &Needs<'_>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "a rack of hosts needs root: namespaces, mounts and cgroups");
        let image = image::root(needs.packages);
        let (dir, lock) = claim();
        let cgroups = dir.join("cgroup");
        fs::create_dir(&cgroups).expect("the rack's directory");
        run(Command::new("mount").args(["-t", "cgroup2", "rack"]).arg(&cgroups));
        fs::create_dir(cgroups_of(&dir)).expect("the rack's cgroup");
        assert!(cgroups_of(&dir).join("cgroup.kill").exists(), "a rack of hosts needs Linux 5.14, for cgroup.kill");
        let network = Network::create(name_of(&dir));
        let guard = guard(&cgroups_of(&dir));
        // From here on the drop removes what there is.
        let mut rack = Self { dir, network, hosts: Vec::new(), guard, _lock: lock };
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

    /// Puts another machine in the place of a host that was killed: with an empty disk, the same address, and a name of its own.
    /// Waits until it is up.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn replace(&mut self, number: usize, hostname: &str) {
        self.hosts[number - 1].replace(hostname);
        self.boot(number);
    }

    /// Lets a host's systemd reboot it, and waits until it is up again.
    ///
    /// # Panics
    /// When it does not go down or come up.
    pub fn reboot(&self, number: usize) {
        self.hosts[number - 1].reboot();
    }

    /// The address of whoever tests, on the hosts' network.
    pub fn seat(&self) -> String {
        Network::address_of_seat()
    }

    /// Runs `work` beside the hosts, on a thread whose sockets are on their network, until it ends by itself.
    pub fn beside_the_hosts(&self, work: impl AsyncFnOnce() + Send + 'static) -> JoinHandle<()> {
        let namespace = self.network.namespace().try_clone_to_owned().expect("the rack's network");
        std::thread::spawn(move || on_network(namespace.as_fd(), 1, work))
    }

    /// Runs `work` on a thread whose sockets are on the hosts' network, with a runtime of its own.
    ///
    /// # Panics
    /// When `work` does or takes longer than five minutes, or there is no such thread to be had.
    pub fn on_the_wire<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let namespace = self.network.namespace();
        std::thread::scope(|scope| {
            let work = async move || tokio::time::timeout(WIRE_LIMIT, work()).await;
            let worker =
                scope.spawn(move || on_network(namespace, 2, work).expect("an end of the work on the hosts' network"));
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        for host in &mut self.hosts {
            self.network.unplug(host.number());
            host.kill();
        }
        remove(&self.dir);
        drop(self.guard.stdin.take());
        // It has nothing left to do.
        let _ = self.guard.wait();
    }
}

/// Runs `work` with a runtime of its own, on a network that is this thread's from now on.
fn on_network<T>(namespace: BorrowedFd<'_>, workers: usize, work: impl AsyncFnOnce() -> T) -> T {
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(namespace, Some(kind)).expect("the rack's network");
    // Its threads inherit the network of this one.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    runtime.expect("a runtime").block_on(work())
}

/// Ends what is in a cgroup when this process ends, however it does: it reads from a pipe that nobody else holds.
fn guard(cgroup: &Path) -> Child {
    let mut guard = Command::new("setsid");
    guard.args(["bash", "-c", r#"read -r; echo 1 >"$0/cgroup.kill""#]).arg(cgroup);
    guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("setsid")
}

/// A directory for a rack of this process, and the lock that says so. What racks left whose processes are gone is removed.
fn claim() -> (PathBuf, fs::File) {
    let racks = fs::File::open(RACKS).expect("a place for the hosts' disks");
    // Nobody takes a directory for left that was made just now.
    rustix::fs::flock(&racks, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    for entry in fs::read_dir(RACKS).expect("racks").flatten() {
        let (path, abandoned) = (entry.path(), rustix::fs::FlockOperation::NonBlockingLockExclusive);
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        if fs::File::open(&path).is_ok_and(|dir| rustix::fs::flock(&dir, abandoned).is_ok()) {
            remove(&path);
        }
    }
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = Path::new(RACKS).join(format!("{PREFIX}{}-{number}", std::process::id()));
    fs::create_dir(&dir).expect("the rack's directory");
    let lock = fs::File::open(&dir).expect("the rack's directory");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    (dir, lock)
}

/// The rack's own name, after its directory; its namespaces and cgroup are called so too.
fn name_of(dir: &Path) -> &str {
    dir.file_name().and_then(|name| name.to_str()).expect("its name was made here")
}

fn cgroups_of(dir: &Path) -> PathBuf {
    dir.join("cgroup").join(name_of(dir))
}

/// Removes all of a rack that is there.
fn remove(dir: &Path) {
    host::end_all(&cgroups_of(dir));
    Network::remove_all(name_of(dir));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        unmount(&entry.path().join("root"));
    }
    unmount(&dir.join("cgroup"));
    run_quietly(Command::new("rm").args(["-rf", "--one-file-system"]).arg(dir));
}

fn unmount(path: &Path) {
    // What ended just now may hold it for a moment.
    within(Duration::from_secs(5), || {
        let mounted = run_quietly(Command::new("mountpoint").arg("-q").arg(path));
        Ok(!mounted || run_quietly(Command::new("umount").arg(path)))
    });
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
fn wait(what: &str, ask: impl FnMut() -> io::Result<bool>) {
    assert!(within(PATIENCE, ask), "waited {PATIENCE:?} for {what}");
}

/// Asks again and again, and says whether there was a yes in time.
fn within(limit: Duration, mut ask: impl FnMut() -> io::Result<bool>) -> bool {
    let begun = Instant::now();
    while !ask().unwrap_or(false) {
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
