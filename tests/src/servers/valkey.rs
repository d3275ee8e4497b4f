//! Valkey with a configuration file and a pid file, as a package would run it.
//!
//! A restore stops and starts it through commands of its own ([`Valkey::stop_command`], [`Valkey::start_command`]), so the
//! pid file, not the handle of a child, says which process is ours.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{PATIENCE, SmallDisk, binaries, process, redis_binaries, redis6_binary, wait_for};
use crate::resp::Resp;

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct ValkeyBuilder {
    password: Option<String>,
    settings: Vec<String>,
    kind: Kind,
    rdb: Option<PathBuf>,
    disk: Option<Disk>,
}

#[derive(Debug, Clone, Copy, Default)]
enum Kind {
    #[default]
    Valkey,
    Redis,
    Redis6,
}

/// A disk of its own: where the data is for the server, and for everybody else; the words with which the server begins.
#[derive(Debug, Clone)]
struct Disk {
    inside: PathBuf,
    outside: PathBuf,
    enter: Vec<String>,
}

impl ValkeyBuilder {
    /// `appendonly yes`, as PrexorCloud recommends.
    pub fn append_only(self) -> Self {
        self.setting("appendonly yes").setting("appendfsync everysec")
    }

    /// Clients must give this password.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Redis instead of Valkey.
    pub fn redis(self) -> Self {
        Self { kind: Kind::Redis, ..self }
    }

    /// Redis 6 instead of Valkey.
    pub fn redis6(self) -> Self {
        Self { kind: Kind::Redis6, ..self }
    }

    /// Keeps its data on this disk.
    pub fn disk(self, disk: &SmallDisk) -> Self {
        let disk = Disk { inside: disk.dir(), outside: disk.seen_from_outside(), enter: disk.enter() };
        Self { disk: Some(disk), ..self }
    }

    /// Starts with a copy of this file as its `dump.rdb`.
    pub fn rdb(self, file: &Path) -> Self {
        Self { rdb: Some(file.to_owned()), ..self }
    }

    /// One more line of the configuration file.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }

    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it does not, with the end of its log.
    pub async fn start(self) -> Valkey {
        let dir = tempfile::Builder::new().prefix("prexor-valkey-").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("data")).expect("a directory for the data");
        if let Some(rdb) = &self.rdb {
            fs::copy(rdb, dir.path().join("data/dump.rdb")).expect("a dump to start with");
        }
        let binary = match self.kind {
            Kind::Valkey => &binaries().valkey,
            Kind::Redis => &redis_binaries().0,
            Kind::Redis6 => redis6_binary(),
        };
        let (port, binary) = (process::free_port(), binary.to_owned());
        let mut server = Valkey { port, dir, password: self.password, binary, disk: self.disk, child: None };
        server.write_config(&self.settings);
        server.write_commands();
        server.start().await;
        server
    }
}

/// A running Valkey; ended and removed when dropped.
#[derive(Debug)]
pub struct Valkey {
    port: u16,
    dir: TempDir,
    password: Option<String>,
    binary: PathBuf,
    disk: Option<Disk>,
    child: Option<Child>,
}

impl Valkey {
    /// What to start: plain at first, with the server's own save points.
    pub fn builder() -> ValkeyBuilder {
        ValkeyBuilder::default()
    }

    /// A server without a password, with the append-only file on or off.
    pub async fn plain(append_only: bool) -> Self {
        let builder = Self::builder();
        if append_only { builder.append_only() } else { builder }.start().await
    }

    /// How to connect: `redis://:password@127.0.0.1:port`.
    pub fn uri(&self) -> String {
        let login = self.password.as_ref().map_or(String::new(), |password| format!(":{password}@"));
        format!("redis://{login}127.0.0.1:{}", self.port)
    }

    /// The same address with a wrong password.
    pub fn uri_with_wrong_password(&self) -> String {
        format!("redis://:wrong@127.0.0.1:{}", self.port)
    }

    /// The words that start it.
    pub fn words(&self) -> Vec<String> {
        let enter = self.disk.as_ref().map_or(&[][..], |disk| &disk.enter);
        let own = [&self.binary, &self.config_file()].map(|path| path.display().to_string());
        enter.iter().cloned().chain(own).collect()
    }

