//! How long a restore will take, by what earlier ones and backups took here. Pure arithmetic over measured steps.
//!
//! What was never done here is not guessed at: nothing is said of the whole then but why.

use std::{collections::BTreeMap, time::Duration};

use jiff::SignedDuration;
use prexor_format::{artifact::ArtifactKind, text::things};

use super::{Replacement, Step, Verb};

/// A step that was taken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// What was done.
    pub verb: Verb,
    /// To an artifact of this kind; `None` where it was about none.
    pub kind: Option<ArtifactKind>,
    /// Stored bytes that were restored, or saved.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// How long a restore will take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prediction {
    /// From its first step to its last; `None` where that is not known.
    pub total: Option<SignedDuration>,
    /// Of that, with the controllers stopped; `None` also where none is.
    pub stopped: Option<SignedDuration>,
    /// By what it is known, or what of it is not.
    pub because: String,
    steps: BTreeMap<u32, Duration>,
}

impl Prediction {
    /// How long this step will take, where that is known.
    pub fn of_step(&self, number: u32) -> Option<SignedDuration> {
        self.steps.get(&number).and_then(|d| SignedDuration::try_from(*d).ok())
    }
}

/// What follows from the past for these steps.
pub(super) fn of(steps: &[Step], replacements: &[Replacement], past: &[Past]) -> Prediction {
    let size = |step: &Step| match (step.verb, &step.artifact_id) {
        // Everything that is replaced is saved; what is live is taken to be as large as what comes in its place.
        (Verb::Safety, _) => (None, replacements.iter().map(|r| r.size_bytes).sum::<u64>()),
        (_, Some(id)) => {
            let replacement = replacements.iter().find(|r| r.artifact_id == *id);
            (replacement.map(|r| r.kind), replacement.map_or(0, |r| r.size_bytes))
        }
        (_, None) => (None, 0),
    };
    let mut known = BTreeMap::new();
    let mut unknown: Vec<String> = Vec::new();
    for step in steps {
        let (kind, bytes) = size(step);
        let alike: Vec<&Past> = past.iter().filter(|p| p.verb == step.verb && p.kind == kind).collect();
        match estimate(&alike, bytes) {
            Some(took) => drop(known.insert(step.number, took)),
            None => {
                let what =
                    kind.map_or_else(|| word(step.verb).to_owned(), |kind| format!("{kind}: {}", word(step.verb)));
                if !unknown.contains(&what) {
                    unknown.push(what);
                }
            }
        }
    }
    let sum = |which: &dyn Fn(&Step) -> bool| together(steps.iter().filter(|s| which(s)), &known);
    let is_stopped = stopped(steps);
    let (total, stops) = (unknown.is_empty() && !steps.is_empty(), steps.iter().any(|s| s.verb == Verb::Start));
    let because = match unknown.as_slice() {
        _ if steps.is_empty() => String::new(),
        [] => format!("by what {} of earlier restores took here", things(past.len() as u64, "step")),
        _ if past.is_empty() => "not known: no restore has succeeded here yet that could be measured".to_owned(),
        unknown => format!("not known: never measured here was {}", unknown.join(", ")),
    };
    Prediction {
        total: total.then(|| sum(&|_| true)),
        stopped: (total && stops).then(|| sum(&|step| is_stopped.contains(&step.number))),
        because,
        steps: known,
    }
}

/// What is taken while the controllers are stopped.
fn stopped(steps: &[Step]) -> Vec<u32> {
    let first = steps.iter().position(|s| s.verb == Verb::Hold);
    let last = steps.iter().rposition(|s| s.verb == Verb::Start);
    let (Some(first), Some(last)) = (first, last) else { return Vec::new() };
    steps.get(first..=last).unwrap_or_default().iter().map(|s| s.number).collect()
}

/// Controllers are stopped side by side, and started so but for the first one.
fn together<'a>(steps: impl Iterator<Item = &'a Step>, known: &BTreeMap<u32, Duration>) -> SignedDuration {
    let (mut sum, mut longest, mut starts) = (Duration::ZERO, BTreeMap::<bool, Duration>::new(), 0);
    for step in steps {
        let took = known.get(&step.number).copied().unwrap_or_default();
        starts += u32::from(step.verb == Verb::Start);
        if step.verb == Verb::Hold || (step.verb == Verb::Start && starts > 1) {
            let longest = longest.entry(step.verb == Verb::Hold).or_default();
            *longest = (*longest).max(took);
        } else {
            sum += took;
        }
    }
    SignedDuration::try_from(sum + longest.values().sum::<Duration>()).unwrap_or(SignedDuration::MAX)
}

