//! The shapes of plans and reports of restores.

use prexor_proto::{backup as wire, convert};
use serde::Serialize;

use super::{some, word};
use crate::text;

/// What a restore did.
#[derive(Debug, Default, Serialize)]
pub struct RestoreView {
    /// What is left to do for a person.
    pub after: Option<String>,
    /// With the state of before; `restore --undo` restores it.
    pub safety_backup: Option<String>,
    /// How long it took as a whole, in seconds: the measured RTO.
    pub took_seconds: Option<f64>,
    /// Of that, with controllers stopped.
    pub stopped_seconds: Option<f64>,
    /// The steps by number.
    pub steps: Vec<StepTimeView>,
}

/// How long a step took.
#[derive(Debug, Serialize)]
pub struct StepTimeView {
    /// As in the plan.
    pub number: u32,
    /// In seconds.
    pub seconds: f64,
    /// Where; none: the coordinator.
    pub node: Option<String>,
    /// For people.
    pub title: Option<String>,
}

/// A plan: `restore --dry-run`.
#[derive(Debug, Serialize)]
pub struct PlanView {
    /// What would be restored.
    pub backup_id: String,
    /// SHA-256 over what the plan decides, hex.
    pub digest: String,
    /// What was asked for.
    pub options: OptionsView,
    /// What would be replaced.
    pub replacements: Vec<ReplacementView>,
    /// The services that would be stopped and held.
    pub units: Vec<UnitView>,
    /// In the order of their execution.
    pub steps: Vec<StepView>,
    /// What an operator should know beforehand.
    pub notes: Vec<String>,
    /// What will not be as in the backup, by the restore laws.
    pub corrections: Vec<String>,
    /// PrexorCloud's daemons that must rejoin.
    pub rejoin: Vec<String>,
    /// What it does to those who use the cluster.
    pub consequences: Vec<ConsequenceView>,
    /// How long it will take.
    pub prediction: PredictionView,
    /// Why it cannot be applied; empty when it can.
    pub refusals: Vec<RefusalView>,
    /// What would be left to do for a person.
    pub after: Option<String>,
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub struct OptionsView {
    /// `after-stop`, `before-stop` or `none`.
    pub safety: String,
    /// `roll-back` or `hold`.
    pub on_failure: String,
    /// Whether other versions of servers and controllers are accepted.
    pub accept_versions: bool,
    /// Only the files of these nodes; empty: everything.
    pub only_hosts: Vec<String>,
    /// Nodes that are left out.
    pub without_hosts: Vec<String>,
    /// Only these paths of the files; empty: all.
    pub paths: Vec<String>,
    /// These paths of the files stay as they are now.
    pub keep: Vec<String>,
    /// Only these collections; empty: all.
    pub namespaces: Vec<String>,
    /// Without these collections.
    pub namespaces_exclude: Vec<String>,
    /// Under other names: from, to.
    pub namespaces_rename: Vec<(String, String)>,
    /// Only keys of these patterns; empty: all.
    pub keys: Vec<String>,
    /// Short-lived logins and lockouts too.
    pub logins: bool,
    /// MongoDB's users and roles too.
    pub users_and_roles: bool,
}

/// The service of a controller.
#[derive(Debug, Serialize)]
pub struct UnitView {
    /// Where.
    pub node: String,
    /// `prexorcloud-controller.service`; none where commands move it.
    pub name: Option<String>,
    /// Whether it runs, and is started again.
    pub runs: bool,
}

/// What a restore does to those who use the cluster.
#[derive(Debug, Serialize)]
pub struct ConsequenceView {
    /// `rejoin`, `may-rejoin`, `sessions`, `account-lost`, `account-changed`, `account-back` or `instance-ends`.
    pub what: String,
    /// Of daemons, accounts or instances.
    pub names: Vec<String>,
    /// For people.
    pub text: String,
}

/// How long a restore will take.
#[derive(Debug, Serialize)]
pub struct PredictionView {
    /// As a whole.
    pub total_seconds: Option<f64>,
    /// Of that, with controllers stopped.
    pub stopped_seconds: Option<f64>,
    /// By what it is known, or what of it is not.
    pub because: Option<String>,
}

/// Something that a restore replaces.
#[derive(Debug, Serialize)]
pub struct ReplacementView {
    /// `mongo`, `valkey` or `filesystem`.
    pub kind: &'static str,
    /// In the manifest.
    pub artifact_id: Option<String>,
    /// Where.
    pub node: String,
    /// What is there now.
    pub target: String,
    /// Its size and age, in words.
    pub current: String,
    /// What comes in its place, in words.
    pub incoming: String,
    /// Bytes that travel to the node.
    pub size_bytes: u64,
    /// What of it is restored; empty for all.
    pub parts: Vec<String>,
}

/// A step of a plan.
#[derive(Debug, Serialize)]
pub struct StepView {
    /// From 1.
    pub number: u32,
    /// `preflight`, `stage`, `prepare`, `hold`, `silence`, `safety`, `swap`, `check`, `start`, `release` or `commit`.
    pub verb: String,
    /// Where.
    pub node: Option<String>,
    /// Of what.
    pub artifact_id: Option<String>,
    /// For people.
    pub title: String,
    /// Whether live data changes.
    pub destructive: bool,
}

/// Why a plan cannot be applied.
#[derive(Debug, Serialize)]
pub struct RefusalView {
    /// The law behind it: `L14`.
    pub law: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

fn seconds(d: Option<&prost_types::Duration>) -> Option<f64> {
    d.map(|d| convert::duration_from_wire(d).as_secs_f64())
}

impl From<&wire::RestoreReport> for RestoreView {
    fn from(r: &wire::RestoreReport) -> Self {
        let step = |s: &wire::StepResult| StepTimeView {
            number: s.number,
            seconds: seconds(s.duration.as_ref()).unwrap_or_default(),
            node: some(&s.node),
            title: some(&s.title),
        };
        Self {
            after: some(&r.after),
            safety_backup: some(&r.safety_backup),
            took_seconds: seconds(r.took.as_ref()),
            stopped_seconds: seconds(r.stopped.as_ref()),
            steps: r.steps.iter().map(step).collect(),
        }
    }
}

impl From<&wire::Step> for StepView {
    fn from(s: &wire::Step) -> Self {
        Self {
            number: s.number,
            verb: word(s.verb().as_str_name(), "STEP_VERB_"),
            node: some(&s.node),
            artifact_id: some(&s.artifact_id),
            title: s.title.clone(),
            destructive: s.destructive,
        }
    }
}

impl From<&wire::Plan> for OptionsView {
    fn from(p: &wire::Plan) -> Self {
        let part = p.selection.clone().unwrap_or_default();
        Self {
            safety: word(p.safety().as_str_name(), "SAFETY_").replace('_', "-"),
            on_failure: word(p.on_failure().as_str_name(), "ON_FAILURE_").replace('_', "-"),
            accept_versions: p.accept_versions,
            only_hosts: p.only_hosts.clone(),
            without_hosts: p.without_hosts.clone(),
            paths: part.paths,
            keep: part.keep,
            namespaces: part.namespaces_include,
            namespaces_exclude: part.namespaces_exclude,
            namespaces_rename: part.namespaces_rename.into_iter().map(|r| (r.from, r.to)).collect(),
            keys: part.keys,
            logins: part.logins,
            users_and_roles: part.users_and_roles,
        }
    }
}

impl From<&wire::Plan> for PlanView {
    fn from(p: &wire::Plan) -> Self {
        let replacement = |r: &wire::Replacement| ReplacementView {
            kind: text::kind_word(r.kind),
            artifact_id: some(&r.artifact_id),
            node: r.node.clone(),
            target: r.target.clone(),
            current: r.current.clone(),
            incoming: r.incoming.clone(),
            size_bytes: r.size_bytes,
            parts: r.parts.clone(),
        };
        let unit = |u: &wire::Unit| UnitView { node: u.node.clone(), name: some(&u.name), runs: u.runs };
        let consequence = |c: &wire::Consequence| ConsequenceView {
            what: c.what.clone(),
            names: c.names.clone(),
            text: c.text.clone(),
        };
        let refusal = |r: &wire::Refusal| RefusalView { law: some(&r.law), message: r.message.clone() };
        let prediction = p.prediction.clone().unwrap_or_default();
        Self {
            backup_id: p.backup_id.clone(),
            digest: p.digest.iter().map(|b| format!("{b:02x}")).collect(),
            options: p.into(),
            replacements: p.replacements.iter().map(replacement).collect(),
            units: p.units.iter().map(unit).collect(),
            steps: p.steps.iter().map(StepView::from).collect(),
            notes: p.notes.clone(),
            corrections: p.corrections.clone(),
            rejoin: p.rejoin.clone(),
            consequences: p.consequences.iter().map(consequence).collect(),
            prediction: PredictionView {
                total_seconds: seconds(prediction.total.as_ref()),
                stopped_seconds: seconds(prediction.stopped.as_ref()),
                because: some(&prediction.because),
            },
            refusals: p.refusals.iter().map(refusal).collect(),
            after: some(&p.after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_for_programs_leaves_nothing_out() {
        let selection = wire::Selection { paths: vec!["config".into()], logins: true, ..Default::default() };
        let plan = wire::Plan {
            selection: Some(selection),
            safety: wire::Safety::BeforeStop.into(),
            on_failure: wire::OnFailure::RollBack.into(),
            without_hosts: vec!["h3".into()],
            units: vec![wire::Unit { node: "h1".into(), name: "prexorcloud-controller.service".into(), runs: true }],
            rejoin: vec!["node-1".into()],
            consequences: vec![wire::Consequence {
                what: "rejoin".into(),
                names: vec!["node-1".into()],
                text: "must rejoin".into(),
            }],
            prediction: Some(wire::Prediction {
                total: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let json = serde_json::to_value(PlanView::from(&plan)).unwrap();
        let options = &json["options"];
        assert_eq!((&options["safety"], &options["on_failure"]), (&"before-stop".into(), &"roll-back".into()));
        assert_eq!((&options["paths"][0], &options["logins"]), (&"config".into(), &true.into()));
        assert_eq!(options["without_hosts"][0], "h3");
        assert_eq!((&json["units"][0]["runs"], &json["rejoin"][0]), (&true.into(), &"node-1".into()));
        assert_eq!(json["consequences"][0]["what"], "rejoin");
        assert_eq!(
            (&json["prediction"]["total_seconds"], &json["prediction"]["stopped_seconds"]),
            (&90.0.into(), &().into())
        );
    }
}
