//! The agent's configuration: found to be writable before the token is spent, written afterwards.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::Enrolment;
use crate::{cli::SetupArgs, failure::Failure, hints::Hint};

/// What setup decides. Everything else has defaults that the agent knows.
#[derive(Serialize)]
struct AgentConfig<'a> {
    node: &'a str,
    cluster: &'a str,
    listen: SocketAddr,
    state_dir: &'a Path,
    coordinator: &'a str,
    advertise: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<Controller<'a>>,
}

#[derive(Serialize)]
struct Controller<'a> {
    root: &'a Path,
}

/// Refuses to replace what is there, unless forced.
pub(super) fn check(args: &SetupArgs) -> Result<(), Failure> {
    for (name, path) in [("--config", &args.config), ("--state-dir", &args.state_dir)] {
        if !path.is_absolute() {
            return Err(Failure::usage(format!("{name} must be an absolute path")));
        }
    }
    if args.root.as_ref().is_some_and(|root| !root.is_absolute()) {
        return Err(Failure::usage("--root must be an absolute path"));
    }
    if args.force {
        return Ok(());
    }
    for path in [&args.config, &args.state_dir.join("credential/current")] {
        if path.symlink_metadata().is_ok() {
            let message = format!("{} is there already: this host seems to be enrolled", path.display());
            return Err(Failure::local(message).hint(Hint::Force));
        }
    }
    Ok(())
}

/// Makes the directories and finds out whether they can be written.
pub(super) fn prepare(args: &SetupArgs) -> Result<(), Failure> {
    let cannot = |path: &Path| {
        let path = path.display().to_string();
        move |e: io::Error| {
            let root = if e.kind() == io::ErrorKind::PermissionDenied { ": run setup as root" } else { "" };
            Failure::local(format!("cannot write to {path}: {e}{root}"))
        }
    };
    let directory = directory(&args.config);
    fs::create_dir_all(directory).map_err(cannot(directory))?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&args.state_dir).map_err(cannot(&args.state_dir))?;
    for dir in [directory, &args.state_dir] {
        let probe = dir.join(format!(".prexorctl-{}", std::process::id()));
        fs::write(&probe, "").and_then(|()| fs::remove_file(&probe)).map_err(cannot(dir))?;
    }
    Ok(())
}

/// Writes the configuration, whole or not at all. A former one is kept beside it; its path is returned.
pub(super) fn write(args: &SetupArgs, enrolment: &Enrolment, cluster: &str) -> Result<Option<PathBuf>, Failure> {
    let config = AgentConfig {
        node: enrolment.node.as_str(),
        cluster,
        listen: args.listen,
        state_dir: &args.state_dir,
        coordinator: &enrolment.coordinator,
        advertise: &enrolment.advertise,
        controller: args.root.as_deref().map(|root| Controller { root }),
    };
    let yaml = serde_saphyr::to_string(&config).map_err(Failure::contract)?;
    let text = format!(
        "# Written by `prexorctl setup`. MongoDB, Valkey and the files are found in PrexorCloud's controller.yml;\n\
         # what is set here under mongo, valkey, filesystem and services wins.\n{}\n",
        yaml.trim_end()
    );
    replace(&args.config, text.as_bytes())
        .map_err(|e| Failure::local(format!("cannot write {}: {e}", args.config.display())))
}

fn replace(path: &Path, text: &[u8]) -> io::Result<Option<PathBuf>> {
    let with = |suffix: &str| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        path.with_file_name(name)
    };
    let (new, old) = (with(".new"), with(".old"));
    // Mode 0600 from the start: connection strings with passwords may be added to it.
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    io::Write::write_all(&mut file, text)?;
    file.sync_all()?;
    let kept = path.exists();
    if kept {
        fs::rename(path, &old)?;
    }
    fs::rename(&new, path)?;
    fs::File::open(directory(path))?.sync_all()?;
    Ok(kept.then_some(old))
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn args(dir: &Path, more: &str) -> SetupArgs {
        let dir = dir.display();
        let line = format!("prexorctl setup --config {dir}/etc/agent.yml --state-dir {dir}/state{more}");
        match Cli::try_parse_from(line.split(' ')).unwrap().verb {
            Verb::Setup(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_there_is_not_replaced_unless_forced() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, forced) = (args(dir.path(), ""), args(dir.path(), " --force --root /opt/prexorcloud/controller"));
        let enrolment = Enrolment {
            coordinator: "c1:9444".into(),
            token: prexor_certs::EnrolmentToken::generate(prexor_format::digest::Sha256Digest::of(b"a root")),
            node: "h1".parse().unwrap(),
            hostname: "host".into(),
            advertise: "host:9445".into(),
        };
        check(&plain).unwrap();
        prepare(&plain).unwrap();
        assert_eq!(fs::metadata(&plain.state_dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(write(&plain, &enrolment, "prexorcloud").unwrap(), None);
        assert_eq!(fs::metadata(&plain.config).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&plain.config).unwrap();
        assert!(text.contains("node: h1\ncluster: prexorcloud\nlisten: ") && !text.contains("controller:"), "{text}");

        let refused = check(&plain).unwrap_err();
        assert!(refused.message.contains("agent.yml") && refused.hint == Some(Hint::Force), "{refused:?}");
        check(&forced).unwrap();
        let kept = write(&forced, &enrolment, "prexorcloud").unwrap().unwrap();
        assert_eq!(fs::read_to_string(kept).unwrap(), text);
        assert!(fs::read_to_string(&forced.config).unwrap().contains("root: /opt/prexorcloud/controller"));
        assert_eq!(fs::read_dir(dir.path().join("etc")).unwrap().count(), 2);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_found_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("etc"), "a file").unwrap();
        let failure = prepare(&args(dir.path(), "")).unwrap_err();
        assert!(failure.message.contains("cannot write to"), "{failure:?}");
        let relative = SetupArgs { config: "agent.yml".into(), ..args(dir.path(), "") };
        assert_eq!(check(&relative).unwrap_err().exit, crate::exit::Exit::Usage);
    }
}
