//! One server process: started so that it cannot outlive the tests, ended by its pid.

use std::{
    collections::HashSet,
    fs::File,
    io,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A port of 127.0.0.1 that nobody listens on; never the same twice in one process.
///
/// It lies below the range from which the kernel picks ports for outgoing connections, so that none of those can take
/// it before the server does.
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 17_000;
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().expect("no thread panics while it holds this");
    let given = given.get_or_insert_default();
    // Test processes that run side by side begin at different places.
    let start = std::process::id().wrapping_mul(7919).wrapping_add(jiff::Timestamp::now().subsec_nanosecond() as u32);
    (0..COUNT)
        .map(|n| (FIRST + start.wrapping_add(n) % COUNT) as u16)
        .find(|port| !given.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok() && given.insert(*port))
        .expect("one port of many thousands is free")
}

/// Starts `command` with its output appended to `output`. The kernel kills it when this process ends, however it ends.
///
/// Of the command only the program, arguments and environment count.
///
/// # Errors
/// When the program or the log cannot be opened.
///
/// # Panics
/// Never: the thread that starts processes does not end.
pub fn spawn(command: &mut Command, output: &Path) -> io::Result<Child> {
    // The signal is sent when the *thread* that forked ends, and test threads end early. So one thread forks for all.
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, queue) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                // The receiver waits just below.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let out = File::options().create(true).append(true).open(output)?;
    let mut guarded = Command::new("setpriv");
    guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(name, value),
            None => guarded.env_remove(name),
        };
    }

    guarded.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let (answer, child) = mpsc::channel();
    let sent = spawner.lock().expect("no thread panics while it holds this").send((guarded, answer));
    sent.expect("the spawner never ends");
    child.recv().expect("the spawner answers every order")
}

/// Ends a child: asks with `signal`, kills it after `patience`.
pub(super) async fn end(mut child: Child, signal: Signal, patience: Duration) {
    send(child.id(), signal);
    let begun = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if begun.elapsed() > patience {
            kill_now(child);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Kills a child and waits for its end.
pub fn kill_now(mut child: Child) {
    // It may have ended already; either way it is reaped.
    let _ = child.kill();
    let _ = child.wait();
}

/// Sends a signal; a process that is gone is fine.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The last lines of some logs, for a panic's message.
pub(super) fn tails(logs: &[&Path]) -> String {
    let mut text = String::new();
    for log in logs {
        let whole = std::fs::read(log).unwrap_or_default();
        let whole = String::from_utf8_lossy(&whole);
        let lines: Vec<&str> = whole.lines().collect();
        text.push_str(&format!("--- {}\n{}\n", log.display(), lines[lines.len().saturating_sub(25)..].join("\n")));
    }
    text
}
