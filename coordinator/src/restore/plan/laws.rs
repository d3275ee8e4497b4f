//! The restore laws that can be judged while planning. Each refusal names its law, what is wrong and what to do.

use std::collections::BTreeMap;

use prexor_format::{
    artifact::ArtifactKind,
    id::NodeName,
    laws::{
        mongo::{JOIN_TOKENS, LEADERSHIP, REVOCATIONS},
        valkey::{self as laws, State},
    },
    manifest::{
        AccountKind, Artifact, Collection, CollectionType, Consistency, Contents, Controller, Manifest, MongoContents,
    },
    platform::Records,
    selection::Selection,
    text::{bytes, things},
};
use prexor_proto::facts;

use super::{NodeFacts, Options, Refusal, ServiceFacts, refusal, source, stored_bytes};

/// The first server versions that load each RDB version (law L19): name, RDB version, major, minor.
const RDB_READERS: [(&str, u32, u32, u32); 6] = [
    ("redis", 9, 5, 0),
    ("redis", 10, 7, 0),
    ("redis", 11, 7, 2),
    ("redis", 12, 7, 4),
    ("valkey", 11, 7, 2),
    ("valkey", 80, 9, 0),
];

/// How far a host's clock may be from the coordinator's, in seconds: what is compared with times of several hosts, such as
/// leases and the newest backup before a time, would be wrong.
const CLOCK_MAY_DIFFER: i64 = 120;

/// L14: nothing is restored under a controller that runs and cannot be held, or that might run; and the clocks.
pub(super) fn of_the_cluster(nodes: &[NodeFacts]) -> Vec<Refusal> {
    nodes.iter().flat_map(of_the_node).collect()
}

fn of_the_node(node: &NodeFacts) -> Vec<Refusal> {
    if let Some(why) = &node.unreachable {
        let message = format!(
            "{} does not answer, so its controller may be running ({why}): bring its agent back, enrol another host in its \
             place, or go without it (--without-host {})",
            node.name, node.name
        );
        return vec![refusal("L14", message)];
    }
    let mut out = Vec::new();
    match (&node.controller_service, &node.cannot_hold) {
        (ServiceFacts::Active { start_command }, Some(why)) => out.push(refusal(
            "L14",
            format!(
                "the controller on {} is running and would write into half-restored stores, and its agent cannot stop it \
                 and keep it so ({why}): stop it first (sudo {})",
                node.name,
                start_command.replacen("start", "stop", 1)
            ),
        )),
        (ServiceFacts::Unknown(why), _) => {
            out.push(refusal("L14", format!("it is unknown whether the controller on {} runs: {why}", node.name)));
        }
        (ServiceFacts::Absent | ServiceFacts::Inactive { .. } | ServiceFacts::Active { .. }, _) => {}
    }
    if node.clock_ahead.abs() > CLOCK_MAY_DIFFER {
        let (by, way) = (node.clock_ahead.abs(), if node.clock_ahead > 0 { "ahead of" } else { "behind" });
        let message = format!("the clock of {} is {by} s {way} the coordinator's: set it right first", node.name);
        out.push(refusal("", message));
    }
    out
}

/// A selection that selects nothing, or only a part of what was asked for.
pub(super) fn of_the_selection(selection: &Selection, scope: &[ArtifactKind], selected: &[&Artifact]) -> Vec<Refusal> {
    if selection.is_everything() {
        return Vec::new();
    }
    let kinds = selection.kinds();
    let whole = scope.iter().filter(|kind| !kinds.contains(kind)).map(|kind| {
        refusal(
            "",
            format!("a part of the backup is selected, and none of its {kind}: leave {kind} out, or select some"),
        )
    });
    let empty = selected
        .iter()
        .filter(|a| a.kind == ArtifactKind::Mongo && selection.words(a).is_empty())
        .map(|a| refusal("", format!("no collection of {} is selected: `prexorctl backup show` lists them", a.id)));
    whole.chain(empty).collect()
}

