//! The controller's version, by a command from the configuration: PrexorCloud's files do not say it.

use std::time::Duration;

use super::command;

/// How long the command may take: well below what the coordinator gives the whole agent.
const TIMEOUT: Duration = Duration::from_secs(8);

/// What a command says: the first word of its output that begins with a digit, else its first line. `None`, with a warning,
/// where it says nothing.
pub async fn of(argv: &[String]) -> Option<String> {
    if argv.is_empty() {
        return None;
    }
    let found = command::run_ok(argv, TIMEOUT).await.map(|done| version_in(&done.stdout));
    match found {
        Ok(Some(version)) => Some(version),
        Ok(None) => {
            tracing::warn!(command = argv.join(" "), "controller.version_command says nothing");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "the controller's version is not known");
            None
        }
    }
}

fn version_in(output: &str) -> Option<String> {
    let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let words = output.split_whitespace().map(|word| word.trim_start_matches('v').trim_end_matches([',', ';', ')']));
    let line = || output.lines().map(str::trim).find(|line| !line.is_empty());
    words.into_iter().find(number).or_else(line).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (output, version) in [
            ("1.0.1", Some("1.0.1")),
            ("PrexorCloud controller v1.0.1-rc2 (build 77)\n", Some("1.0.1-rc2")),
            ("1:1.0.1-1~deb12u1\n", Some("1:1.0.1-1~deb12u1")),
            ("snapshot\n", Some("snapshot")),
            (" \n", None),
        ] {
            assert_eq!(version_in(output).as_deref(), version, "{output}");
        }
    }

    #[tokio::test]
    async fn a_command_that_fails_says_no_version() {
        let argv = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(of(&argv(&["echo", "1.2.3"])).await.as_deref(), Some("1.2.3"));
        assert_eq!(of(&argv(&["false"])).await, None);
        assert_eq!(of(&[]).await, None);
    }
}
