//! What came out: a table of ratios for people, or everything as JSON.

use std::{collections::BTreeMap, fmt, fs};

use serde::Serialize;

use super::{Options, meter::Usage};

/// Everything that was measured. Displays as tables.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was generated.
    pub data: Vec<String>,
    seed: u64,
    repeat: u32,
    processors: usize,
    /// One minute's load averages at the begin and the end: what else the machine did.
    load: Vec<String>,
    /// Each of the ratios.
    pub ratios: Vec<Ratio>,
    rows: Vec<Row>,
    /// Seconds of the steps of restores.
    steps: Vec<(&'static str, &'static str, String, f64)>,
}

/// One time that something was timed.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) scope: &'static str,
    pub(super) name: &'static str,
    pub(super) seconds: f64,
    pub(super) usage: BTreeMap<&'static str, Usage>,
}

/// Something of ours in relation to its floor.
#[derive(Debug, Serialize)]
pub struct Ratio {
    scope: &'static str,
    ours: &'static str,
    floor: &'static str,
    /// The median over the turns.
    pub median: f64,
    least: f64,
    most: f64,
    /// What it should be at most. It is shown, never enforced: the machine may be busy.
    pub goal: Option<f64>,
}

const SIZE: &str = "size";
const GZIP: &str = "gzip -6";
const PROCESSES: [&str; 4] = ["agent", "coordinator", "mongod", "valkey"];

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            data: Vec::new(),
            seed: options.seed,
            repeat: options.repeat,
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            load: vec![load()],
            ratios: Vec::new(),
            rows: Vec::new(),
            steps: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, data: String) {
        self.data.push(data);
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// A step of a restore took this long.
    pub(super) fn step(&mut self, scope: &'static str, name: &'static str, verb: &str, seconds: f64) {
        self.steps.push((scope, name, verb.to_owned(), seconds));
    }

    pub(super) fn finish(&mut self) {
        self.load.push(load());
    }

    /// The size of an artifact in relation to that of `gzip -6`, the last time that it is told.
    pub(super) fn sizes(&mut self, scope: &'static str, ours: u64, gzip: u64) {
        self.sizes_of(scope, SIZE, ours, gzip);
    }

    /// The same for a size that has a name of its own; only the plain one has a goal.
    pub(super) fn sizes_of(&mut self, scope: &'static str, name: &'static str, ours: u64, gzip: u64) {
        self.ratios.retain(|r| (r.scope, r.ours) != (scope, name));
        let goal = (name == SIZE).then_some(1.05);
        self.push(scope, (name, GZIP), goal, vec![ours as f64 / gzip as f64]);
    }

    /// Wall time of `ours` by that of `floor`, turn by turn.
    pub(super) fn ratio(&mut self, scope: &'static str, ours: &'static str, floor: &'static str, goal: Option<f64>) {
        let values = self.seconds(scope, ours).zip(self.seconds(scope, floor)).map(|(o, f)| o / f).collect();
        self.push(scope, (ours, floor), goal, values);
    }

    /// The same of `ours` without so many times what `less` took, called `shown`.
    pub(super) fn ratio_less(
        &mut self,
        scope: &'static str,
        (ours, shown): (&'static str, &'static str),
        (less, times): (&'static str, f64),
        floor: &'static str,
        goal: Option<f64>,
    ) {
        let turns = self.seconds(scope, ours).zip(self.seconds(scope, less)).zip(self.seconds(scope, floor));
        let values = turns.map(|((o, l), f)| (o - times * l) / f).collect();
        self.push(scope, (shown, floor), goal, values);
    }

    /// The 95th percentile of `ours` by that of `floor`.
    pub(super) fn p95(&mut self, scope: &'static str, ours: &'static str, floor: &'static str, goal: Option<f64>) {
        let of = |name| {
            let mut seconds: Vec<f64> = self.seconds(scope, name).collect();
            seconds.sort_by(f64::total_cmp);
            // The smallest that at least 95 of 100 do not exceed.
            seconds.get((seconds.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
        };
        let ratio = of(ours) / of(floor);
        self.push(scope, (ours, floor), goal, vec![ratio]);
    }

    fn push(
        &mut self,
        scope: &'static str,
        (ours, floor): (&'static str, &'static str),
        goal: Option<f64>,
        mut values: Vec<f64>,
    ) {
        values.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (values.first(), values.last()) else { return };
        self.ratios.push(Ratio { scope, ours, floor, median: median(&mut values), least, most, goal });
    }

    fn seconds(&self, scope: &'static str, name: &'static str) -> impl Iterator<Item = f64> {
        self.rows.iter().filter(move |r| r.scope == scope && r.name == name).map(|r| r.seconds)
    }

    /// Scopes and names in the order in which they were first timed.
    fn kinds(&self) -> Vec<(&'static str, &'static str)> {
        let mut kinds = Vec::new();
        for row in &self.rows {
            if !kinds.contains(&(row.scope, row.name)) {
                kinds.push((row.scope, row.name));
            }
        }
        kinds
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11}{:<30}{:>9}", "scope", "phase", "wall s")?;
        for name in PROCESSES {
            write!(f, "{:>15}", format!("{name} s"))?;
        }
        writeln!(f, "{:>13}{:>19}", "agent MiB", "coordinator MiB")?;
        for (scope, name) in self.kinds() {
            let mut seconds: Vec<f64> = self.seconds(scope, name).collect();
            write!(f, "{scope:<11}{name:<30}{:>9.2}", median(&mut seconds))?;
            let of = |process| {
                let rows = self.rows.iter().filter(move |r| r.scope == scope && r.name == name);
                rows.filter_map(move |r| r.usage.get(process)).collect::<Vec<&Usage>>()
            };
            for process in PROCESSES {
                let mut cpu: Vec<f64> = of(process).iter().map(|u| u.cpu).collect();
                let shown = if cpu.is_empty() { "-".to_owned() } else { format!("{:.2}", median(&mut cpu)) };
                write!(f, "{shown:>15}")?;
            }
            for (process, width) in [("agent", 13), ("coordinator", 19)] {
                let used = of(process);
                let peak = used.iter().map(|u| u.peak).max().unwrap_or_default() as f64 / f64::from(1 << 20);
                let life = if used.iter().all(|u| u.of_phase) { "" } else { "*" };
                write!(f, "{:>width$}", format!("{peak:.1}{life}"))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    /// Where the time of restores goes: a line for each kind of restore.
    fn step_lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown: Vec<(&str, &str, &str)> = Vec::new();
        for (scope, name, verb, _) in &self.steps {
            if shown.contains(&(scope, name, verb)) {
                continue;
            }
            if shown.last().is_none_or(|(s, n, _)| (s, n) != (scope, name)) {
                write!(f, "{}{scope}, {name}:", if shown.is_empty() { "" } else { "\n" })?;
            }
            shown.push((scope, name, verb));
            let of = self.steps.iter().filter(|s| (s.0, s.1, &s.2) == (*scope, *name, verb));
            write!(f, " {verb} {:.2}", median(&mut of.map(|s| s.3).collect::<Vec<_>>()))?;
        }
        if shown.is_empty() { Ok(()) } else { writeln!(f) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for data in &self.data {
            writeln!(f, "{data}")?;
        }
        writeln!(
            f,
            "seed {}, {} turns, warm cache, {} processors, load average {}\n",
            self.seed,
            self.repeat,
            self.processors,
            self.load.join(" then ")
        )?;
        writeln!(f, "{:<11}{:<56}{:>7}{:>16}{:>7}", "scope", "ours / floor", "ratio", "least..most", "goal")?;
        for r in &self.ratios {
            let spread = format!("{:.2}..{:.2}", r.least, r.most);
            let goal = r.goal.map_or(String::new(), |goal| {
                format!("{goal:>7.2}  {}", if r.median <= goal { "met" } else { "missed" })
            });
            let what = format!("{} / {}", r.ours, r.floor);
            writeln!(f, "{:<11}{what:<56}{:>7.2}{spread:>16}{goal}", r.scope, r.median)?;
        }
        writeln!(f, "\nMedians of seconds; peaks are the largest VmHWM of any turn:")?;
        self.table(f)?;
        writeln!(f, "\nMedians of the seconds of each step of a restore:")?;
        self.step_lines(f)?;
        if self.rows.iter().flat_map(|r| r.usage.values()).any(|u| !u.of_phase) {
            writeln!(f, "* of the process's life so far: this kernel does not reset VmHWM")?;
        }
        Ok(())
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_medians_over_turns_and_goals_are_only_shown() {
        let mut report = Report::new(&Options::default());
        for (floor, ours) in [(1.0, 2.0), (2.0, 3.0), (1.0, 9.0)] {
            for (name, seconds) in [("floor", floor), ("capture", ours)] {
                report.add(Row { scope: "mongo", name, seconds, usage: BTreeMap::new() });
            }
        }
        report.ratio("mongo", "capture", "floor", Some(1.9));
        report.sizes("mongo", 104, 100);
        assert_eq!(report.ratios[0].median, 2.0);
        for n in 1..=41 {
            for (name, seconds) in [("full", f64::from(4 * n)), ("empty", f64::from(n))] {
                report.add(Row { scope: "catalog", name, seconds, usage: BTreeMap::new() });
            }
        }
        report.p95("catalog", "full", "empty", Some(5.0));
        assert_eq!(report.ratios.last().map(|r| r.median), Some(4.0));
        let text = report.to_string();
        assert!(text.contains("missed") && text.contains("1.50..9.00") && text.contains("1.04"), "{text}");
    }
}