/// L3 and L19: whether this artifact may go onto this node.
pub(super) fn of_the_artifact(artifact: &Artifact, node: &NodeFacts, selection: &Selection) -> Vec<Refusal> {
    let live = |name| source(node, artifact.kind)?.facts.get(name).map(String::as_str);
    let mut out = Vec::new();
    match &artifact.contents {
        Contents::Mongo(m) => {
            out.extend(selection.namespaces.problems(m).into_iter().map(|what| refusal("", what)));
            out.extend(live(facts::MISSING_PRIVILEGES).map(|missing| {
                let message = format!(
                    "the agent's account on {} lacks privileges for a restore: {missing}; README.md tells which role \
                     it needs",
                    node.name
                );
                refusal("", message)
            }));
            if selection.users_and_roles {
                if m.accounts.is_empty() {
                    let what = "the backup holds no users and roles: when it was taken, the agent's account could not read \
                                any (README.md tells which roles it needs)";
                    out.push(refusal("", what.to_owned()));
                }
                out.extend(live(facts::MISSING_ACCOUNT_PRIVILEGES).map(|missing| {
                    let message = format!(
                        "the agent's account on {} lacks privileges to restore users and roles: {missing}; grant it the \
                         roles backup and restore on admin, or leave --users-and-roles out",
                        node.name
                    );
                    refusal("", message)
                }));
            }
            let bson = selection.namespaces.of(m).map(|c| c.bson_bytes).sum();
            out.extend(no_room(bson, live(facts::ROOM_BYTES), node));
            out.extend(older("MongoDB", &m.server_version, live(facts::SERVER_VERSION)));
            out.extend(live(facts::SERVER_VERSION).and_then(|version| too_old_for_ttl(version, node)));
            let compatibility = m.feature_compatibility_version.as_deref();
            let live = live(facts::FEATURE_COMPATIBILITY_VERSION);
            out.extend(compatibility.and_then(|v| older("featureCompatibilityVersion", v, live)));
        }
        Contents::Valkey(v) => {
            let (name, version) = (live(facts::SERVER_NAME), live(facts::SERVER_VERSION));
            if let (Some(name), Some(version)) = (name, version)
                && live(facts::RESTORE_WAY).is_none_or(|way| way == "files")
                && highest_rdb(name, version).is_some_and(|highest| v.rdb_version > highest)
            {
                let message = format!(
                    "the backup's RDB has version {}, {name} {version} on {} reads up to {}: use the server that took \
                     the backup ({} {})",
                    v.rdb_version,
                    node.name,
                    highest_rdb(name, version).unwrap_or_default(),
                    v.server_name,
                    v.server_version
                );
                out.push(refusal("L19", message));
            }
            if !v.modules.is_empty() && selection.keys.is_empty() {
                let keys: u64 = v.modules.iter().map(|module| module.keys).sum();
                let none = live(facts::MODULES) == Some("0");
                let why = match live(facts::RESTORE_WAY) {
                    Some("live") if keys > 0 => Some("into which nobody can put such keys while it runs"),
                    Some("live") => None,
                    _ => none.then_some("which has loaded no module and would not start with them"),
                };
                out.extend(why.map(|why| {
                    let message = format!(
                        "the backup has data of modules ({}) for Valkey on {}, {why}: load the modules and let the agent \
                         exchange its files, or restore the other keys with --keys",
                        v.modules_in_words(),
                        node.name
                    );
                    refusal("", message)
                }));
            }
            let limit = live(facts::MAX_MEMORY).and_then(|limit| limit.parse::<u64>().ok()).filter(|limit| *limit > 0);
            if let (Some(limit), Some(used)) = (limit, v.used_memory)
                && selection.keys.is_empty()
                && used > limit
            {
                let message = format!(
                    "the keys of the backup took {} of memory, Valkey on {} is limited to {} (maxmemory): it would evict or \
                     refuse some; raise maxmemory first",
                    bytes(used),
                    node.name,
                    bytes(limit)
                );
                out.push(refusal("", message));
            }
        }
        Contents::Filesystem(f) => {
            out.extend(differs(
                "L3",
                "uuid",
                f.controller.as_ref().and_then(|c| c.uuid.as_deref()),
                node.controller.as_ref().and_then(|c| c.uuid.as_deref()),
                &format!("these files belong to another controller than the one on {}", node.name),
            ));
            let (was, is) = (f.controller.as_ref(), node.controller.as_ref());
            out.extend(version_differs(was, is, node));
        }
    }
    out
}

/// L11, and the space for staging: what only shows when all artifacts are seen together.
pub(super) fn of_the_whole(
    manifest: &Manifest,
    placed: &[(&Artifact, &NodeFacts)],
    selection: &Selection,
) -> Vec<Refusal> {
    let mut out = Vec::new();
    let both = [ArtifactKind::Mongo, ArtifactKind::Filesystem]
        .map(|kind| placed.iter().any(|(a, _)| a.kind == kind && brings_cluster_id(selection, kind)));
    if both.contains(&true) && both.contains(&false) {
        let was = manifest.hosts.iter().find_map(|h| h.controller.as_ref()?.cluster_id.as_deref());
        let is = placed.iter().find_map(|(_, n)| n.controller.as_ref()?.cluster_id.as_deref());
        let why = "a controller refuses to boot when its database and its configuration disagree: restore both";
        out.extend(differs("L11", "cluster.id", was, is, why));
    }
    let mut needed: BTreeMap<&NodeName, (u64, u64)> = BTreeMap::new();
    for (artifact, node) in placed {
        let entry = needed.entry(&node.name).or_insert((0, node.staging_free_bytes));
        entry.0 = entry.0.saturating_add(stored_bytes(artifact, selection));
    }
    for (node, (size, free)) in needed {
        if size > free {
            let (size, free) = (bytes(size), bytes(free));
            let message = format!("{node} needs {size} to stage the artifacts and has {free} free in its state_dir");
            out.push(refusal("", message));
        }
    }
    out
}

