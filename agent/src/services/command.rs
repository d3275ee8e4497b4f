//! Runs one command with a time limit and without a shell.

use std::{process::Stdio, time::Duration};

use super::ServiceError;

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
    let child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| ServiceError(format!("`{line}` could not be started: {e}")))?;
    let output = tokio::time::timeout(timeout, child.wait_with_output())
        .await
        .map_err(|_| ServiceError(format!("`{line}` did not end within {} s", timeout.as_secs())))?
        .map_err(|e| ServiceError(format!("`{line}`: {e}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(Finished { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
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
