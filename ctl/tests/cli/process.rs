//! The program without a coordinator: exit codes, where contexts are found, and verbs that are not ours.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::scripted::{Said, Scripted, ctl};
use prexor_transport::context::Contexts;

fn run(config: &Path, args: &[&str]) -> Said {
    ctl(config).args(args).output().unwrap().into()
}

#[test]
fn help_and_version_are_results() {
    let none = Path::new("/nonexistent/config.yml");
    let help = run(none, &["--help"]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    assert!(help.out.contains("Exit codes:\n    0  done\n") && help.out.contains("\n  127  "), "{}", help.out);
    assert_eq!(run(none, &["version"]).out, format!("prexorctl {}\n", env!("CARGO_PKG_VERSION")));
    assert!(run(none, &["version", "--json"]).out.contains("\"version\""));
    assert!(run(none, &["completion", "bash"]).out.contains("complete -F"));
}

#[test]
fn wrong_usage_exits_with_2() {
    let none = Path::new("/nonexistent/config.yml");
    for args in
        [&[][..], &["backup"], &["backup", "show"], &["backup", "show", "../etc"], &["restore", "latest", "--nope"]]
    {
        let said = run(none, args);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{args:?}");
    }
    let said = run(none, &["backup", "show", "../etc", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!((said.code, &error["error"]["exit_code"]), (Some(2), &2.into()));
    let said = run(none, &["backup", "delete", "bk-2026-05-10-001"]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("--yes"), "{}", said.err);
}

#[test]
fn contexts_are_found_or_named() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(&dir.path().join("none.yml"), &["status"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.starts_with("error: no context file: looked for ") && said.err.contains("\nhint: "),
        "{}",
        said.err
    );

    let user = dir.path().join(".config/prexorctl/config.yml");
    fs::create_dir_all(user.parent().unwrap()).unwrap();
    fs::write(&user, "current: default\nurl: x\ncontexts: {}\n").unwrap();
    let said: Said = ctl(Path::new(""))
        .env_remove("PREXORCTL_CONFIG")
        .env_remove("XDG_CONFIG_HOME")
        .env("HOME", dir.path())
        .arg("status")
        .output()
        .unwrap()
        .into();
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains(".config/prexorctl/config.yml is not valid"), "{}", said.err);
}

#[test]
fn a_context_without_credential_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yml");
    fs::write(&config, "current: a\ncontexts: {a: {endpoints: [\"127.0.0.1:1\"], cluster: c, credential: here}}\n")
        .unwrap();
    let said = run(&config, &["status"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("/here"), "{}", said.err);
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_named_and_another_takes_over() {
    let there = Scripted::start().await;
    let mut contexts = Contexts::load(&there.config()).unwrap();
    let endpoints = &mut contexts.contexts.get_mut("default").unwrap().endpoints;
    let good = std::mem::replace(endpoints, vec!["127.0.0.1:1".into()]);
    contexts.save(&there.config()).unwrap();
    let said = there.run(&["backup", "list"]).await;
    assert_eq!(said.code, Some(5), "{said:?}");
    assert!(said.err.contains("127.0.0.1:1") && said.err.contains("hint: "), "{}", said.err);

    contexts.contexts.get_mut("default").unwrap().endpoints.extend(good);
    contexts.save(&there.config()).unwrap();
    assert_eq!(there.run(&["backup", "list"]).await.code, Some(0));
}

#[test]
fn verbs_that_are_not_ours_go_to_the_platforms_cli() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yml");
    let write = |platform: &str| {
        let contexts = "current: a\ncontexts: {a: {endpoints: [\"127.0.0.1:1\"], cluster: c, credential: here}}\n";
        fs::write(&config, format!("{contexts}{platform}")).unwrap();
    };
    write("");
    let said = run(&config, &["group", "list"]);
    assert_eq!((said.code, said.out.as_str()), (Some(127), ""));
    assert!(said.err.contains("'group'") && said.err.contains("platform_cli"), "{}", said.err);

    let script = dir.path().join("platform");
    fs::write(&script, "#!/bin/sh\necho \"$#: $*\"\nexit 7\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    write(&format!("platform_cli: [\"{}\", --plain]\n", script.display()));
    let said = run(&config, &["crash", "list", "--since", "1 day ago", "--json"]);
    assert_eq!((said.code, said.out.as_str()), (Some(7), "6: --plain crash list --since 1 day ago --json\n"));

    write("platform_cli: [/nonexistent/prexor]\n");
    assert_eq!(run(&config, &["group"]).code, Some(127));
    // Ours by mistake: it is not called for ever.
    write(&format!("platform_cli: [\"{}\"]\n", env!("CARGO_BIN_EXE_prexorctl")));
    let said = run(&config, &["group"]);
    assert_eq!(said.code, Some(127));
    assert!(said.err.contains("this program"), "{}", said.err);
}
