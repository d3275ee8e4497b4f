//! From a job's events to what people see while they wait: a live table on a terminal, one row per artifact and node;
//! plain lines elsewhere, few of them; and the steps of a restore, one row per host or a line for each.

use std::collections::{BTreeMap, BTreeSet};

use indicatif::{ProgressBar, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use prexor_proto::backup::{JobEvent, JobState, Plan, Progress, StepEvent, StepState, StepVerb, job_event::Event};

use crate::{meter::Meter, printer::Printer, text, view};

mod steps;

use steps::Steps;

/// How often a plain line repeats per artifact, as long as there are few of them.
const LINE_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// With more artifacts than this each has its line less often: all of them together fill no log.
const FEW: usize = 4;

/// Of a collection or path that is longer the end is shown.
const SUBJECT: usize = 60;

/// Columns of a row that are taken before its subject begins.
const BEFORE_SUBJECT: usize = 68;

/// What a subject in a row gets however narrow the terminal is, and where its width is not known.
const SUBJECT_AT_LEAST: usize = 12;

/// Shows the events of one job.
pub struct Reporter<'a> {
    printer: &'a Printer,
    tracks: BTreeMap<(String, String), Track>,
    steps: Steps,
    is_of_restore: bool,
    warned: BTreeSet<String>,
    queued: bool,
}

/// One artifact on one node.
struct Track {
    meter: Meter,
    bar: ProgressBar,
    last_line: Option<Timestamp>,
    finished: bool,
}

impl<'a> Reporter<'a> {
    /// Shows events on this printer.
    pub fn new(printer: &'a Printer) -> Self {
        let (tracks, steps, warned) = (BTreeMap::new(), Steps::default(), BTreeSet::new());
        Self { printer, tracks, steps, is_of_restore: false, warned, queued: false }
    }

    /// Gets ready for the steps of this plan.
    pub fn expect(&mut self, plan: &Plan) {
        self.is_of_restore = true;
        if self.printer.draws_bars() {
            self.steps.expect(self.printer, plan);
        }
    }

    /// Whether it is a restore that is shown, as far as can be told.
    pub fn is_of_restore(&self) -> bool {
        self.is_of_restore
    }

    /// Shows an event.
    pub fn event(&mut self, event: &JobEvent) {
        let at = view::at(event.at.as_ref()).unwrap_or(Timestamp::UNIX_EPOCH);
        match &event.event {
            Some(Event::Progress(progress)) => self.progress(at, progress),
            Some(Event::Step(step)) => self.step(step),
            Some(Event::Message(message)) if message.warning => self.warning(&message.text),
            Some(Event::Message(message)) => self.printer.note(&message.text),
            // For whom it waits comes as a message.
            Some(Event::State(state)) if *state == JobState::Queued as i32 => self.queued = true,
            Some(Event::State(state)) if *state == JobState::Running as i32 => {
                if std::mem::take(&mut self.queued) {
                    self.printer.note("it is its turn");
                }
            }
            // What came of it is printed by the command, from the job itself.
            Some(Event::State(_) | Event::Failure(_) | Event::Result(_)) | None => {}
        }
    }

    /// Prints a warning, unless it was printed already.
    pub fn warning(&mut self, warning: &str) {
        if self.warned.insert(warning.to_owned()) {
            self.printer.warning(warning);
        }
    }

    /// Takes the bars away.
    pub fn clear(&mut self) {
        for track in self.tracks.values() {
            track.bar.finish_and_clear();
        }
        self.tracks.clear();
        self.steps.clear();
    }

