//! Hosts that are given up while a restore runs: it goes on without them, in whichever direction it goes.

use prexor_proto::{
    backup::{ArtifactKind, Plan, StepVerb},
    convert::selection_from_wire,
    reason::Reason,
};

use super::plan::raft;
use crate::error::Error;

/// Takes everything out of the plan that such a host would do. The other steps keep their numbers, by which the journal knows
/// them. What the host has of the restore stays there, with its controller held.
///
/// # Errors
/// `INVALID_REQUEST` for a host that the restore is not about; `RESTORE_REFUSED` when a database is restored through it, or
/// nothing else would be left.
pub fn give_up_hosts(plan: &mut Plan, hosts: &[String]) -> Result<(), Error> {
    for host in hosts {
        if plan.without_hosts.contains(host) {
            continue;
        }
        if !plan.steps.iter().any(|s| s.node == *host) {
            return Err(Error::invalid(format!("this restore does nothing on a host {host}")));
        }
        let datastore =
            |r: &&prexor_proto::backup::Replacement| r.node == *host && r.kind() != ArtifactKind::Filesystem;
        if let Some(through) = plan.replacements.iter().find(datastore) {
            let message = format!(
                "{} is restored through {host}: without it there is nobody who could go on or back with that; bring {host} back",
                through.target
            );
            return Err(Error::new(Reason::RestoreRefused, message));
        }
        if plan.replacements.iter().all(|r| r.node == *host) {
            let message = format!("without {host} nothing would be left to restore: `prexorctl job cancel` ends it");
            return Err(Error::new(Reason::RestoreRefused, message));
        }
        let has_files = plan.replacements.iter().any(|r| r.node == *host && r.kind() == ArtifactKind::Filesystem);
        let raft = raft::given_up(&selection_from_wire(plan.selection.as_ref())).filter(|_| has_files);
        let was_started = plan.steps.iter().any(|s| s.verb() == StepVerb::Start && s.node == *host);
        plan.steps.retain(|s| s.node != *host);
        plan.replacements.retain(|r| r.node != *host);
        plan.without_hosts.push(host.clone());
        let held = if was_started { ", and its controller is not started" } else { "" };
        plan.after = format!(
            "{} {host} was left out{held}: when it is back, `prexorctl restore {} --only-host {host}` brings its files back.",
            plan.after, plan.backup_id
        )
        .trim_start()
        .to_owned();
        if let Some(raft) = raft {
            plan.after = format!("{} {raft}", plan.after);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::{Replacement, Selection, Step};

    use super::*;

    fn plan() -> Plan {
        let replacement = |kind: ArtifactKind, node: &str| Replacement {
            kind: kind as i32,
            node: node.to_owned(),
            target: format!("the {node}"),
            ..Replacement::default()
        };
        let step = |number, verb: StepVerb, node: &str| Step {
            number,
            verb: verb as i32,
            node: node.to_owned(),
            ..Step::default()
        };
        Plan {
            backup_id: "bk-2026-05-10-001".to_owned(),
            replacements: vec![
                replacement(ArtifactKind::Mongo, "h1"),
                replacement(ArtifactKind::Filesystem, "h1"),
                replacement(ArtifactKind::Filesystem, "h2"),
            ],
            steps: vec![
                step(1, StepVerb::Hold, "h1"),
                step(2, StepVerb::Hold, "h2"),
                step(3, StepVerb::Silence, ""),
                step(4, StepVerb::Start, "h2"),
            ],
            after: "Done.".to_owned(),
            ..Plan::default()
        }
    }

    #[test]
    fn what_the_host_would_do_is_gone_and_the_rest_keeps_its_numbers() {
        let mut plan = plan();
        for _ in 0..2 {
            give_up_hosts(&mut plan, &["h2".to_owned()]).unwrap();
            assert_eq!(plan.steps.iter().map(|s| s.number).collect::<Vec<_>>(), [1, 3]);
            assert_eq!((plan.replacements.len(), plan.without_hosts.as_slice()), (2, &["h2".to_owned()][..]));
            assert_eq!(
                plan.after,
                "Done. h2 was left out, and its controller is not started: when it is back, `prexorctl restore \
                 bk-2026-05-10-001 --only-host h2` brings its files back. If it has a data/raft, remove that before its controller \
                 starts: it is of another age than those of the others, and a member without one joins anew (law L9)."
            );
        }
    }

    #[test]
    fn nothing_is_said_of_a_members_log_that_nobody_gets() {
        for (paths, keep) in [(&[][..], &["data/raft".to_owned()][..]), (&["config".to_owned()], &[])] {
            let selection = Selection { paths: paths.to_vec(), keep: keep.to_vec(), ..Selection::default() };
            let mut plan = Plan { selection: Some(selection), ..plan() };
            give_up_hosts(&mut plan, &["h2".to_owned()]).unwrap();
            assert!(plan.after.ends_with("brings its files back."), "{}", plan.after);
        }
    }

    #[test]
    fn a_database_cannot_be_given_up_with_its_host() {
        let refused = |hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
            give_up_hosts(&mut plan(), &hosts).unwrap_err().message
        };
        assert!(refused(&["h1"]).contains("the h1 is restored through h1"));
        assert!(refused(&["h9"]).contains("does nothing on a host h9"));
        let mut files = plan();
        files.replacements.retain(|r| r.node == "h2");
        assert!(give_up_hosts(&mut files, &["h2".to_owned()]).unwrap_err().message.contains("nothing would be left"));
    }
}
