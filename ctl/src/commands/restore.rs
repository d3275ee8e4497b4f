//! `prexorctl restore`: shows the coordinator's plan, asks, and has that very plan executed.

use std::collections::BTreeMap;

use prexor_format::{
    artifact::ArtifactKind,
    selection::{Namespaces, Rename, Selection},
};
use prexor_proto::{
    backup::{
        self, ApplyRestoreRequest, GetJobRequest, JobKind, Plan, PlanRestoreRequest, Prediction, Replacement,
        job_result,
    },
    convert,
    reason::Reason,
};
use serde::Serialize;

use crate::{
    cli::{OnFailure, PartArgs, RestoreArgs, Safety, Target},
    client::{self, Client},
    commands::outcome,
    exit::Exit,
    failure::Failure,
    hints::Hint,
    printer::Printer,
    prompt, text,
    view::{PlanView, RestoreView, StepView},
};

/// What `restore --json` prints when it is done; `restore --dry-run --json` prints a [`PlanView`].
#[derive(Serialize)]
struct Document {
    backup_id: String,
    job_id: String,
    plan_digest: String,
    steps: Vec<DoneStep>,
    /// How long it took as a whole: the measured RTO.
    took_seconds: Option<f64>,
    /// Of that, with controllers stopped.
    stopped_seconds: Option<f64>,
    /// With the state of before; `restore --undo` restores it.
    safety_backup: Option<String>,
    after: Option<String>,
}

/// A step of the plan and how long it took.
#[derive(Serialize)]
struct DoneStep {
    #[serde(flatten)]
    step: StepView,
    seconds: Option<f64>,
}

/// Plans, and unless it is a dry run, asks and applies.
///
/// # Errors
/// When the plan is refused, nobody said yes, or the restore did not succeed.
pub async fn run(printer: &Printer, args: RestoreArgs) -> Result<Exit, Failure> {
    let mut request = request(&args)?;
    let client = Client::connect().await?;
    if let Some(job) = &args.undo {
        request.backup_id = state_before(&client, job).await?;
    }
    let planned = client.call(request.clone(), |s, r| async move { s.restores().plan_restore(r).await }).await;
    let plan = planned.map_err(outcome::about_backup)?;
    if args.dry_run {
        printer.document(&PlanView::from(&plan));
        printer.lines(lines(&plan));
        return if plan.refusals.is_empty() { Ok(Exit::Ok) } else { Err(refused(&plan)) };
    }
    lines(&plan).iter().for_each(|line| printer.note(line));
    if !plan.refusals.is_empty() {
        return Err(refused(&plan));
    }
    if !args.yes {
        if !prompt::can_ask(printer) {
            let message =
                format!("restoring {} replaces live data: that needs a yes, and nobody is asked here", plan.backup_id);
            return Err(Failure::usage(message).hint(Hint::Yes));
        }
        let question = format!("Type {} to replace the live data:", plan.backup_id);
        prompt::confirm_word(printer, &question, &plan.backup_id).await?;
    }
    apply(printer, &client, &plan, request).await
}

async fn apply(printer: &Printer, client: &Client, plan: &Plan, asked: PlanRestoreRequest) -> Result<Exit, Failure> {
    let request = ApplyRestoreRequest {
        request_id: client::request_id(),
        // By its id: a newer backup must not take the place of the one that was shown.
        plan: Some(PlanRestoreRequest { backup_id: plan.backup_id.clone(), before: None, ..asked }),
        plan_digest: plan.digest.clone(),
    };
    let job = client.call(request, |s, r| async move { s.restores().apply_restore(r).await }).await?;
    let Some(job) = outcome::wait(client, printer, &job, Some(plan)).await? else { return Ok(Exit::Detached) };
    if let job_result::Result::Restore(report) = outcome::result(&job)? {
        printer.document(&document(plan, &job.id, &report.into()));
    }
    outcome::print(printer, &job)
}

/// What a restore saved of the state before it.
async fn state_before(client: &Client, job: &str) -> Result<String, Failure> {
    let request = GetJobRequest { job_id: job.to_owned() };
    let job = client.call(request, |s, r| async move { s.jobs().get_job(r).await }).await?;
    let not_saved = |why: &str| Failure::refused(Reason::NotFound, format!("{} cannot be undone: {why}", job.id));
    if job.kind() != JobKind::Restore {
        return Err(not_saved("it is no restore"));
    }
    match job.result.as_ref().and_then(|r| r.result.as_ref()) {
        Some(job_result::Result::Restore(report)) if !report.safety_backup.is_empty() => {
            Ok(report.safety_backup.clone())
        }
        Some(_) => Err(not_saved("it saved nothing of the state before it")),
        None => Err(not_saved("it has not succeeded; a restore that fails takes itself back")),
    }
}

