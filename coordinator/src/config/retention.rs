//! How long the classes of backups are kept, which class a backup has that was made without one, and how often backups are
//! verified.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use prexor_format::{artifact::ArtifactKind, class::Class, glob};
use prexor_proto::{
    backup::Backup,
    convert::{class_from_wire, scope_from_wire},
};
use serde::Deserialize;

use crate::retention::Cadence;

/// See the module's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// How long each class is kept.
    pub cadence: Cadence,
    rules: Vec<Rule>,
}

/// Gives a class to backups that have none; every condition that is there must hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    class: Class,
    /// Exactly these kinds.
    #[serde(default)]
    scope: Option<Vec<ArtifactKind>>,
    /// A pattern: `*` stands for anything.
    #[serde(default)]
    description: Option<String>,
}

/// The section as it is written: `24h`, `14d`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRetention {
    hourly: Option<Span>,
    daily: Option<Span>,
    weekly: Option<Span>,
    pre_upgrade: Option<Span>,
    rules: Vec<Rule>,
}

impl Retention {
    /// Refuses times in which nobody could restore anything, and rules that say nothing.
    pub(super) fn validate(raw: RawRetention) -> Result<Self, String> {
        let span = |key: &str, given: Option<Span>, default: SignedDuration| {
            let Some(given) = given else { return Ok(default) };
            match given.to_duration(SpanRelativeTo::days_are_24_hours()) {
                Ok(d) if d >= SignedDuration::from_hours(1) => Ok(d),
                _ => Err(format!("retention.{key} is {given:#}: use 1h or more")),
            }
        };
        let default = Cadence::default();
        let cadence = Cadence {
            hourly: span("hourly", raw.hourly, default.hourly)?,
            daily: span("daily", raw.daily, default.daily)?,
            weekly: span("weekly", raw.weekly, default.weekly)?,
            pre_upgrade: span("pre_upgrade", raw.pre_upgrade, default.pre_upgrade)?,
        };
        for (number, rule) in raw.rules.iter().enumerate() {
            let says = match (&rule.scope, &rule.description) {
                (None, None) => "give it a scope, a description, or both",
                (Some(scope), _) if scope.is_empty() => "give it a scope that is not empty",
                _ => continue,
            };
            return Err(format!("retention.rules: number {} is about every backup: {says}", number + 1));
        }
        Ok(Self { cadence, rules: raw.rules })
    }

    /// The class of a backup: the one that it was made with, or that of the first rule that is about it. What a restore has
    /// saved has none.
    pub fn class_of(&self, backup: &Backup) -> Option<Class> {
        if !backup.safety_of.is_empty() {
            return None;
        }
        let own = class_from_wire(backup.class).ok().flatten();
        let scope = scope_from_wire(&backup.scope).unwrap_or_default();
        own.or_else(|| self.rules.iter().find(|rule| rule.is_about(backup, &scope)).map(|rule| rule.class))
    }
}

impl Rule {
    fn is_about(&self, backup: &Backup, scope: &[ArtifactKind]) -> bool {
        let same =
            |wanted: &Vec<ArtifactKind>| ArtifactKind::ALL.iter().all(|k| wanted.contains(k) == scope.contains(k));
        let fits = |pattern: &String| glob::matches(pattern.as_bytes(), backup.description.as_bytes());
        self.scope.as_ref().is_none_or(same) && self.description.as_ref().is_none_or(fits)
    }
}

/// When backups are verified without anybody asking for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// One backup each time; `None`: never.
    pub every: Option<Duration>,
    /// When one that was verified may be again.
    pub again_after: Duration,
}

/// The section as it is written: `1d`; 0 is never.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawVerification {
    every: Option<Span>,
    again_after: Option<Span>,
}

impl Default for Verification {
    fn default() -> Self {
        let days = |n: u64| Duration::from_secs(n * 86400);
        Self { every: Some(days(1)), again_after: days(30) }
    }
}

impl Verification {
    /// Refuses what nobody could keep up with.
    pub(super) fn validate(raw: &RawVerification) -> Result<Self, String> {
        let span = |key: &str, given: Span| {
            let duration = given.to_duration(SpanRelativeTo::days_are_24_hours()).ok();
            let duration = duration.and_then(|d| Duration::try_from(d).ok()).filter(|d| d.as_secs() > 0);
            duration.ok_or_else(|| format!("verify.{key} is {given:#}: use 1s or more"))
        };
        let default = Self::default();
        let every = match raw.every {
            None => default.every,
            Some(given) if given.is_zero() => None,
            Some(given) => Some(span("every", given)?),
        };
        let again_after = raw.again_after.map_or(Ok(default.again_after), |given| span("again_after", given))?;
        Ok(Self { every, again_after })
    }
}

#[cfg(test)]
mod tests {
    use prexor_proto::convert::{class_to_wire, kind_to_wire};

    use super::*;

    #[test]
    fn rules_give_a_class_to_what_has_none() {
        let rule = |class, scope: &[ArtifactKind], description: Option<&str>| Rule {
            class,
            scope: (!scope.is_empty()).then(|| scope.to_vec()),
            description: description.map(str::to_owned),
        };
        let raw = RawRetention {
            rules: vec![
                rule(Class::PreUpgrade, &[], Some("pre-*")),
                rule(Class::Hourly, &[ArtifactKind::Mongo], None),
                rule(Class::Weekly, &[ArtifactKind::Valkey, ArtifactKind::Mongo], Some("weekly")),
            ],
            ..RawRetention::default()
        };
        let retention = Retention::validate(raw).unwrap();
        let backup = |description: &str, kinds: &[ArtifactKind], class| Backup {
            description: description.to_owned(),
            scope: kinds.iter().map(|k| kind_to_wire(*k).into()).collect(),
            class: class_to_wire(class).into(),
            ..Backup::default()
        };
        let of = |b: Backup| retention.class_of(&b);
        let (mongo, both) = ([ArtifactKind::Mongo], [ArtifactKind::Mongo, ArtifactKind::Valkey]);
        assert_eq!(of(backup("", &mongo, None)), Some(Class::Hourly));
        assert_eq!(of(backup("pre-1.0.1-upgrade", &mongo, None)), Some(Class::PreUpgrade), "the first one counts");
        assert_eq!(
            of(backup("pre-1.0.1-upgrade", &mongo, Some(Class::Daily))),
            Some(Class::Daily),
            "what was said counts"
        );
        assert_eq!(of(backup("weekly", &both, None)), Some(Class::Weekly));
        assert_eq!(of(backup("weekly?", &both, None)), None);
        assert_eq!(of(backup("", &both, None)), None);
        let saved = Backup { safety_of: "job-1".to_owned(), ..backup("", &mongo, None) };
        assert_eq!(of(saved), None);
    }
}
