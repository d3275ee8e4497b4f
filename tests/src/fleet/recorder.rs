//! What stands for a daemon on another machine: it remembers the highest fencing numbers of the commands that it was given, and
//! takes none that bears a lower one.
//!
//! A command is a line of three numbers: the controller's process, the leader's epoch and the lease's token (0 in
//! the profile without Valkey). The answer is `OK` or `STALE_EPOCH`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::rig::Rack;

const PORT: u16 = 9091;

/// A command as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// The controller's process.
    pub run: i64,
    /// Its leader's epoch.
    pub epoch: i64,
    /// Its lease's token.
    pub token: i64,
    /// Whether it was taken.
    pub taken: bool,
}

/// See the module's text. It ends when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    /// Where controllers reach it.
    pub address: String,
    taken: Arc<Mutex<Vec<Command>>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Listens on the hosts' network.
    pub(super) fn start(rack: &Rack) -> Self {
        let (taken, address) = (Arc::<Mutex<Vec<Command>>>::default(), format!("{}:{PORT}", rack.seat()));
        let (end, ended) = oneshot::channel();
        let (log, place) = (taken.clone(), address.clone());
        let thread = rack.beside_the_hosts(async move || {
            let listener = TcpListener::bind(&place).await.expect("the recorder's place");
            tokio::select! {
                () = listen(listener, log) => {}
                // Whoever held the other end has gone.
                _ = ended => {}
            }
        });
        Self { address, taken, end: Some(end), thread: Some(thread) }
    }

    /// Every command so far.
    pub fn commands(&self) -> Vec<Command> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.end.take());
        // It has nothing left to say.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn listen(listener: TcpListener, log: Arc<Mutex<Vec<Command>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let log = log.clone();
        tokio::spawn(async move {
            // A controller that is killed in the middle of a line has said nothing.
            let _ = serve(stream, &log).await;
        });
    }
}

async fn serve(mut stream: TcpStream, log: &Mutex<Vec<Command>>) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let numbers: Vec<i64> = line.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [run, epoch, token] = numbers[..] else { return Ok(()) };
        let answer = match take(&mut log.lock().unwrap_or_else(PoisonError::into_inner), run, epoch, token) {
            true => "OK\n",
            false => "STALE_EPOCH\n",
        };
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// Whether nothing newer was ever taken.
fn take(log: &mut Vec<Command>, run: i64, epoch: i64, token: i64) -> bool {
    let newer = |c: &Command| c.taken && (c.epoch > epoch || c.token > token);
    let taken = !log.iter().rev().any(newer);
    log.push(Command { run, epoch, token, taken });
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_stale() {
        let mut log = Vec::new();
        let taken = [(41, 7), (41, 7), (42, 7), (41, 8), (43, 6), (43, 9)].map(|(e, t)| take(&mut log, 1, e, t));
        assert_eq!(taken, [true, true, true, false, false, true]);
        assert_eq!(log.len(), 6);
    }
}