    /// The port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps `dump.rdb` and `appendonlydir`.
    pub fn data_dir(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.dir.path().join("data"), |disk| disk.outside.clone())
    }

    /// Its configuration file, which `CONFIG REWRITE` changes.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("valkey.conf")
    }

    /// A connection.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn client(&self) -> Resp {
        Resp::connect(&self.uri()).await.expect("our own server answers")
    }

    /// The server's pid, while it runs, whoever started it.
    pub fn pid(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.dir.path().join("valkey.pid")).ok()?.trim().parse().ok()?;
        // A pid file may be left from a kill, and its number may be another process by now.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(&self.port.to_string()).then_some(pid)
    }

    /// Starts it on the same port and data; does nothing while it runs.
    ///
    /// # Panics
    /// When it does not answer in time, with the end of its log.
    pub async fn start(&mut self) {
        if self.pid().is_some() {
            return;
        }
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        self.child =
            Some(process::spawn(&mut command, &self.dir.path().join("output")).expect("Valkey can be started"));
        let what = format!("Valkey on port {} to answer", self.port);
        let answers = wait_for(&what, PATIENCE, async || {
            if self.cli(&["ping"]).trim() == "PONG" {
                return Some(true);
            }
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            ended.then_some(false)
        });
        assert!(answers.await, "Valkey ended at its start\n{}", self.log_tail());
    }

    /// Ends it in good order, as SHUTDOWN does, whoever started it.
    pub async fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// What `valkey-cli` prints for this command.
    ///
    /// # Panics
    /// When `valkey-cli` cannot be started.
    pub fn cli(&self, args: &[&str]) -> String {
        let output = self.cli_command(args).output().expect("valkey-cli can be started");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `valkey-cli` with these arguments, not yet started.
    pub fn cli_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&binaries().valkey_cli);
        command.args(["-p", &self.port.to_string()]);
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        command.args(args);
        command
    }

    /// A program that starts it and returns when it answers: what a service manager would do.
    pub fn start_command(&self) -> PathBuf {
        self.dir.path().join("service-start")
    }

    /// A program that stops it and returns when it is gone.
    pub fn stop_command(&self) -> PathBuf {
        self.dir.path().join("service-stop")
    }

    /// A program that exits 0 while it runs and 3 while it does not.
    pub fn state_command(&self) -> PathBuf {
        self.dir.path().join("service-state")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("valkey.log")).unwrap_or_default()
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        process::tails(&[&self.dir.path().join("valkey.log"), &self.dir.path().join("output")])
    }

    fn write_config(&self, settings: &[String]) {
        let dir = self.dir.path().display();
        let mut text = format!(
            "bind 127.0.0.1\nport {}\ndir {}\npidfile {dir}/valkey.pid\nlogfile {dir}/valkey.log\n",
            self.port,
            self.disk.as_ref().map_or_else(|| format!("{dir}/data"), |disk| disk.inside.display().to_string())
        );
        if let Some(password) = &self.password {
            text.push_str(&format!("requirepass {password}\n"));
        }
        for line in settings {
            text.push_str(line);
            text.push('\n');
        }
        fs::write(self.config_file(), text).expect("a configuration file");
    }

    fn write_commands(&self) {
        let dir = self.dir.path().display();
        let server = self.binary.display();
        let alive = format!(
            "alive() {{ pid=$(cat '{dir}/valkey.pid' 2>/dev/null) && grep -aq ':{}' \"/proc/$pid/cmdline\" 2>/dev/null; }}",
            self.port
        );
        let write = |path: &Path, body: &str| {
            fs::write(path, format!("#!/bin/sh\n{alive}\n{body}\n")).expect("a script");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a script can be made executable");
        };
        let auth = self.password.as_ref().map_or(String::new(), |p| format!("REDISCLI_AUTH='{p}' "));
        let ping = format!("{auth}'{}' -p {} ping 2>/dev/null", binaries().valkey_cli.display(), self.port);
        write(
            &self.start_command(),
            &format!(
                "alive || '{server}' '{dir}/valkey.conf' --daemonize yes >>'{dir}/output' 2>&1 || exit 1\n\
                 i=0\nuntil [ \"$({ping})\" = PONG ]; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done"
            ),
        );
        write(
            &self.stop_command(),
            "i=0\nalive && kill \"$pid\"\nwhile alive; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done",
        );
        write(&self.state_command(), "alive && exit 0\nexit 3");
    }

    fn end(&mut self, signal: Signal) {
        if let Some(pid) = self.pid() {
            process::send(pid, signal);
        }
        let begun = Instant::now();
        while self.pid().is_some() && begun.elapsed() < PATIENCE {
            // A child that nobody has waited for would stay in /proc.
            if let Some(child) = &mut self.child {
                let _ = child.try_wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(child) = self.child.take() {
            process::kill_now(child);
        }
    }
}

impl Drop for Valkey {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_survive_a_restart_by_handle_and_by_command() {
        let mut server = Valkey::builder().append_only().password("s3cret").start().await;
        assert_eq!(server.cli(&["set", "prexor:v1:k", "v"]).trim(), "OK");
        server.stop().await;
        assert_eq!(server.pid(), None);
        server.start().await;
        assert!(Command::new(server.stop_command()).status().unwrap().success());
        assert_eq!(server.pid(), None);
        assert_eq!(Command::new(server.state_command()).status().unwrap().code(), Some(3));
        assert!(Command::new(server.start_command()).status().unwrap().success());
        assert!(Command::new(server.state_command()).status().unwrap().success());
        assert_eq!(server.cli(&["get", "prexor:v1:k"]).trim(), "v");
        assert_eq!(server.client().await.call(&["PING"]).await.unwrap().text(), "PONG");
        let port = server.port();
        drop(server);
        // The kernel closes a killed process's sockets a moment after its command line is gone.
        let free = async || std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
        crate::servers::wait_until("the port to be free", PATIENCE, free).await;
    }
}