/// What an operator should know before saying yes.
pub(super) fn notes(manifest: &Manifest, selected: &[&Artifact], options: &Options) -> Vec<String> {
    let selection = &options.selection;
    let whole = options.hosts.only.is_empty();
    let mut out = vec![format!(
        "{} to {}: what happened since is lost",
        if whole { "the cluster goes back" } else { "only the files of these hosts go back" },
        manifest.completed_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    )];
    for artifact in selected {
        match &artifact.contents {
            Contents::Mongo(m) => {
                if m.consistency == Consistency::Fuzzy {
                    out.push(
                        "the dump's collections were read one after the other, not at one point in time".to_owned(),
                    );
                }
                out.extend(accounts(m, selection));
                out.extend(views_of_old_names(m, selection));
            }
            Contents::Valkey(_) => {}
            Contents::Filesystem(f) => {
                let kept = f.excluded.join(", ");
                out.push(format!("on {} these are kept as they are now: {kept}", artifact.node));
            }
        }
    }
    out
}

/// Views say by name what they look at, and a rename does not change what they say.
fn views_of_old_names(dump: &MongoContents, selection: &Selection) -> Option<String> {
    let is_view = |c: &&Collection| c.kind == CollectionType::View;
    let views: Vec<&str> = selection.namespaces.of(dump).filter(is_view).map(|c| c.name.as_str()).collect();
    (!selection.namespaces.rename.is_empty() && !views.is_empty()).then(|| {
        format!(
            "collections are renamed, and what views look at is not: {} read the collections that have the old names \
             (viewOn, $lookup and the like)",
            views.join(", ")
        )
    })
}

/// What becomes of users and roles.
fn accounts(dump: &MongoContents, selection: &Selection) -> Vec<String> {
    let count = |what: AccountKind| dump.accounts.iter().filter(|a| a.what == what).map(|a| a.documents).sum();
    let held =
        format!("{} and {}", things(count(AccountKind::Users), "user"), things(count(AccountKind::Roles), "role"));
    match (dump.accounts.is_empty(), selection.users_and_roles) {
        (true, _) => Vec::new(),
        (false, false) => vec![format!(
            "MongoDB's users and roles stay as they are; --users-and-roles restores the backup's ({held})"
        )],
        (false, true) => vec![format!(
            "{held} of MongoDB come back as they were, with their passwords of then, those that were removed since too; \
             others of the same database go; the agent's own account stays as it is"
        )],
    }
}

/// L1, L2, L4, L5, L6 and L7: what of this artifact will not be as in the backup.
pub(super) fn corrections(artifact: &Artifact, node: &NodeFacts, selection: &Selection) -> Vec<String> {
    let contents = match &artifact.contents {
        Contents::Valkey(contents) => contents,
        Contents::Mongo(dump) => return of_records(dump, node, selection),
        Contents::Filesystem(_) => return Vec::new(),
    };
    let covers = |key: &[u8]| selection.covers_key(key);
    let whole = selection.keys.is_empty();
    let live = source(node, artifact.kind).and_then(|s| s.facts.get(facts::LAWS));
    let live: Option<State> = live.and_then(|json| serde_json::from_str(json).ok());
    let backup = State {
        keys: contents.keys,
        issued: contents.fencing.clone().unwrap_or_default(),
        // How many keys of a family match a pattern is not in the manifest.
        families: contents.families.iter().filter(|_| whole).map(|f| (f.name.clone(), f.keys)).collect(),
        ..State::default()
    };
    let options = laws::Options { keep_logins: selection.logins };
    let kept = live.clone().map(|live| live.only(covers));
    let mut out = laws::words(&laws::corrections(kept.as_ref(), &backup.only(covers), options));
    if !whole {
        let logins = if selection.logins { "" } else { " and logins" };
        out.push(format!("leases, ownership{logins} are left out also where they match (laws L4, L5)"));
    }
    match &live {
        None => out.push(
            "the live keys could not be looked at now: the agent reads them before they make room, and says what it \
             corrects then"
                .to_owned(),
        ),
        Some(live) => {
            out.extend(laws::lost(Some(live)));
            let revoked = live.revocations_in_force();
            if revoked > 0 {
                out.push(format!(
                    "{} of now stay in force beside the backup's (law L6)",
                    things(revoked, "revocation")
                ));
            }
        }
    }
    if contents.fencing.is_none() {
        out.push(
            "fencing counters also go on above the numbers of the backup, which its manifest does not list (law L1)"
                .to_owned(),
        );
    }
    out
}