fn request(args: &RestoreArgs) -> Result<PlanRestoreRequest, Failure> {
    let backup_id = match (&args.target, args.before) {
        // It is looked up.
        (None, _) => String::new(),
        (Some(Target::Latest), _) => "latest".to_owned(),
        (Some(Target::Id(id)), None) => id.to_string(),
        (Some(Target::Id(_)), Some(_)) => {
            return Err(Failure::usage("--before chooses the backup: say `latest` instead of an id"));
        }
    };
    let scope: &[ArtifactKind] = match (args.datastores, args.filesystem) {
        (true, false) => &[ArtifactKind::Mongo, ArtifactKind::Valkey],
        (false, true) => &[ArtifactKind::Filesystem],
        // Everything in the backup, whichever that is.
        (true, true) | (false, false) => &[],
    };
    Ok(PlanRestoreRequest {
        backup_id,
        before: args.before.map(convert::time_to_wire),
        scope: scope.iter().map(|k| convert::kind_to_wire(*k).into()).collect(),
        selection: part(&args.part, args.keep_logins, args.users_and_roles)?,
        accept_versions: args.accept_versions,
        safety: match args.safety {
            Safety::AfterStop => backup::Safety::AfterStop,
            Safety::BeforeStop => backup::Safety::BeforeStop,
            Safety::None => backup::Safety::None,
        }
        .into(),
        certificates: args.part.certs,
        only_hosts: args.only_hosts.clone(),
        without_hosts: args.without_hosts.clone(),
        on_failure: match args.on_failure {
            OnFailure::RollBack => backup::OnFailure::RollBack,
            OnFailure::Hold => backup::OnFailure::Hold,
        }
        .into(),
    })
}

/// The part that is asked for; `None` for everything.
fn part(args: &PartArgs, logins: bool, users_and_roles: bool) -> Result<Option<backup::Selection>, Failure> {
    if args.ns_from.len() != args.ns_to.len() {
        return Err(Failure::usage("every --ns-from needs its --ns-to"));
    }
    let rename = args.ns_from.iter().zip(&args.ns_to).map(|(f, t)| Rename { from: f.clone(), to: t.clone() });
    let namespaces =
        Namespaces { include: args.namespaces.clone(), exclude: args.ns_exclude.clone(), rename: rename.collect() };
    let (paths, keys) = (args.paths.clone(), args.keys.clone());
    let selection = Selection { paths, namespaces, keys, logins, users_and_roles, keep: Vec::new() };
    let selection = selection.checked().map_err(|e| Failure::usage(e.to_string()))?;
    Ok((selection != Selection::default()).then(|| convert::selection_to_wire(&selection)))
}

fn refused(plan: &Plan) -> Failure {
    let reasons: Vec<_> = plan.refusals.iter().map(|r| r.message.as_str()).collect();
    Failure::refused(
        Reason::RestoreRefused,
        format!("{} cannot be restored now: {}", plan.backup_id, reasons.join("; ")),
    )
}

fn document(plan: &Plan, job_id: &str, report: &RestoreView) -> Document {
    let seconds = |number| report.steps.iter().find(|s| s.number == number).map(|s| s.seconds);
    let view = PlanView::from(plan);
    Document {
        backup_id: view.backup_id,
        job_id: job_id.to_owned(),
        plan_digest: view.digest,
        steps: view.steps.into_iter().map(|step| DoneStep { seconds: seconds(step.number), step }).collect(),
        took_seconds: report.took_seconds,
        stopped_seconds: report.stopped_seconds,
        safety_backup: report.safety_backup.clone(),
        after: report.after.clone(),
    }
}

