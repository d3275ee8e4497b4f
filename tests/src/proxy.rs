//! A network between two programs that can be cut and healed: a TCP proxy that forwards, or holds everything back.
//!
//! Cut, it neither closes connections nor answers: packets are lost on the way, as when a cable is pulled.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// How long a thread sleeps before it looks again.
const PAUSE: Duration = Duration::from_millis(5);

/// Forwards from one port of 127.0.0.1 to another, as long as it lives.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    cut: AtomicBool,
    over: AtomicBool,
    forwarded: AtomicU64,
}

impl Proxy {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub fn start(to: u16) -> Self {
        let port = crate::servers::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener");
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || accept(&listener, to, &shared));
        Self { port, state }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds everything back.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
    }

    /// Forwards again, also what was held back.
    pub fn heal(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// Bytes that went through in either direction.
    pub fn forwarded(&self) -> u64 {
        self.state.forwarded.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
    }
}

fn accept(listener: &TcpListener, to: u16, state: &Arc<State>) {
    while !state.over.load(Ordering::SeqCst) {
        let cut = state.cut.load(Ordering::SeqCst);
        let Some((near, _)) = (!cut).then(|| listener.accept().ok()).flatten() else {
            std::thread::sleep(PAUSE);
            continue;
        };
        let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
        for stream in [&near, &far] {
            stream.set_nonblocking(false).expect("a socket");
            stream.set_nodelay(true).expect("a socket");
            stream.set_read_timeout(Some(PAUSE)).expect("a socket");
        }
        let (near2, far2) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
        let (there, back) = (state.clone(), state.clone());
        std::thread::spawn(move || copy(near, far, &there));
        std::thread::spawn(move || copy(far2, near2, &back));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    while !state.over.load(Ordering::SeqCst) {
        if state.cut.load(Ordering::SeqCst) {
            std::thread::sleep(PAUSE);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(n) if n > 0 && to.write_all(&buffer[..n]).is_ok() => {
                state.forwarded.fetch_add(n as u64, Ordering::SeqCst);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    // The other direction ends with this one.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
