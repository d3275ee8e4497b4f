//! Wrong tries with tokens: each costs its sender, who has to wait when there were too many.
//!
//! A token's secret has 256 bits: nobody guesses one. This keeps the log and the catalog from being flooded.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Wrong tries that an address has at once.
const AT_ONCE: u32 = 10;

/// How long it takes until there is one more.
const ONE_MORE_AFTER: Duration = Duration::from_secs(6);

/// Addresses that are remembered. More than these at once share what is left.
const ADDRESSES: usize = 4096;

/// The wrong tries of late, by address.
#[derive(Debug, Default)]
pub struct Tries(Mutex<HashMap<IpAddr, Spent>>);

#[derive(Debug, Clone, Copy)]
struct Spent {
    tries: u32,
    at: Instant,
}

impl Spent {
    /// As of now, with those taken off that time has given back.
    fn now(self, now: Instant) -> Self {
        let back = now.duration_since(self.at).as_secs() / ONE_MORE_AFTER.as_secs();
        let tries = self.tries.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX));
        let at = if tries == 0 { now } else { self.at + ONE_MORE_AFTER * u32::try_from(back).unwrap_or_default() };
        Self { tries, at }
    }
}

impl Tries {
    /// Whether somebody from there may try: `Err` is how long to wait.
    ///
    /// # Errors
    /// When there were too many wrong tries.
    pub fn may_try(&self, from: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let spent = all.get(&neighbourhood(from)).map(|s| s.now(now));
        match spent {
            Some(s) if s.tries >= AT_ONCE => Err(ONE_MORE_AFTER.saturating_sub(now.duration_since(s.at))),
            _ => Ok(()),
        }
    }

    /// Takes note of a wrong try.
    pub fn wrong(&self, from: Option<IpAddr>, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= ADDRESSES {
            all.retain(|_, spent| spent.now(now).tries > 0);
        }
        let key = if all.len() >= ADDRESSES { neighbourhood(None) } else { neighbourhood(from) };
        let spent = all.entry(key).or_insert(Spent { tries: 0, at: now });
        *spent = spent.now(now);
        spent.tries = (spent.tries + 1).min(AT_ONCE);
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn neighbourhood(from: Option<IpAddr>) -> IpAddr {
    match from.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V6(v6)) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
        Some(v4) => v4,
        None => IpAddr::V4([0; 4].into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_tries_run_out_and_come_back() {
        let (tries, t0) = (Tries::default(), Instant::now());
        let (here, there) = (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into()));
        for _ in 0..AT_ONCE {
            assert_eq!(tries.may_try(here, t0), Ok(()));
            tries.wrong(here, t0);
        }
        let wait = tries.may_try(here, t0 + Duration::from_secs(1)).unwrap_err();
        assert_eq!(wait, ONE_MORE_AFTER - Duration::from_secs(1));
        assert_eq!(tries.may_try(there, t0), Ok(()), "others are not held up");
        assert_eq!(tries.may_try(here, t0 + ONE_MORE_AFTER), Ok(()));
        tries.wrong(here, t0 + ONE_MORE_AFTER);
        assert!(tries.may_try(here, t0 + ONE_MORE_AFTER).is_err());
        assert_eq!(tries.may_try(here, t0 + ONE_MORE_AFTER * 60), Ok(()));
    }

    #[test]
    fn addresses_are_remembered_in_bounds_and_v6_by_network() {
        let (tries, now) = (Tries::default(), Instant::now());
        for i in 0..2 * ADDRESSES as u128 {
            tries.wrong(Some(IpAddr::V6((i << 64).into())), now);
        }
        assert!(tries.0.lock().unwrap().len() <= ADDRESSES + 1);
        let (a, b): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:2".parse().unwrap());
        assert_eq!(neighbourhood(Some(a)), neighbourhood(Some(b)));
        assert_ne!(neighbourhood(Some(a)), neighbourhood(Some("2001:db8:1::1".parse().unwrap())));
    }
}