/// The plan as people read it: what is lost first, then how, then what to know.
fn lines(plan: &Plan) -> Vec<String> {
    let mut lines = vec![format!("Restore of {}", plan.backup_id), String::new()];
    let mut hosts: BTreeMap<&str, Vec<&Replacement>> = BTreeMap::new();
    for replacement in &plan.replacements {
        hosts.entry(&replacement.node).or_default().push(replacement);
    }
    for (node, replacements) in hosts {
        lines.push(format!("Would be replaced on {node}:"));
        for r in replacements {
            lines.push(format!("  {:<12}{}", text::kind_word(r.kind), r.target));
            lines.extend(r.parts.iter().map(|part| format!("  {:<12}only: {part}", "")));
            lines.push(format!("  {:<12}now:  {}", "", r.current));
            lines.push(format!("  {:<12}then: {} ({} to transfer)", "", r.incoming, text::bytes(r.size_bytes)));
        }
    }
    if !plan.steps.is_empty() {
        lines.extend([String::new(), "Steps (! changes live data):".to_owned()]);
        lines.extend(plan.steps.iter().map(|step| {
            let (mark, on) = (
                if step.destructive { "!" } else { " " },
                if step.node.is_empty() { "coordinator" } else { &step.node },
            );
            format!("  {mark} {:>2}. {on}: {}", step.number, step.title)
        }));
    }
    if !plan.corrections.is_empty() {
        lines.extend([String::new(), "Not as in the backup:".to_owned()]);
        lines.extend(plan.corrections.iter().map(|c| format!("  - {c}")));
    }
    if !plan.consequences.is_empty() {
        lines.extend([String::new(), "For those who use the cluster:".to_owned()]);
        lines.extend(plan.consequences.iter().map(|c| format!("  - {}", c.text)));
    }
    if let Some(prediction) = &plan.prediction {
        lines.extend(takes(prediction).into_iter().flat_map(|takes| [String::new(), takes]));
    }
    if !plan.notes.is_empty() {
        lines.extend([String::new(), "Notes:".to_owned()]);
        lines.extend(plan.notes.iter().map(|n| format!("  - {n}")));
    }
    if !plan.refusals.is_empty() {
        lines.extend([String::new(), "Cannot be applied:".to_owned()]);
        lines.extend(plan.refusals.iter().map(|r| match r.law.as_str() {
            "" => format!("  - {}", r.message),
            law => format!("  - {} ({law})", r.message),
        }));
    } else if !plan.after.is_empty() {
        lines.extend([String::new(), format!("Afterwards: {}", plan.after)]);
    }
    lines
}

