//! One host: its disk, its PID 1, and what is typed on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Network, cgroups_of, run, run_quietly, unmount, wait, within};
use crate::{
    cluster::Said,
    servers::{PATIENCE, kill_now},
};

/// How long a command may last that is typed on a host.
const COMMAND_LIMIT: Duration = Duration::from_secs(600);

/// Gives a container a cgroup hierarchy and a `/run/systemd` of its own, and starts it again when it reboots (133).
/// Its arguments are the host's cgroup and those of systemd-nspawn.
const LAUNCH: &str = r#"
mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit
while (echo $BASHPID >"$0/cgroup.procs" && exec systemd-nspawn "$@"); [ $? = 133 ]; do :; done"#;

/// See the module's text.
#[derive(Debug)]
pub struct Host {
    number: usize,
    /// What it is called: `h1`.
    pub name: String,
    /// What its system calls itself.
    hostname: String,
    /// On the rack's network.
    pub address: String,
    dir: PathBuf,
    image: PathBuf,
    cgroup: PathBuf,
    namespace: String,
    shared: Vec<PathBuf>,
    launcher: Option<Child>,
}

impl Host {
    pub(super) fn create(rack: &Path, network: &Network, number: u8, image: &Path, shared: &[PathBuf]) -> Self {
        let number = usize::from(number);
        let name = format!("h{number}");
        let dir = rack.join(&name);
        let cgroup = cgroups_of(rack).join(&name);
        let namespace = network.namespace_of(number);
        let shared = shared.to_vec();
        let address = Network::address(number);
        let (hostname, image) = (name.clone(), image.to_owned());
        let mut host = Self { number, name, hostname, address, dir, image, cgroup, namespace, shared, launcher: None };
        host.new_disk();
        host.boot(network);
        host
    }

    /// Another machine in the place of this one, which must be off: with an empty disk and a name of its own. It is not booted.
    pub(super) fn replace(&mut self, hostname: &str) {
        unmount(&self.root());
        for part in ["upper", "work"] {
            fs::remove_dir_all(self.dir.join(part)).expect("the host's disk");
        }
        hostname.clone_into(&mut self.hostname);
        self.new_disk();
    }

    fn new_disk(&self) {
        for part in ["upper/etc", "work", "root"] {
            fs::create_dir_all(self.dir.join(part)).expect("the host's disk");
        }
        fs::write(self.dir.join("upper/etc/hostname"), format!("{}\n", self.hostname)).expect("the host's name");
        fs::write(self.dir.join("upper/etc/hosts"), Network::names()).expect("the hosts' names");
        let layers = |part: &str| self.dir.join(part).display().to_string();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", self.image.display(), layers("upper"), layers("work"));
        run(Command::new("mount").args(["-t", "overlay", "rack", "-o", &options]).arg(self.root()));
    }