    fn progress(&mut self, at: Timestamp, progress: &Progress) {
        let key = (progress.artifact_id.clone(), progress.node.clone());
        let interval = LINE_INTERVAL * (1 + self.tracks.len() / FEW) as i32;
        let track = self.tracks.entry(key).or_insert_with(|| {
            let bar = self.printer.bars().add(ProgressBar::no_length().with_style(style(false)));
            bar.set_prefix(text::clean(&label(progress)));
            Track { meter: Meter::default(), bar, last_line: None, finished: false }
        });
        track.meter.sample(at, progress.done_bytes, progress.total_bytes);
        if self.printer.draws_bars() {
            if let Some(total) = progress.total_bytes.filter(|t| *t > 0) {
                track.bar.set_style(style(true));
                track.bar.set_length(total.max(progress.done_bytes));
            }
            track.bar.set_position(progress.done_bytes);
            track.bar.set_message(text::clean(&row(progress, &track.meter, subject_columns())));
            track.bar.tick();
            return;
        }
        let whole = progress.total_bytes.is_some_and(|t| progress.done_bytes >= t);
        let due = track.last_line.is_none_or(|t| at.duration_since(t) >= interval);
        if due || (whole && !track.finished) {
            track.last_line = Some(at);
            self.printer.note(&format!("{}: {}", label(progress), describe(progress, &track.meter)));
        }
        track.finished = whole;
    }

    fn step(&mut self, event: &StepEvent) {
        let Some(step) = &event.step else { return };
        let on = if step.node.is_empty() { step.title.clone() } else { format!("{}: {}", step.node, step.title) };
        let with_detail = |text: &str| match event.detail.as_str() {
            "" => text.to_owned(),
            detail => format!("{text}: {detail}"),
        };
        let swap = step.verb() == StepVerb::Swap;
        self.is_of_restore = true;
        let drawn = self.printer.draws_bars();
        if drawn {
            self.steps.show(self.printer, step, event.state());
        }
        match event.state() {
            StepState::Started | StepState::Reverted if drawn => {}
            StepState::Started if !swap => self.printer.note(&format!("{on}...")),
            StepState::Done if swap => self.printer.line(&format!("RestoreExecutor: {}... OK", step.title)),
            StepState::Failed => {
                if swap {
                    self.printer.line(&format!("RestoreExecutor: {}... FAILED", step.title));
                }
                self.printer.note(&with_detail(&format!("{on}: failed")));
            }
            StepState::Reverted => self.printer.note(&with_detail(&format!("{on}: taken back"))),
            StepState::Done if !event.detail.is_empty() => self.printer.note(&with_detail(&on)),
            StepState::Done | StepState::Started | StepState::Unspecified => {}
        }
    }
}

/// `mongo on h1`; ids that name their node already stay as they are.
fn label(progress: &Progress) -> String {
    match (progress.artifact_id.as_str(), progress.node.as_str()) {
        ("", "") => "coordinator".to_owned(),
        ("", node) => node.to_owned(),
        (artifact, "") => artifact.to_owned(),
        (artifact, node) if artifact.ends_with(&format!("-{node}")) => artifact.to_owned(),
        (artifact, node) => format!("{artifact} on {node}"),
    }
}

/// `120 MiB of 450 MiB (26 %), 35 MiB/s, 9 s left, audit_log`.
fn describe(progress: &Progress, meter: &Meter) -> String {
    let mut words = text::bytes(progress.done_bytes);
    if let Some(total) = progress.total_bytes.filter(|t| *t > 0) {
        let percent = (u128::from(progress.done_bytes) * 100 / u128::from(total)).min(100);
        words.push_str(&format!(" of {} ({percent} %)", text::bytes(total)));
    } else if progress.done_items > 0 {
        words.push_str(&format!(", {} items", text::count(progress.done_items)));
    }
    if let Some(rate) = meter.rate() {
        words.push_str(&format!(", {}/s", text::bytes(rate as u64)));
    }
    if let Some(eta) = meter.eta().filter(|eta| eta.is_positive()) {
        words.push_str(&format!(", {} left", text::duration(eta)));
    }
    if !progress.subject.is_empty() {
        words.push_str(&format!(", {}", text::end_of(&progress.subject, SUBJECT)));
    }
    words
}

