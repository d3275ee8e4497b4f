//! Runs one command with a time limit and without a shell.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    process::Stdio,
    time::Duration,
};

use super::ServiceError;

/// How much of a command's output is kept.
const MAX_OUTPUT: u64 = 64 << 10;

/// What a command said.
pub(super) struct Finished {
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs `argv` to its end. It gets no standard input; on time-out it is killed.
pub(super) async fn run(argv: &[String], timeout: Duration) -> Result<Finished, ServiceError> {
    let line = argv.join(" ");
    let (program, args) = argv.split_first().ok_or_else(|| ServiceError("an empty command".into()))?;
    // Files, not pipes: a server that a command starts in the background would keep a pipe open for ever.
    let failed = |e: std::io::Error| ServiceError(format!("`{line}` could not be started: {e}"));
    let (out, err) = (tempfile::tempfile().map_err(failed)?, tempfile::tempfile().map_err(failed)?);
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::from(out.try_clone().map_err(failed)?))
        .stderr(Stdio::from(err.try_clone().map_err(failed)?))
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let status = tokio::time::timeout(timeout, child.wait())
        .await
        .map_err(|_| ServiceError(format!("`{line}` did not end within {} s", timeout.as_secs())))?
        .map_err(|e| ServiceError(format!("`{line}`: {e}")))?;
    Ok(Finished { code: status.code(), stdout: text(out), stderr: text(err) })
}

/// The beginning of what a command wrote.
fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    // What cannot be read back is only missing from a message.
    let _ = file.rewind().and_then(|()| file.take(MAX_OUTPUT).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// As [`run`], and anything but exit code 0 is an error that quotes the command's last words.
pub(super) async fn run_ok(argv: &[String], timeout: Duration) -> Result<Finished, ServiceError> {
    let done = run(argv, timeout).await?;
    match done.code {
        Some(0) => Ok(done),
        code => {
            let how = code.map_or("was killed".to_owned(), |c| format!("exited with {c}"));
            Err(ServiceError(format!("`{}` {how}: {}", argv.join(" "), done.stderr)))
        }
    }
}