/// L2, L6 and L7 for PrexorCloud's records. With which numbers is seen, and said, when the controllers are stopped.
fn of_records(dump: &MongoContents, node: &NodeFacts, selection: &Selection) -> Vec<String> {
    let told = [
        (LEADERSHIP, "the epoch goes on above every one that is known then, and nobody holds it (law L2)"),
        (REVOCATIONS, "revocations of now stay in force beside the backup's (law L6)"),
        (JOIN_TOKENS, "tokens of the backup that nobody had used then are left out (law L7)"),
    ];
    let restored = |name: &str| {
        let keeps_its_name = |c: &&Collection| selection.namespaces.target(&c.database, &c.name).1 == c.name;
        selection.namespaces.of(dump).filter(keeps_its_name).any(|c| c.name == name)
    };
    let live = source(node, ArtifactKind::Mongo).and_then(|s| s.facts.get(facts::RECORDS));
    let live: Option<Records> = live.and_then(|json| serde_json::from_str(json).ok());
    let lost = live.is_some_and(|live| live.revocations.is_none());
    let what_now = |(name, what): (&str, &str)| match (name, lost) {
        (REVOCATIONS, true) => format!(
            "{name}: the live ones are lost, and with them what was revoked since the backup: revoke the certificates of \
             removed daemons again, or rotate the platform CA (law L6)"
        ),
        _ => format!("{name}: {what}"),
    };
    told.into_iter().filter(|(name, _)| restored(name)).map(what_now).collect()
}

/// Whether the cluster's id is in what is restored of this kind.
fn brings_cluster_id(selection: &Selection, kind: ArtifactKind) -> bool {
    let whole = !selection.kinds().contains(&kind);
    whole
        || match kind {
            ArtifactKind::Mongo => selection.namespaces.covers("prexorcloud", "cluster_identity"),
            ArtifactKind::Filesystem => {
                ["config", "config/controller.yml"].iter().any(|p| selection.paths.iter().any(|s| s == p))
            }
            ArtifactKind::Valkey => false,
        }
}

fn version_differs(was: Option<&Controller>, is: Option<&Controller>, node: &NodeFacts) -> Option<Refusal> {
    let why = format!("a controller of another version would be on {}", node.name);
    let mut refused = differs("L19", "version", was?.version.as_deref(), is?.version.as_deref(), &why)?;
    refused.message.push_str(": install the backup's version first, or accept this one (--accept-versions)");
    Some(refused)
}

fn differs(law: &str, what: &str, was: Option<&str>, is: Option<&str>, why: &str) -> Option<Refusal> {
    let (was, is) = (was?, is?);
    (was != is).then(|| refusal(law, format!("{why} ({what} in the backup: {was}, now: {is})")))
}

/// A restore loads beside the live data.
fn no_room(bson: u64, room: Option<&str>, node: &NodeFacts) -> Option<Refusal> {
    let room: u64 = room?.parse().ok()?;
    (room < bson).then(|| {
        let message = format!(
            "{} of documents are loaded beside the live ones, and the disk of MongoDB on {} has room for about {}: make \
             room, or restore collections one after the other with --ns",
            bytes(bson),
            node.name,
            bytes(room)
        );
        refusal("", message)
    })
}

/// L17: before 5.1 an index cannot get its expiry at the swap.
fn too_old_for_ttl(version: &str, node: &NodeFacts) -> Option<Refusal> {
    (major_minor(version)? < (5, 1))
        .then(|| refusal("L17", format!("MongoDB on {} is {version}: a restore needs 6.0 or newer", node.name)))
}

/// L19: a server that is older than the one that was backed up.
fn older(what: &str, was: &str, is: Option<&str>) -> Option<Refusal> {
    let is = is?;
    let (backup, live) = (major_minor(was)?, major_minor(is)?);
    (live < backup).then(|| {
        let message =
            format!("{what} is {is} here and was {was} when the backup was taken: restore into {was} or newer");
        refusal("L19", message)
    })
}

fn highest_rdb(name: &str, version: &str) -> Option<u32> {
    let live = major_minor(version)?;
    RDB_READERS.into_iter().filter(|(n, _, major, minor)| *n == name && (*major, *minor) <= live).map(|r| r.1).max()
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
