//! The steps of a restore on a terminal: a row for every host, with what it does at this moment and for how long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use prexor_proto::backup::{Plan, Step, StepState};

use crate::{printer::Printer, text};

/// How often a row that waits for its host is drawn anew.
const TICK: Duration = Duration::from_millis(200);

/// The rows of all hosts, by name; the coordinator's own is the first.
#[derive(Default)]
pub(super) struct Steps {
    rows: BTreeMap<String, Row>,
}

struct Row {
    bar: ProgressBar,
    /// Steps that are this host's, where the plan is known.
    all: usize,
    ended: BTreeSet<u32>,
}

impl Steps {
    /// Rows for everybody who has something to do.
    pub(super) fn expect(&mut self, printer: &Printer, plan: &Plan) {
        for step in &plan.steps {
            self.row(printer, &step.node).all += 1;
        }
        self.rows.values().for_each(|row| row.rest("waiting"));
    }

    /// Shows what has become of a step.
    pub(super) fn show(&mut self, printer: &Printer, step: &Step, state: StepState) {
        let row = self.row(printer, &step.node);
        match state {
            StepState::Started => row.work(&step.title),
            StepState::Done => {
                row.ended.insert(step.number);
                row.rest(&format!("{}: done", step.title));
            }
            StepState::Failed => row.rest(&format!("{}: FAILED", step.title)),
            StepState::Reverted => row.rest(&format!("{}: taken back", step.title)),
            StepState::Unspecified => {}
        }
    }

    /// Takes the rows away.
    pub(super) fn clear(&mut self) {
        self.rows.values().for_each(|row| row.bar.finish_and_clear());
        self.rows.clear();
    }

    fn row(&mut self, printer: &Printer, node: &str) -> &mut Row {
        let name = if node.is_empty() { "coordinator" } else { node };
        self.rows.entry(node.to_owned()).or_insert_with(|| {
            let bar = printer.bars().add(ProgressBar::no_length().with_style(style(false)));
            bar.set_prefix(text::clean(name));
            Row { bar, all: 0, ended: BTreeSet::new() }
        })
    }
}

impl Row {
    fn work(&self, what: &str) {
        self.bar.set_style(style(true));
        self.bar.reset_elapsed();
        self.say(what);
        self.bar.enable_steady_tick(TICK);
    }

    fn rest(&self, what: &str) {
        self.bar.disable_steady_tick();
        self.bar.set_style(style(false));
        self.say(what);
    }

    fn say(&self, what: &str) {
        let of = if self.all > 0 { format!(" of {}", self.all) } else { String::new() };
        self.bar.set_message(text::clean(&format!("{}{of}  {what}", self.ended.len())));
        self.bar.tick();
    }
}

fn style(working: bool) -> ProgressStyle {
    let template = if working { "{prefix:18!} {spinner} {msg} {elapsed}" } else { "{prefix:18!}   {wide_msg}" };
    ProgressStyle::with_template(template).expect("a constant template")
}
