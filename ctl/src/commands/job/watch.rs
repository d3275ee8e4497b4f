//! `prexorctl job watch`.

use jiff::Timestamp;
use prexor_proto::backup::{Job, JobEvent, JobState, Message, Progress, StepEvent, job_event::Event};
use serde::Serialize;

use crate::{
    client::Client,
    commands::{backup::verify, outcome},
    exit::Exit,
    failure::Failure,
    follow::{self, Watched},
    printer::Printer,
    view::{self, FailureView, ResultView, StepView},
};
use prexor_proto::backup::job_result;

/// An event, one per line: `seq`, `at`, and one of `state`, `progress`, `step`, `message`, `failure`, `result`.
#[derive(Serialize)]
struct EventView {
    seq: u64,
    at: Option<Timestamp>,
    #[serde(flatten)]
    what: Option<What>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    State(&'static str),
    Progress(ProgressView),
    Step(StepEventView),
    Message(MessageView),
    Failure(FailureView),
    Result(ResultView),
}

#[derive(Serialize)]
struct ProgressView {
    node: Option<String>,
    artifact_id: Option<String>,
    subject: Option<String>,
    done_bytes: u64,
    total_bytes: Option<u64>,
    done_items: u64,
}

#[derive(Serialize)]
struct StepEventView {
    state: String,
    detail: Option<String>,
    #[serde(flatten)]
    step: Option<StepView>,
}

#[derive(Serialize)]
struct MessageView {
    warning: bool,
    text: String,
}

/// Watches a job to its end; ends as the command that started it would have.
///
/// # Errors
/// When there is none of this id, or it has no good end.
pub async fn run(printer: &Printer, id: String) -> Result<Exit, Failure> {
    let client = Client::connect().await?;
    if printer.is_json() {
        let watched = follow::to_end(&client, printer, &id, |event| printer.json_line(&EventView::from(event))).await?;
        return match watched {
            Watched::Detached => Ok(Exit::Detached),
            Watched::Ended(job) => end(&job),
        };
    }
    let job = Job { id, ..Job::default() };
    match outcome::wait(&client, printer, &job, None).await? {
        Some(job) => outcome::print(printer, &job),
        None => Ok(Exit::Detached),
    }
}

fn end(job: &Job) -> Result<Exit, Failure> {
    if let job_result::Result::Verify(report) = outcome::result(job)? {
        verify::verdict(&job.backup_id, report)?;
    }
    Ok(Exit::Ok)
}

impl From<&JobEvent> for EventView {
    fn from(event: &JobEvent) -> Self {
        let what = event.event.as_ref().and_then(|event| {
            Some(match event {
                Event::State(state) => What::State(view::job_state(JobState::try_from(*state).unwrap_or_default())),
                Event::Progress(progress) => What::Progress(progress.into()),
                Event::Step(step) => What::Step(step.into()),
                Event::Message(Message { warning, text }) => {
                    What::Message(MessageView { warning: *warning, text: text.clone() })
                }
                Event::Failure(failure) => What::Failure(failure.into()),
                Event::Result(result) => What::Result(result.result.as_ref()?.into()),
            })
        });
        Self { seq: event.seq, at: view::at(event.at.as_ref()), what }
    }
}

impl From<&Progress> for ProgressView {
    fn from(p: &Progress) -> Self {
        Self {
            node: view::some(&p.node),
            artifact_id: view::some(&p.artifact_id),
            subject: view::some(&p.subject),
            done_bytes: p.done_bytes,
            total_bytes: p.total_bytes,
            done_items: p.done_items,
        }
    }
}

impl From<&StepEvent> for StepEventView {
    fn from(s: &StepEvent) -> Self {
        Self {
            state: view::word(s.state().as_str_name(), "STEP_STATE_"),
            detail: view::some(&s.detail),
            step: s.step.as_ref().map(StepView::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::{Step, StepState, StepVerb};

    use super::*;

    fn json(event: Event) -> String {
        serde_json::to_string(&EventView::from(&JobEvent { seq: 7, at: None, event: Some(event) })).unwrap()
    }

    #[test]
    fn events_are_one_line_each() {
        assert_eq!(json(Event::State(JobState::Running.into())), r#"{"seq":7,"at":null,"state":"running"}"#);
        let step =
            Step { number: 3, verb: StepVerb::Swap.into(), title: "drop+restore mongo".into(), ..Step::default() };
        let step = StepEvent { step: Some(step), state: StepState::Done.into(), detail: String::new() };
        let line = json(Event::Step(step));
        assert!(line.contains(r#""step":{"state":"done","detail":null,"number":3,"verb":"swap""#), "{line}");
        let progress = Progress { done_bytes: 5, ..Progress::default() };
        assert!(json(Event::Progress(progress)).contains(r#""done_bytes":5,"total_bytes":null"#));
    }
}
