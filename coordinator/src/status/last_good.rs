//! How old the newest complete backup of each thing is, measured against what is configured as `rpo`.

use jiff::Timestamp;
use prexor_format::{artifact::ArtifactKind, text};
use prexor_proto::{
    backup::{Backup, LastGood, Node},
    convert::{duration_from_wire, duration_to_wire, kind_from_wire, kind_to_wire, time_from_wire},
};

use crate::{backups, context::Context, error::Error};

/// Backups that are looked at at once.
const PAGE: u32 = 100;

/// Looks in the index for the newest good backup, and for that of everything that these nodes care for.
///
/// # Errors
/// When the catalog cannot be read.
pub(super) async fn of(
    ctx: &Context,
    nodes: &[Node],
    now: Timestamp,
) -> Result<(Option<Backup>, Vec<LastGood>), Error> {
    let wanted = wanted(nodes);
    let (mut latest, mut newest): (Option<Backup>, Vec<Option<Backup>>) = (None, vec![None; wanted.len()]);
    // One walk for all of them: it ends where each was found.
    let mut page = ctx.catalog.backups(None, PAGE).await?;
    while let Some(end) = page.last().map(|b| (b.order.as_millisecond(), b.id.to_string())) {
        for backup in page.into_iter().map(|b| b.backup).filter(backups::is_good) {
            for ((kind, node), found) in wanted.iter().zip(&mut newest).filter(|(_, found)| found.is_none()) {
                *found = holds(&backup, *kind, node).then(|| backup.clone());
            }
            latest.get_or_insert(backup);
        }
        if latest.is_some() && newest.iter().all(Option::is_some) {
            break;
        }
        page = ctx.catalog.backups(Some((end.0, &end.1)), PAGE).await?;
    }
    let last_good = wanted.into_iter().zip(newest).map(|((kind, node), newest)| {
        let rpo = ctx.config.rpo.of(kind);
        let age =
            newest.as_ref().and_then(|b| time_from_wire(b.created_at.as_ref()?).ok()).map(|t| now.duration_since(t));
        let (backup_id, created_at) = newest.map(|b| (b.id, b.created_at)).unwrap_or_default();
        LastGood {
            kind: kind_to_wire(kind).into(),
            node,
            backup_id,
            created_at,
            rpo: Some(duration_to_wire(rpo)),
            overdue: age.is_none_or(|age| age > rpo),
        }
    });
    Ok((latest, last_good.collect()))
}

/// The datastores once, the files of each node.
fn wanted(nodes: &[Node]) -> Vec<(ArtifactKind, String)> {
    let has = |node: &Node, kind| node.sources.iter().any(|s| kind_from_wire(s.kind).is_ok_and(|k| k == kind));
    let stores =
        [ArtifactKind::Mongo, ArtifactKind::Valkey].into_iter().filter(|kind| nodes.iter().any(|n| has(n, *kind)));
    let files = nodes.iter().filter(|n| has(n, ArtifactKind::Filesystem));
    let files = files.map(|n| (ArtifactKind::Filesystem, n.name.clone()));
    stores.map(|kind| (kind, String::new())).chain(files).collect()
}

/// Whether it is a good backup of this.
fn holds(backup: &Backup, kind: ArtifactKind, node: &str) -> bool {
    backups::is_good(backup)
        && backup.scope.iter().any(|k| kind_from_wire(*k).is_ok_and(|k| k == kind))
        && (node.is_empty() || backup.nodes.iter().any(|n| n == node))
}

/// What is overdue, in words. Where there is no backup at all, that is said once, elsewhere.
pub(super) fn problems(all: &[LastGood], any_complete: bool, now: Timestamp) -> Vec<String> {
    let overdue = all.iter().filter(|last| last.overdue && any_complete);
    overdue
        .map(|last| {
            let kind = kind_from_wire(last.kind).map_or("an unknown kind", |k| k.as_str());
            let of = if last.node.is_empty() { kind.to_owned() } else { format!("the files of {}", last.node) };
            let made = last.created_at.as_ref().and_then(|t| time_from_wire(t).ok());
            let rpo = text::duration(last.rpo.as_ref().map(duration_from_wire).unwrap_or_default());
            match made {
                Some(made) => format!(
                    "the newest good backup of {of} is {} old, at most {rpo} are wanted (rpo): `prexorctl backup create` makes one",
                    text::duration(now.duration_since(made))
                ),
                None => format!("there is no good backup of {of} yet: `prexorctl backup create` makes one"),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use prexor_proto::{
        backup::{BackupState, Source},
        convert::time_to_wire,
    };

    use super::*;

    #[test]
    fn datastores_count_once_and_files_for_each_node() {
        let source = |kind| Source { kind: kind_to_wire(kind).into(), ..Source::default() };
        let node = |name: &str, kinds: &[ArtifactKind]| Node {
            name: name.to_owned(),
            sources: kinds.iter().map(|k| source(*k)).collect(),
            ..Node::default()
        };
        let both = [ArtifactKind::Mongo, ArtifactKind::Filesystem];
        let found = wanted(&[node("h1", &both), node("h2", &both), node("h3", &[])]);
        let files = |name: &str| (ArtifactKind::Filesystem, name.to_owned());
        assert_eq!(found, [(ArtifactKind::Mongo, String::new()), files("h1"), files("h2")]);
    }

    #[test]
    fn only_a_good_backup_counts() {
        let good = Backup {
            state: BackupState::Complete.into(),
            scope: vec![kind_to_wire(ArtifactKind::Filesystem).into()],
            nodes: vec!["h1".to_owned()],
            ..Backup::default()
        };
        assert!(holds(&good, ArtifactKind::Filesystem, "h1"));
        assert!(!holds(&good, ArtifactKind::Filesystem, "h2") && !holds(&good, ArtifactKind::Mongo, ""));
        let damaged = Backup { state: BackupState::Damaged.into(), ..good.clone() };
        let safety = Backup { safety_of: "job-1".to_owned(), ..good.clone() };
        let suspect = Backup { suspect: "3 keys, 10 in bk-1".to_owned(), ..good.clone() };
        let found = Backup { verify_problem: "mongo/x: is missing".to_owned(), ..good };
        assert!(![damaged, safety, suspect, found].iter().any(|b| holds(b, ArtifactKind::Filesystem, "h1")));
    }

    #[test]
    fn what_is_too_old_and_what_was_never_saved_is_told() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let last = |node: &str, hours| LastGood {
            kind: kind_to_wire(if node.is_empty() { ArtifactKind::Mongo } else { ArtifactKind::Filesystem }).into(),
            node: node.to_owned(),
            created_at: Some(time_to_wire(now - SignedDuration::from_hours(hours))),
            rpo: Some(duration_to_wire(SignedDuration::from_hours(25))),
            overdue: hours > 25,
            ..LastGood::default()
        };
        let never = LastGood { created_at: None, overdue: true, ..last("h2", 0) };
        let all = [last("", 30), last("h1", 1), never];
        let found = problems(&all, true, now);
        assert_eq!(found.len(), 2);
        assert!(
            found[0].starts_with("the newest good backup of mongo is 1 d 6 h old, at most 1 d 1 h are wanted (rpo)")
        );
        assert!(found[1].starts_with("there is no good backup of the files of h2 yet"));
        assert!(problems(&all, false, now).is_empty());
    }
}