    /// Switches it on; [`Host::wait_until_up`] waits for it.
    pub(super) fn boot(&mut self, network: &Network) {
        network.plug(self.number);
        fs::create_dir_all(&self.cgroup).expect("the host's cgroup");
        let console = fs::File::options().create(true).append(true).open(self.console()).expect("the host's console");
        let mut launch = Command::new("unshare");
        launch.args(["--mount", "--propagation", "slave", "setsid", "bash", "-c", LAUNCH]).arg(&self.cgroup);
        launch.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--capability=CAP_NET_ADMIN"]);
        launch.args(["--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]);
        launch.arg(format!("--directory={}", self.root().display()));
        launch.arg(format!("--machine={}", self.namespace)).arg(format!("--hostname={}", self.hostname));
        launch.arg(format!("--network-namespace-path=/run/netns/{}", self.namespace));
        launch.args(self.shared.iter().map(|path| format!("--bind-ro={}", path.display())));
        launch.stdin(Stdio::null()).stderr(console.try_clone().expect("the console")).stdout(console);
        self.launcher = Some(launch.spawn().expect("unshare"));
    }

    /// Waits until systemd has started what it starts.
    ///
    /// # Panics
    /// When it does not come so far.
    pub fn wait_until_up(&self) {
        let mut state = String::new();
        let up = within(PATIENCE, || {
            let socket = |pid| format!("/proc/{pid}/root/run/systemd/private");
            if self.init().is_some_and(|pid| Path::new(&socket(pid)).exists()) {
                let said = self.exec_within(PATIENCE, &["systemctl", "is-system-running", "--wait"]);
                state = said.map_or_else(|| "not done with starting".to_owned(), |said| said.out.trim().to_owned());
            }
            Ok(matches!(state.as_str(), "running" | "degraded"))
        });
        let console = fs::read_to_string(self.console()).unwrap_or_default();
        assert!(up, "{} does not come up, its systemd is '{state}':\n{console}", self.name);
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// What `systemctl reboot` does.
    pub(super) fn reboot(&self) {
        let before = self.init();
        // The command may be ended by what it asks for.
        self.exec(&["systemctl", "reboot"]);
        wait(&format!("{} to go down", self.name), || Ok(self.init() != before));
        self.wait_until_up();
    }

    /// A power cut, but for the link: everything on it gets SIGKILL. Its disk stays.
    pub(super) fn kill(&mut self) {
        end_all(&self.cgroup);
        // The launcher ends by itself once nspawn was killed; not having been there any more is as good.
        self.launcher.take().into_iter().for_each(kill_now);
    }

    /// A command for this host that is yet to be started.
    ///
    /// # Panics
    /// When the host is off.
    pub fn command(&self, argv: &[&str]) -> Command {
        let init = self.init().unwrap_or_else(|| panic!("{} is off", self.name));
        let mut command = Command::new("nsenter");
        command.args([
            "-t",
            &init.to_string(),
            "-a",
            "--",
            "env",
            "-i",
            "HOME=/root",
            "LANG=C.UTF-8",
            "SYSTEMD_PAGER=",
        ]);
        command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").args(argv);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command on it.
    ///
    /// # Panics
    /// When the host is off, or the command lasts longer than ten minutes.
    pub fn exec(&self, argv: &[&str]) -> Said {
        let said = self.exec_within(COMMAND_LIMIT, argv);
        said.unwrap_or_else(|| panic!("{}: {argv:?} has not ended after {COMMAND_LIMIT:?}", self.name))
    }

    /// Runs a command on it and ends that, with SIGKILL, when it lasts longer; then it has said nothing.
    ///
    /// # Panics
    /// When the host is off.
    pub fn exec_within(&self, limit: Duration, argv: &[&str]) -> Option<Said> {
        let (begun, seconds) = (Instant::now(), limit.as_secs().to_string());
        let mut command = self.command(&[&["timeout", "--signal=KILL", &seconds], argv].concat());
        let said: Said = command.output().unwrap_or_else(|e| panic!("{}: {argv:?}: {e}", self.name)).into();
        (begun.elapsed() < limit).then_some(said)
    }

    /// Where its disk is seen from here, also while it is off.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Where a path of the host is seen from here.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Writes a file on its disk, with the directories above it.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory on the host");
        fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// The pid of its systemd, as seen from here.
    fn init(&self) -> Option<u32> {
        let pids = fs::read_to_string(self.cgroup.join("payload/init.scope/cgroup.procs")).ok()?;
        pids.lines().next()?.parse().ok()
    }
}

/// Ends every process in a cgroup and below, and removes it. What could not be ended stays for the next rack to remove.
pub(super) fn end_all(cgroup: &Path) {
    if !cgroup.exists() || fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
        return;
    }
    within(Duration::from_secs(20), || {
        // Of a cgroup only the directories can be removed, the deepest first.
        run_quietly(Command::new("find").arg(cgroup).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]));
        Ok(!cgroup.exists())
    });
}
