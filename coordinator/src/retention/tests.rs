//! The policy as a whole: cases, and what holds of whatever there is.

use proptest::prelude::*;

use super::*;

const DAY: i64 = 24 * 3600;
const NOW: i64 = 1_000 * DAY;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW - seconds).unwrap()
}

/// `age` in days.
fn candidate(number: u16, age: i64, holds: &[&str]) -> Candidate {
    Candidate {
        id: format!("bk-2026-05-10-{number:03}").parse().unwrap(),
        created: ago(age * DAY),
        holds: holds.iter().map(|h| (*h).to_owned()).collect(),
        standing: Standing::Good,
        safety: false,
        job: None,
        pinned: None,
        copies_missing: None,
        class: None,
        upgrade: Upgrade::default(),
    }
}

fn policy(days: Option<u32>, counts: Counts) -> Policy {
    Policy { cadence: Cadence::default(), days, counts }
}

fn judged(candidates: &[Candidate], policy: &Policy) -> Vec<(bool, String)> {
    let all = judge(candidates, policy, now());
    candidates.iter().map(|c| (all[&c.id].goes, all[&c.id].reason.clone())).collect()
}

fn goes(candidates: &[Candidate], policy: &Policy) -> Vec<bool> {
    judged(candidates, policy).into_iter().map(|(goes, _)| goes).collect()
}

fn keep_days(days: u32) -> Policy {
    policy(Some(days), Counts::default())
}

#[test]
fn what_is_old_goes_when_something_newer_holds_as_much() {
    let all = ["mongo", "valkey", "h1"];
    let damaged = Candidate { standing: Standing::Damaged, ..candidate(6, 30, &all) };
    let used = Candidate { job: Some("job-1".to_owned()), ..candidate(7, 31, &all) };
    let pinned = Candidate { pinned: Some("by root".to_owned()), ..candidate(8, 31, &all) };
    let copied = Candidate { copies_missing: Some("offsite".to_owned()), ..candidate(9, 31, &all) };
    let candidates = [
        candidate(1, 1, &all),
        candidate(2, 14, &all),
        candidate(3, 15, &all),
        candidate(4, 20, &["mongo"]),
        candidate(5, 20, &["mongo", "h2"]),
        damaged,
        used,
        pinned,
        copied,
    ];
    let judged = judged(&candidates, &keep_days(14));
    assert_eq!(
        judged.iter().map(|(goes, _)| *goes).collect::<Vec<_>>(),
        [false, false, true, true, false, false, false, false, false]
    );
    let reasons: Vec<_> = judged.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(
        reasons[..5],
        [
            "not older than 14 days",
            "not older than 14 days",
            "older than 14 days",
            "older than 14 days",
            "the newest good one of what it holds",
        ]
    );
    assert!(reasons[5].starts_with("damaged"));
    assert_eq!(reasons[6..], ["job-1 uses it", "pinned by root", "its copies are not complete: offsite"]);
}

#[test]
fn the_last_ones_stay_however_old_they_are() {
    let saved = |number, age| Candidate { safety: true, ..candidate(number, age, &["mongo", "valkey"]) };
    let candidates = [
        candidate(1, 400, &["mongo"]),
        candidate(2, 300, &["mongo"]),
        candidate(3, 900, &["valkey"]),
        saved(4, 2),
        saved(5, 1),
    ];
    assert_eq!(goes(&candidates, &keep_days(1)), [true, false, false, true, false]);
}

#[test]
fn each_class_has_its_time_whatever_is_asked_for_the_others() {
    let of = |number, hours: i64, class| Candidate {
        created: ago(hours * 3600),
        class: Some(class),
        ..candidate(number, 0, &["mongo"])
    };
    let candidates = [
        of(1, 24, Class::Hourly),
        of(2, 25, Class::Hourly),
        of(3, 14 * 24, Class::Daily),
        of(4, 14 * 24 + 1, Class::Daily),
        of(5, 90 * 24, Class::Weekly),
        of(6, 90 * 24 + 1, Class::Weekly),
        candidate(7, 500, &["mongo"]),
    ];
    let silent = policy(None, Counts::default());
    assert_eq!(goes(&candidates, &silent), [false, true, false, true, false, true, false]);
    let reasons = judged(&candidates, &silent);
    assert_eq!(reasons[1].1, "hourly, older than 1 day");
    assert_eq!(reasons[4].1, "weekly, not older than 90 days");
    assert_eq!(reasons[6].1, "no rule is about it");
    // As the guide prunes: its daily backups have no class.
    assert_eq!(goes(&candidates, &keep_days(1)), [false, true, false, true, false, true, true]);
}

