//! Laws L1 and L6 on the way back: a restore that is taken back after a controller was started takes back neither the fencing
//! numbers that it was given nor the revocations that were made meanwhile.

use super::{Correction, State, later, latest};
use crate::laws::GAP;

/// What a restore has made live: the backup with its corrections.
pub fn restored(backup: &State, corrections: &[Correction]) -> State {
    let mut state = backup.clone();
    for correction in corrections {
        match correction {
            Correction::Counter { place, to, .. } => {
                let issued = state.issued.0.entry(place.clone()).or_default();
                issued.counter = issued.counter.max(Some(*to));
            }
            Correction::Revocation { place, expires_at_ms } => {
                later(&mut state.revocations, place.clone(), *expires_at_ms)
            }
            Correction::Remove { .. } => {}
        }
    }
    state
}

/// What must be changed in the old keys once they are live again. `restored` is what the restore had made live before any
/// controller ran, `since` what was there when they were stopped again. Where nobody did anything meanwhile it is nothing.
pub fn corrections_back(since: &State, restored: &State, old: &State) -> Vec<Correction> {
    let counters = since.issued.0.keys().filter_map(|place| {
        let (live, old) = (since.issued.highest(place), old.issued.highest(place));
        let to = live.filter(|_| live > restored.issued.highest(place) && live > old)?.max(0).saturating_add(GAP);
        Some(Correction::Counter { place: place.clone(), backup: old, live, to })
    });
    let in_force =
        |of: &State, place, end| of.revocations.get(place).is_some_and(|known| latest(*known, end) == *known);
    let revocations = since.revocations.iter().filter_map(|(place, end)| {
        let known = in_force(restored, place, *end) || in_force(old, place, *end);
        (!known).then(|| Correction::Revocation { place: place.clone(), expires_at_ms: *end })
    });
    counters.chain(revocations).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Options, corrections},
        *,
    };

    const TOKEN: &[u8] = b"prexor:v1:lease-token:x";
    const LEASE: &[u8] = b"prexor:v1:lease:x";
    const REVOKED: &[u8] = b"prexor:v1:jwt:revoked:a";

    fn state(counter: i64, revoked: &[u8]) -> State {
        let mut state = State::default();
        state.add(0, TOKEN, Some(counter.to_string().as_bytes()), None);
        state.add(0, revoked, None, Some(5_000));
        state
    }

    #[test]
    fn numbers_that_were_issued_meanwhile_are_issued_once() {
        let (old, backup) = (state(3, b"prexor:v1:jwt:revoked:old"), state(2, b"prexor:v1:jwt:revoked:backup"));
        let done = corrections(Some(&old), &backup, Options::default());
        let restored = restored(&backup, &done);
        assert_eq!(corrections_back(&restored, &restored, &old), [], "nobody did anything");

        let mut since = restored.clone();
        since.add(0, TOKEN, Some(b"1000005"), None);
        since.add(0, LEASE, Some(b"c1|1000007"), None);
        since.add(0, REVOKED, None, None);
        let back = corrections_back(&since, &restored, &old);
        let [Correction::Counter { to, backup, .. }, Correction::Revocation { place, expires_at_ms: None }] = &back[..]
        else {
            panic!("{back:?}")
        };
        assert_eq!((*to, *backup, place.key.as_slice()), (1_000_007 + GAP, Some(3), REVOKED));
    }
}
