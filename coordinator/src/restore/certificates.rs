//! Where a backup's controllers have their CA and certificates: `data/certs` in the guide's layout, `config/security` in the
//! later one.

use prexor_format::manifest::{Contents, Manifest};

use super::plan::Hosts;

/// Below a controller's root.
const DIRECTORIES: [&str; 2] = ["data/certs", "config/security"];

/// The directory that holds the CA on every host that the restore is about.
///
/// # Errors
/// When a host's files hold no CA, or hosts have it in different places.
pub(super) fn directory(manifest: &Manifest, hosts: &Hosts) -> Result<String, String> {
    let mut found: Option<(&str, &str)> = None;
    for artifact in manifest.artifacts.iter().filter(|a| hosts.cover(a)) {
        let (Contents::Filesystem(files), node) = (&artifact.contents, artifact.node.as_str()) else { continue };
        let holds = |dir: &&str| {
            files.platform_ca.iter().any(|ca| ca.path.strip_prefix(dir).is_some_and(|p| p.starts_with('/')))
        };
        let Some(dir) = DIRECTORIES.iter().copied().find(holds) else {
            return Err(format!(
                "the files of {node} in {} hold no CA in {}: choose with --paths",
                manifest.id,
                DIRECTORIES.join(" or ")
            ));
        };
        match found {
            Some((other, there)) if there != dir => {
                return Err(format!(
                    "{node} has its CA in {dir} and {other} in {there}: restore them one by one with --only-host"
                ));
            }
            _ => found = Some((node, dir)),
        }
    }
    found.map(|(_, dir)| dir.to_owned()).ok_or_else(|| format!("{} holds no files of these hosts", manifest.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::plan::tests::manifest;

    fn with_ca(path: &str) -> Manifest {
        let mut manifest = manifest();
        for artifact in &mut manifest.artifacts {
            if let Contents::Filesystem(files) = &mut artifact.contents {
                let sha256 = prexor_format::digest::Sha256Digest::of(b"");
                files.platform_ca = vec![prexor_format::manifest::CaFingerprint { path: path.to_owned(), sha256 }];
            }
        }
        manifest
    }

    #[test]
    fn it_is_where_the_backup_has_the_ca() {
        let of = |path: &str| directory(&with_ca(path), &Hosts::default());
        assert_eq!(of("data/certs/ca.pem").unwrap(), "data/certs");
        assert_eq!(of("config/security/ca.pem").unwrap(), "config/security");
        assert!(of("data/certs-old/ca.pem").unwrap_err().contains("hold no CA"));
        let mut mixed = with_ca("data/certs/ca.pem");
        let mut other = with_ca("config/security/ca.pem").artifacts.pop().unwrap();
        other.node = "h2".parse().unwrap();
        mixed.artifacts.push(other);
        assert!(directory(&mixed, &Hosts::default()).unwrap_err().contains("--only-host"));
        let only = Hosts { only: vec!["h2".parse().unwrap()], without: vec![] };
        assert_eq!(directory(&mixed, &only).unwrap(), "config/security");
        let nobody = Hosts { only: vec!["h9".parse().unwrap()], without: vec![] };
        assert!(directory(&mixed, &nobody).is_err());
    }
}