/// How long it will take, or why nobody knows.
fn takes(prediction: &Prediction) -> Option<String> {
    let about = |d: &prost_types::Duration| format!("about {}", text::duration(convert::duration_from_wire(d)));
    let stopped = prediction.stopped.as_ref().map(|d| format!(", controllers are stopped for {}", about(d)));
    match (&prediction.total, prediction.because.as_str()) {
        (Some(total), because) => Some(format!("Takes {}{} ({because})", about(total), stopped.unwrap_or_default())),
        (None, "") => None,
        (None, because) => Some(format!("How long it takes is {because}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use prexor_proto::backup::{Refusal, RestoreReport, Step, StepResult, StepVerb};

    use super::*;
    use crate::cli::{Cli, Verb};

    fn args(line: &str) -> RestoreArgs {
        match Cli::try_parse_from(format!("prexorctl restore {line}").split(' ')).unwrap().verb {
            Verb::Restore(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn plan() -> Plan {
        Plan {
            backup_id: "bk-2026-05-10-001".into(),
            digest: vec![0xab; 32],
            replacements: vec![Replacement {
                kind: 1,
                node: "h1".into(),
                target: "database prexorcloud on 127.0.0.1:27017".into(),
                current: "12 collections, 151 MiB".into(),
                incoming: "12 collections, 142,884 docs".into(),
                size_bytes: 141 << 20,
                ..Replacement::default()
            }],
            steps: vec![
                Step {
                    number: 1,
                    verb: StepVerb::Stage.into(),
                    node: "h1".into(),
                    title: "stage mongo".into(),
                    ..Step::default()
                },
                Step {
                    number: 2,
                    verb: StepVerb::Swap.into(),
                    node: "h1".into(),
                    title: "drop+restore mongo".into(),
                    destructive: true,
                    ..Step::default()
                },
            ],
            corrections: vec!["prexor:v1:lease:* is left out".into()],
            notes: vec!["logins are lost".into()],
            consequences: vec![backup::Consequence { text: "node-1 must rejoin".into(), ..Default::default() }],
            prediction: Some(Prediction {
                total: Some(prost_types::Duration { seconds: 130, nanos: 0 }),
                stopped: Some(prost_types::Duration { seconds: 8, nanos: 0 }),
                because: "by what 30 steps of earlier restores took here".into(),
            }),
            after: "Run `systemctl start prexorcloud-controller` to bring the cluster back.".into(),
            ..Plan::default()
        }
    }

    #[test]
    fn flags_mean_what_the_guide_says() {
        let scope = |line| -> Vec<i32> { request(&args(line)).unwrap().scope };
        assert!(scope("bk-2026-05-10-001").is_empty());
        assert!(scope("bk-2026-05-10-001 --datastores --filesystem").is_empty());
        assert_eq!(scope("bk-2026-05-10-001 --datastores"), [1, 2]);
        assert_eq!(scope("latest --filesystem"), [3]);
        assert_eq!(request(&args("latest --before 2026-05-10")).unwrap().before.unwrap().seconds, 1_778_371_200);
        assert_eq!(request(&args("bk-2026-05-10-001 --before 2026-05-10")).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_part_is_asked_for_by_itself() {
        let asked = request(&args("latest --paths config/controller.yml --paths ./templates/")).unwrap();
        assert!(asked.scope.is_empty(), "the selection says it");
        assert_eq!(asked.selection.unwrap().paths, ["config/controller.yml", "templates"]);
        let asked =
            request(&args("latest --ns mod_chat_* --ns-exclude *_cache --ns-from mod_* --ns-to old_*")).unwrap();
        let selection = asked.selection.unwrap();
        assert_eq!(
            (&selection.namespaces_include[..], &selection.namespaces_exclude[..]),
            (&["mod_chat_*".into()][..], &["*_cache".into()][..])
        );
        assert_eq!(selection.namespaces_rename[0].to, "old_*");
        let asked = request(&args("latest --keys prexor:v1:platform:chat:* --keep-logins")).unwrap().selection.unwrap();
        assert_eq!((&asked.keys[..], asked.logins), (&["prexor:v1:platform:chat:*".to_owned()][..], true));
        assert!(request(&args("latest --keep-logins")).unwrap().selection.unwrap().logins);
        assert_eq!(request(&args("latest")).unwrap().selection, None);
        for wrong in ["--paths ../x", "--paths /etc/passwd", "--ns-from a* --ns-to b"] {
            assert_eq!(request(&args(&format!("latest {wrong}"))).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
        for wrong in ["--datastores --ns users", "--filesystem --paths config", "--ns-from a"] {
            assert!(Cli::try_parse_from(format!("prexorctl restore latest {wrong}").split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plan_for_a_part_lists_it() {
        let mut plan = plan();
        plan.replacements[0].parts = vec!["prexorcloud.users".into()];
        assert!(lines(&plan).contains(&"              only: prexorcloud.users".to_owned()));
    }

    #[test]
    fn the_plan_reads_from_loss_to_remedy() {
        assert_eq!(
            lines(&plan()),
            [
                "Restore of bk-2026-05-10-001",
                "",
                "Would be replaced on h1:",
                "  mongo       database prexorcloud on 127.0.0.1:27017",
                "              now:  12 collections, 151 MiB",
                "              then: 12 collections, 142,884 docs (141 MiB to transfer)",
                "",
                "Steps (! changes live data):",
                "     1. h1: stage mongo",
                "  !  2. h1: drop+restore mongo",
                "",
                "Not as in the backup:",
                "  - prexor:v1:lease:* is left out",
                "",
                "For those who use the cluster:",
                "  - node-1 must rejoin",
                "",
                "Takes about 2 min 10 s, controllers are stopped for about 8 s (by what 30 steps of earlier restores took here)",
                "",
                "Notes:",
                "  - logins are lost",
                "",
                "Afterwards: Run `systemctl start prexorcloud-controller` to bring the cluster back.",
            ]
        );
    }

    #[test]
    fn a_time_that_nobody_knows_is_not_made_up() {
        let because = "not known: no restore has succeeded here yet that could be measured";
        let said = takes(&Prediction { because: because.into(), ..Prediction::default() });
        assert_eq!(said, Some(format!("How long it takes is {because}")));
        assert_eq!(takes(&Prediction::default()), None);
    }

    #[test]
    fn refusals_say_what_to_do_and_exit_with_3() {
        let message = "the controller on h1 is active: `systemctl stop prexorcloud-controller`";
        let refusals = vec![Refusal { law: "L14".into(), message: message.into() }];
        let plan = Plan { refusals, ..plan() };
        let lines = lines(&plan);
        assert_eq!(lines.last().unwrap(), &format!("  - {message} (L14)"));
        assert!(!lines.iter().any(|l| l.starts_with("Afterwards")));
        let failure = refused(&plan);
        assert_eq!((failure.exit, failure.reason.as_str()), (Exit::Refused, "RESTORE_REFUSED"));
        assert!(failure.message.contains(message));
    }

    #[test]
    fn json_joins_plan_and_times() {
        let second = StepResult {
            number: 2,
            duration: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            ..StepResult::default()
        };
        let took = Some(prost_types::Duration { seconds: 3, nanos: 0 });
        let report = RestoreView::from(&RestoreReport { steps: vec![second], took, ..RestoreReport::default() });
        let json = serde_json::to_value(document(&plan(), "job-0123456789ab", &report)).unwrap();
        assert_eq!(json["plan_digest"], "ab".repeat(32));
        assert_eq!((&json["steps"][0]["seconds"], &json["steps"][1]["seconds"]), (&().into(), &1.5.into()));
        assert_eq!(json["steps"][1]["destructive"], true);
        assert_eq!((&json["took_seconds"], &json["stopped_seconds"]), (&3.0.into(), &().into()));
    }
}
