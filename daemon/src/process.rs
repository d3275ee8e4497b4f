//! This process as its surroundings see it: the umask it writes with, and whether it is ready.

use std::io;

use rustix::fs::Mode;
use sd_notify::NotifyState;

/// From here on, files and directories are created for their owner only (umask 077).
pub fn private_files() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
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