/// Columns for the subject in a row of the table.
fn subject_columns() -> usize {
    let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    width.saturating_sub(BEFORE_SUBJECT).clamp(SUBJECT_AT_LEAST, SUBJECT)
}

/// The same in columns: ` 26 %   120 MiB   35 MiB/s    9 s left audit_log`.
fn row(progress: &Progress, meter: &Meter, columns: usize) -> String {
    let total = progress.total_bytes.filter(|t| *t > 0);
    let part = total.map(|t| format!("{} %", (u128::from(progress.done_bytes) * 100 / u128::from(t)).min(100)));
    let rate = meter.rate().map(|rate| format!("{}/s", text::bytes(rate as u64))).unwrap_or_default();
    let left = meter.eta().filter(|eta| eta.is_positive()).map(|eta| format!("{} left", text::duration(eta)));
    format!(
        "{:>5} {:>9} {rate:>11} {:>11} {}",
        part.unwrap_or_default(),
        text::bytes(progress.done_bytes),
        left.unwrap_or_default(),
        text::end_of(&progress.subject, columns)
    )
}

fn style(with_bar: bool) -> ProgressStyle {
    let template = if with_bar { "{prefix:18!} [{bar:6}] {wide_msg}" } else { "{prefix:18!} {spinner:8} {wide_msg}" };
    ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use prexor_proto::backup::{Message, Step};

    use super::*;
    use crate::printer::capture;

    fn event(seq: u64, event: Event) -> JobEvent {
        let at = prost_types::Timestamp { seconds: 1_000_000 + seq as i64, nanos: 0 };
        JobEvent { seq, at: Some(at), event: Some(event) }
    }

    fn progress(done: u64, total: Option<u64>) -> Event {
        Event::Progress(Progress {
            node: "h1".into(),
            artifact_id: "mongo".into(),
            subject: "prexorcloud.audit_log".into(),
            done_bytes: done << 20,
            total_bytes: total.map(|t| t << 20),
            done_items: done * 1000,
        })
    }

    fn step(verb: StepVerb, state: StepState, title: &str, detail: &str) -> Event {
        let step = Step { number: 1, verb: verb.into(), node: "h1".into(), title: title.into(), ..Step::default() };
        Event::Step(StepEvent { step: Some(step), state: state.into(), detail: detail.into() })
    }

    #[test]
    fn plain_lines_are_few_and_tell_rate_and_time() {
        let (printer, captured) = capture::printer(false);
        let mut reporter = Reporter::new(&printer);
        for s in 0..=20 {
            reporter.event(&event(s, progress(s * 10, Some(200))));
        }
        reporter.event(&event(21, progress(200, Some(200))));
        reporter.clear();
        assert_eq!(
            captured.err(),
            "mongo on h1: 0 B of 200 MiB (0 %), prexorcloud.audit_log\n\
             mongo on h1: 100 MiB of 200 MiB (50 %), 10 MiB/s, 10 s left, prexorcloud.audit_log\n\
             mongo on h1: 200 MiB of 200 MiB (100 %), 10 MiB/s, prexorcloud.audit_log\n"
        );
        assert_eq!(captured.out(), "");
    }

    #[test]
    fn a_restore_says_what_the_guide_shows() {
        let (printer, captured) = capture::printer(false);
        let mut reporter = Reporter::new(&printer);
        let events = [
            step(StepVerb::Stage, StepState::Started, "stage mongo", ""),
            step(StepVerb::Stage, StepState::Done, "stage mongo", ""),
            step(StepVerb::Swap, StepState::Started, "drop+restore mongo", ""),
            step(StepVerb::Swap, StepState::Done, "drop+restore mongo", "12 collections"),
            step(StepVerb::Swap, StepState::Done, "replace valkey RDB", ""),
            step(StepVerb::Swap, StepState::Failed, "untar /etc/prexorcloud", "disk full"),
            step(StepVerb::Swap, StepState::Reverted, "drop+restore mongo", ""),
        ];
        for (seq, e) in events.into_iter().enumerate() {
            reporter.event(&event(seq as u64, e));
        }
        assert_eq!(
            captured.out(),
            "RestoreExecutor: drop+restore mongo... OK\n\
             RestoreExecutor: replace valkey RDB... OK\n\
             RestoreExecutor: untar /etc/prexorcloud... FAILED\n"
        );
        assert_eq!(
            captured.err(),
            "h1: stage mongo...\n\
             h1: untar /etc/prexorcloud: failed: disk full\n\
             h1: drop+restore mongo: taken back\n"
        );
    }

    #[test]
    fn warnings_come_once() {
        let (printer, captured) = capture::printer(false);
        let mut reporter = Reporter::new(&printer);
        reporter.event(&event(1, Event::Message(Message { warning: true, text: "socket skipped".into() })));
        reporter.event(&event(2, Event::Message(Message { warning: false, text: "all quiet".into() })));
        reporter.warning("socket skipped");
        assert_eq!(captured.err(), "warning: socket skipped\nall quiet\n");
    }

    #[test]
    fn who_waits_says_for_whom_and_when_its_turn_has_come() {
        let (printer, captured) = capture::printer(false);
        let mut reporter = Reporter::new(&printer);
        let behind = "queued behind job-1 (backup of mongo, running for 3 min)";
        for (seq, e) in [
            Event::State(JobState::Queued.into()),
            Event::Message(Message { warning: false, text: behind.into() }),
            Event::State(JobState::Running.into()),
        ]
        .into_iter()
        .enumerate()
        {
            reporter.event(&event(seq as u64, e));
        }
        assert_eq!(captured.err(), format!("{behind}\nit is its turn\n"));
    }

    #[test]
    fn many_agents_do_not_fill_a_log() {
        let lines_of = |nodes: u64| {
            let (printer, captured) = capture::printer(false);
            let mut reporter = Reporter::new(&printer);
            for s in 0..600 {
                for node in 0..nodes {
                    let figures = Progress {
                        node: format!("h{node}"),
                        artifact_id: "files".into(),
                        done_bytes: s,
                        total_bytes: Some(600),
                        ..Progress::default()
                    };
                    reporter.event(&event(s, Event::Progress(figures)));
                }
            }
            captured.err().lines().count()
        };
        assert_eq!(lines_of(1), 60);
        assert!(lines_of(40) <= 40 * 7, "{}", lines_of(40));
    }

    #[test]
    fn rows_are_columns_and_show_the_end_of_long_paths() {
        let mut meter = Meter::default();
        let at = |s: i64| Timestamp::from_second(1_000_000 + s).unwrap();
        meter.sample(at(0), 0, Some(450 << 20));
        meter.sample(at(4), 120 << 20, Some(450 << 20));
        let path = format!("data/{}/modules/jar.bin", "x".repeat(300));
        let figures =
            Progress { done_bytes: 120 << 20, total_bytes: Some(450 << 20), subject: path, ..Progress::default() };
        assert_eq!(row(&figures, &meter, 11), " 26 %   120 MiB    30 MiB/s   11 s left …es/jar.bin");
        assert_eq!(row(&figures, &meter, 17), " 26 %   120 MiB    30 MiB/s   11 s left …/modules/jar.bin");
        assert!(describe(&figures, &meter).chars().count() < 130, "{}", describe(&figures, &meter));
        let unknown = Progress { done_bytes: 5, subject: "a".into(), ..Progress::default() };
        let columns = |row: String| row.chars().count();
        assert_eq!(columns(row(&unknown, &Meter::default(), 11)), columns(row(&figures, &meter, 11)) - 10);
        // What is before the subject: the prefix, the bar, and these columns.
        assert_eq!(BEFORE_SUBJECT, 18 + 1 + 8 + 1 + columns(row(&figures, &meter, 11)) - 11);
    }
}
