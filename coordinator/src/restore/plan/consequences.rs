//! What a restore does to those who use the cluster: daemons that must rejoin (law L10), logins and accounts that are lost or
//! come back, instances that the restored cluster does not know. By comparing the backup's records with the live ones.

use std::collections::BTreeSet;

use prexor_format::{
    artifact::ArtifactKind,
    manifest::{Artifact, CaFingerprint, Collection, Contents, FilesContents},
    platform::{self, Records},
    selection::Selection,
    text::things,
};
use prexor_proto::facts;

use super::{NodeFacts, source};

/// Names that are listed in a sentence; `--json` has all.
const NAMED: usize = 20;

/// How a daemon rejoins: PrexorCloud's own commands.
const REJOIN: &str =
    "`prexorctl token create --description rejoin --ttl 1h`, then `prexorctl setup --rejoin` on each of them";

/// Something that those who use the cluster will notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consequence {
    /// Which sort: see `Consequence` of the client API.
    pub what: &'static str,
    /// Of daemons, accounts or instances.
    pub names: Vec<String>,
    /// For people.
    pub text: String,
}

const MUST_REJOIN: &str = "rejoin";

/// All that is known beforehand.
pub(super) fn of(placed: &[(&Artifact, &NodeFacts)], selection: &Selection, backup: &Records) -> Vec<Consequence> {
    let live = placed.iter().find(|(a, _)| a.kind == ArtifactKind::Mongo).map(|(_, node)| records_of(node));
    let restored = |name: &str| {
        placed.iter().any(|(a, _)| match &a.contents {
            Contents::Mongo(dump) => selection.namespaces.of(dump).any(|c| is_itself(c, name, selection)),
            Contents::Valkey(_) | Contents::Filesystem(_) => false,
        })
    };
    let files: Vec<(&FilesContents, &NodeFacts)> = placed
        .iter()
        .filter_map(|(a, node)| match &a.contents {
            Contents::Filesystem(files) => Some((files, *node)),
            Contents::Mongo(_) | Contents::Valkey(_) => None,
        })
        .collect();
    let mut out = Vec::new();
    out.extend(daemons(&files, selection, live.as_ref(), backup));
    out.extend(sessions(&files, selection));
    let live = live.unwrap_or_default();
    if restored(platform::USERS) {
        out.extend(accounts(&live, backup));
    }
    if restored(platform::INSTANCES) {
        out.extend(instances(&live, backup));
    }
    out
}

/// The daemons that must rejoin without a doubt.
pub(super) fn who_must_rejoin(consequences: &[Consequence]) -> Vec<String> {
    consequences.iter().filter(|c| c.what == MUST_REJOIN).flat_map(|c| c.names.clone()).collect()
}