/// By the bytes that went through in all of the past, and never less than the quickest of it: what is small takes its time too.
fn estimate(past: &[&Past], bytes: u64) -> Option<Duration> {
    let quickest = past.iter().map(|p| p.took).min()?;
    let (sum, time) = past.iter().fold((0_u64, Duration::ZERO), |(b, t), p| (b.saturating_add(p.bytes), t + p.took));
    if sum == 0 || bytes == 0 {
        return Some(time / u32::try_from(past.len()).ok()?);
    }
    let nanos = u128::from(bytes) * time.as_nanos() / u128::from(sum);
    Some(Duration::from_nanos(u64::try_from(nanos).ok()?).max(quickest))
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Preflight => "looking at the hosts",
        Verb::Stage => "sending",
        Verb::Prepare => "preparing",
        Verb::Hold => "stopping a controller",
        Verb::Silence => "proving silence",
        Verb::Safety => "saving what is replaced",
        Verb::Swap => "exchanging",
        Verb::Check => "comparing",
        Verb::Start => "starting a controller",
        Verb::Release => "releasing a controller",
        Verb::Commit => "letting go of the old",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn step(number: u32, verb: Verb, artifact: Option<&str>) -> Step {
        Step { number, verb, node: None, artifact_id: artifact.map(str::to_owned), title: String::new() }
    }

    fn replacement(size_bytes: u64) -> Replacement {
        Replacement {
            kind: ArtifactKind::Mongo,
            artifact_id: "mongo".into(),
            node: "h1".parse().unwrap(),
            target: String::new(),
            current: String::new(),
            incoming: String::new(),
            size_bytes,
            parts: vec![],
        }
    }

    fn past(verb: Verb, kind: Option<ArtifactKind>, bytes: u64, seconds: u64) -> Past {
        Past { verb, kind, bytes, took: S(seconds) }
    }

    #[test]
    fn sizes_and_the_past_give_a_time_and_controllers_move_together() {
        let mongo = Some(ArtifactKind::Mongo);
        let steps = [
            step(1, Verb::Prepare, Some("mongo")),
            step(2, Verb::Hold, None),
            step(3, Verb::Hold, None),
            step(4, Verb::Swap, Some("mongo")),
            step(5, Verb::Start, None),
            step(6, Verb::Start, None),
            step(7, Verb::Start, None),
            step(8, Verb::Commit, Some("mongo")),
        ];
        let known = [
            past(Verb::Prepare, mongo, 100, 10),
            past(Verb::Prepare, mongo, 300, 30),
            past(Verb::Hold, None, 0, 4),
            past(Verb::Swap, mongo, 100, 1),
            past(Verb::Start, None, 0, 20),
            past(Verb::Commit, mongo, 100, 2),
        ];
        let predicted = of(&steps, &[replacement(200)], &known);
        // 20 to prepare, 4 for both stops, 2 to swap, 20 for the first start and 20 for the others, 4 to commit.
        assert_eq!(predicted.total, Some(SignedDuration::from_secs(70)));
        assert_eq!(predicted.stopped, Some(SignedDuration::from_secs(46)));
        assert_eq!(predicted.of_step(1), Some(SignedDuration::from_secs(20)));
        // What is small takes no less than what was quickest.
        assert_eq!(of(&steps, &[replacement(1)], &known).of_step(1), Some(SignedDuration::from_secs(10)));
    }

    #[test]
    fn what_was_never_measured_is_not_guessed_at() {
        let steps = [step(1, Verb::Prepare, Some("mongo")), step(2, Verb::Swap, Some("mongo"))];
        let nothing = of(&steps, &[replacement(200)], &[]);
        assert_eq!((nothing.total, nothing.stopped), (None, None));
        assert!(nothing.because.contains("no restore has succeeded here yet"), "{}", nothing.because);
        let some = of(&steps, &[replacement(200)], &[past(Verb::Prepare, Some(ArtifactKind::Mongo), 1, 1)]);
        assert_eq!(some.total, None);
        assert_eq!(some.because, "not known: never measured here was mongo: exchanging");
        let of_files = past(Verb::Swap, Some(ArtifactKind::Filesystem), 1, 1);
        assert_eq!(of(&steps[1..], &[replacement(200)], &[of_files]).total, None, "another kind says nothing of it");
    }
}