#[test]
fn before_an_upgrade_it_stays_until_that_has_proved_itself() {
    let of = |number, age, version: &str, verified: Option<i64>| Candidate {
        upgrade: Upgrade {
            version: (!version.is_empty()).then(|| version.to_owned()),
            verified_at: verified.map(|days| ago(days * DAY)),
            superseded_at: None,
        },
        ..candidate(number, age, &["mongo"])
    };
    let before = |number, age, version| Candidate { class: Some(Class::PreUpgrade), ..of(number, age, version, None) };
    let silent = policy(None, Counts::default());
    let old = before(1, 300, "1.0.0");
    let judge = |newer: Candidate| judged(&[old.clone(), newer], &silent)[0].clone();
    let (stays, reason) = judge(of(2, 200, "1.0.0", Some(200)));
    assert!(!stays && reason.ends_with("until 14 days after a backup of a newer version was verified"), "{reason}");
    assert!(!judge(of(2, 200, "1.1.0", None)).0, "nobody has verified it");
    assert!(!judge(of(2, 200, "1.1.0", Some(14))).0);
    assert!(judge(of(2, 200, "1.1.0", Some(15))).0);
    assert!(!judge(of(2, 400, "1.1.0", Some(15))).0, "made before: the upgrade was taken back");
    assert!(!judge(Candidate { standing: Standing::Suspect, ..of(2, 200, "1.1.0", Some(15)) }).0);
    // What was verified has had its time, and is noted.
    let noted = |days| Candidate {
        upgrade: Upgrade { superseded_at: Some(ago(days * DAY)), ..old.upgrade.clone() },
        ..old.clone()
    };
    let newer = of(2, 1, "1.1.0", None);
    assert_eq!(goes(&[noted(15), newer.clone()], &silent), [true, false]);
    assert_eq!(goes(&[noted(14), newer.clone()], &silent), [false, false]);
    let unknown = judged(&[before(1, 300, ""), of(2, 200, "1.1.0", Some(15))], &silent);
    assert!(!unknown[0].0 && unknown[0].1.contains("version_command"), "{unknown:?}");

    let both = [old.clone(), of(2, 9, "1.1.0", Some(8)), of(3, 8, "1.2.0", Some(7)), noted(1)];
    assert_eq!(superseded(&both).into_values().collect::<Vec<_>>(), [(ago(8 * DAY), "1.1.0".to_owned())]);
}

#[test]
fn counts_keep_the_newest_of_each_time_and_only_good_ones_count() {
    let hourly = |number: u16, hours: i64| Candidate { created: ago(hours * 3600), ..candidate(number, 0, &["mongo"]) };
    let bad = |standing, c: Candidate| Candidate { standing, ..c };
    let all = [
        hourly(1, 1),
        bad(Standing::Suspect, hourly(2, 2)),
        hourly(3, 3),
        hourly(4, 24),
        hourly(5, 25),
        bad(Standing::Damaged, hourly(6, 49)),
        hourly(7, 50),
        hourly(8, 24 * 40),
        hourly(9, 24 * 80),
        hourly(10, 24 * 400),
    ];
    let kept = |counts| {
        let judged = goes(&all, &policy(None, counts));
        all.iter().zip(judged).filter(|(_, goes)| !goes).map(|(c, _)| c.id.number()).collect::<Vec<_>>()
    };
    let none = Counts::default();
    // The damaged one stays anyway.
    assert_eq!(kept(Counts { last: 2, ..none }), [1, 3, 6]);
    assert_eq!(kept(Counts { hourly: 3, ..none }), [1, 3, 4, 6]);
    assert_eq!(kept(Counts { daily: 3, ..none }), [1, 5, 6, 7], "NOW is midnight: number 4 is of the day of number 1");
    assert_eq!(kept(Counts { yearly: 2, ..none }), [1, 6, 10]);
    let reasons = judged(&all, &policy(None, Counts { last: 1, monthly: 3, ..none }));
    assert_eq!(reasons[0].1, "number 1 of the 1 newest");
    assert_eq!(reasons[1], (true, "no rule keeps it".to_owned()));
    assert_eq!(reasons[7].1, "the newest of the month 1972-08");
    // What holds something else has its own places.
    let other = candidate(11, 30, &["valkey"]);
    let both = [all[0].clone(), all[2].clone(), other];
    assert_eq!(goes(&both, &policy(None, Counts { last: 1, ..none })), [false, true, false]);
}