fn records_of(node: &NodeFacts) -> Records {
    let told = source(node, ArtifactKind::Mongo).and_then(|s| s.facts.get(facts::RECORDS));
    told.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

fn is_itself(collection: &Collection, name: &str, selection: &Selection) -> bool {
    collection.name == name && selection.namespaces.target(&collection.database, &collection.name).1 == name
}

/// L10: daemons trust the CA that they got their certificates from, and are trusted by it alone.
fn daemons(
    files: &[(&FilesContents, &NodeFacts)],
    selection: &Selection,
    live: Option<&Records>,
    backup: &Records,
) -> Option<Consequence> {
    let comes_back = |ca: &&CaFingerprint| is_selected(&ca.path, selection);
    let with_ca: Vec<_> = files.iter().filter(|(f, _)| f.platform_ca.iter().any(|ca| comes_back(&ca))).collect();
    let (first, _) = with_ca.first()?;
    let ca = first.platform_ca.iter().find(comes_back)?;
    let now = |node: &NodeFacts| -> Option<Vec<CaFingerprint>> {
        serde_json::from_str(source(node, ArtifactKind::Filesystem)?.facts.get(facts::PLATFORM_CA)?).ok()
    };
    let mut names: BTreeSet<String> = live.and_then(|r| r.daemons.clone()).unwrap_or_default();
    names.extend(backup.daemons.clone().unwrap_or_default());
    let names: Vec<String> = names.into_iter().collect();
    let who = if names.is_empty() { "every daemon".to_owned() } else { listed(&names) };
    let came = format!("the platform CA comes back ({}, SHA-256 {})", ca.path, ca.sha256);
    let compared: Vec<Option<bool>> =
        with_ca.iter().map(|(f, node)| Some(is_same(&f.platform_ca, &now(node)?))).collect();
    if compared.contains(&Some(false)) {
        let text = format!("{came} and is another than now's: these must rejoin: {who}; {REJOIN} (law L10)");
        return Some(Consequence { what: MUST_REJOIN, names, text });
    }
    if compared.contains(&None) {
        let text = format!(
            "{came}, and the live one cannot be read to compare: those of {who} whose certificates are not from it must \
             rejoin: {REJOIN} (law L10)"
        );
        return Some(Consequence { what: "may-rejoin", names, text });
    }
    None
}

/// Whether two sets of fingerprints are of one CA. A PKCS#12 file is another one each time it is written, so that it only counts
/// where there is nothing else.
fn is_same(then: &[CaFingerprint], now: &[CaFingerprint]) -> bool {
    let of = |all: &[CaFingerprint], p12: bool| -> BTreeSet<[u8; 32]> {
        all.iter().filter(|ca| ca.path.ends_with(".p12") == p12).map(|ca| ca.sha256.0).collect()
    };
    let (then_pem, now_pem) = (of(then, false), of(now, false));
    if then_pem.is_empty() || now_pem.is_empty() { of(then, true) == of(now, true) } else { then_pem == now_pem }
}

fn is_selected(path: &str, selection: &Selection) -> bool {
    let within = |p: &String| path == p || path.strip_prefix(p.as_str()).is_some_and(|rest| rest.starts_with('/'));
    selection.paths.is_empty() || selection.paths.iter().any(within)
}

/// Sessions are signed with the secret in `controller.yml`.
fn sessions(files: &[(&FilesContents, &NodeFacts)], selection: &Selection) -> Option<Consequence> {
    if !is_selected("config/controller.yml", selection) {
        return None;
    }
    let differs = |(then, node): &&(&FilesContents, &NodeFacts)| {
        let now = source(node, ArtifactKind::Filesystem).and_then(|s| s.facts.get(facts::JWT_SECRET));
        matches!((&then.jwt_secret_mark, now), (Some(then), Some(now)) if then != now)
    };
    files.iter().find(differs).map(|_| Consequence {
        what: "sessions",
        names: Vec::new(),
        text: "security.jwtSecret of the backup is another than now's: every session ends, and everybody must log in again"
            .to_owned(),
    })
}

/// Who can log in afterwards who cannot now, and the other way round.
fn accounts(live: &Records, backup: &Records) -> Vec<Consequence> {
    let (Some(now), Some(then)) = (&live.users, &backup.users) else {
        let why = if backup.users.is_none() { "the backup's" } else { "the live" };
        let text = format!("{why} accounts could not be read: who can log in afterwards is not compared");
        return vec![Consequence { what: "account-changed", names: Vec::new(), text }];
    };
    let only_in = |a: &std::collections::BTreeMap<String, String>, b: &std::collections::BTreeMap<String, String>| {
        a.keys().filter(|name| !b.contains_key(*name)).cloned().collect::<Vec<_>>()
    };
    let changed = now.iter().filter(|(name, mark)| then.get(*name).is_some_and(|then| then != *mark));
    let changed: Vec<String> = changed.map(|(name, _)| name.clone()).collect();
    let all = [
        ("account-lost", only_in(now, then), "accounts made since the backup are lost"),
        ("account-changed", changed, "passwords that were changed since are what they were then"),
        ("account-back", only_in(then, now), "accounts that were removed since come back, remove them again"),
    ];
    let told = all.into_iter().filter(|(_, names, _)| !names.is_empty());
    told.map(|(what, names, text)| Consequence { what, text: format!("{text}: {}", listed(&names)), names }).collect()
}

/// Daemons end what the cluster does not know.
fn instances(live: &Records, backup: &Records) -> Option<Consequence> {
    let (now, then) = (live.instances.as_ref()?, backup.instances.as_ref()?);
    let gone: Vec<(&String, &String)> = now.iter().filter(|(name, _)| !then.contains_key(*name)).collect();
    if gone.is_empty() {
        return None;
    }
    let on = |(name, node): &(&String, &String)| {
        if node.is_empty() { (*name).clone() } else { format!("{name} on {node}") }
    };
    let count = things(gone.len() as u64, "instance");
    let text = format!(
        "{count} started since the backup, which the restored cluster does not know and the daemons end: {}",
        listed(&gone.iter().map(on).collect::<Vec<_>>())
    );
    Some(Consequence { what: "instance-ends", names: gone.into_iter().map(|(name, _)| name.clone()).collect(), text })
}

fn listed(names: &[String]) -> String {
    let first = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