fn any_candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let class = proptest::option::of(proptest::sample::select(Class::ALL.to_vec()));
    let standing = proptest::sample::select(vec![Standing::Good, Standing::Good, Standing::Suspect, Standing::Damaged]);
    let flags = (any::<bool>(), 0..5_u8, 0..6_u8, 0..6_u8);
    let upgrade = (proptest::option::of(0..3_u8), proptest::option::of(0..40_i64));
    let one = (0..40 * 24_i64, proptest::collection::btree_set("[abc]", 0..4), standing, flags, class, upgrade);
    proptest::collection::vec(one, 0..30).prop_map(|all| {
        let candidates = all.into_iter().enumerate().map(|(n, (hours, holds, standing, flags, class, upgrade))| {
            let (safety, job, pinned, copies) = flags;
            let (version, verified) = upgrade;
            Candidate {
                created: ago(hours * 3600),
                holds,
                standing,
                safety,
                job: (job == 0).then(|| "job".to_owned()),
                pinned: (pinned == 0).then(|| "by x".to_owned()),
                copies_missing: (copies == 0).then(|| "offsite".to_owned()),
                class,
                upgrade: Upgrade {
                    version: version.map(|v| format!("1.{v}")),
                    verified_at: verified.map(|days| ago(days * DAY)),
                    superseded_at: None,
                },
                ..candidate(n as u16 + 1, 0, &[])
            }
        });
        candidates.collect()
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let counts = proptest::array::uniform6(0..4_u32);
    (proptest::option::of(1..30_u32), counts).prop_map(|(days, [last, hourly, daily, weekly, monthly, yearly])| {
        policy(days, Counts { last, hourly, daily, weekly, monthly, yearly })
    })
}

proptest! {
    #[test]
    fn nothing_goes_that_must_stay(candidates in any_candidates(), policy in any_policy()) {
        let verdicts = judge(&candidates, &policy, now());
        prop_assert_eq!(verdicts.len(), candidates.len());
        for gone in candidates.iter().filter(|c| verdicts[&c.id].goes) {
            prop_assert!(gone.standing != Standing::Damaged);
            prop_assert!(gone.job.is_none() && gone.pinned.is_none() && gone.copies_missing.is_none());
            let age = NOW - gone.created.as_second();
            match gone.class.filter(|_| !gone.safety) {
                Some(Class::Hourly) => prop_assert!(age > DAY),
                Some(Class::Daily) => prop_assert!(age > 14 * DAY),
                Some(Class::Weekly) => prop_assert!(age > 90 * DAY),
                Some(Class::PreUpgrade) => prop_assert!(gone.upgrade.version.is_some()),
                None => prop_assert!(policy.days.is_none_or(|days| age > i64::from(days) * DAY)),
            }
        }
    }

    #[test]
    fn nothing_is_lost_that_no_newer_good_backup_holds(candidates in any_candidates(), policy in any_policy()) {
        let verdicts = judge(&candidates, &policy, now());
        let stays = |c: &&Candidate| !verdicts[&c.id].goes;
        for gone in candidates.iter().filter(|c| verdicts[&c.id].goes && !c.safety) {
            // Not only one that may go as well: one that stays. A suspect one stands in for a suspect one alone.
            let stands_in = |c: &Candidate| c.is_good()
                || (gone.standing == Standing::Suspect && c.standing == Standing::Suspect && !c.safety);
            let kept = candidates.iter().filter(stays).any(|c| {
                stands_in(c) && c.holds.is_superset(&gone.holds) && c.place() > gone.place()
            });
            prop_assert!(kept, "{:?}", gone);
        }
    }

    #[test]
    fn removing_what_goes_makes_nothing_else_go(candidates in any_candidates(), policy in any_policy()) {
        let verdicts = judge(&candidates, &policy, now());
        let left: Vec<_> = candidates.into_iter().filter(|c| !verdicts[&c.id].goes).collect();
        prop_assert!(judge(&left, &policy, now()).values().all(|v| !v.goes));
    }

    #[test]
    fn counts_only_keep_more_and_the_order_of_the_list_is_nothing(
        candidates in any_candidates(), policy in any_policy(), turn in 0..30_usize
    ) {
        let with = judge(&candidates, &policy, now());
        let without = judge(&candidates, &Policy { counts: Counts::default(), ..policy.clone() }, now());
        for one in candidates.iter().filter(|c| c.class.is_some() || policy.days.is_some()) {
            prop_assert!(!with[&one.id].goes || without[&one.id].goes);
        }
        let mut turned = candidates.clone();
        turned.rotate_left(turn.min(candidates.len()));
        prop_assert_eq!(judge(&turned, &policy, now()), with);
    }
}
