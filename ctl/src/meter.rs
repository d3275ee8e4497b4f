//! Rate and remaining time from samples of progress. Pure: time comes with the samples, so that a watch that replays an
//! old job's events computes what a live one did.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

/// Rates are averages over this long.
const WINDOW: SignedDuration = SignedDuration::from_secs(10);

/// Follows one artifact.
#[derive(Debug, Default)]
pub struct Meter {
    samples: VecDeque<(Timestamp, u64)>,
    total: Option<u64>,
}

impl Meter {
    /// Takes note of how far it is. Samples that go back in time or progress start anew.
    pub fn sample(&mut self, at: Timestamp, done: u64, total: Option<u64>) {
        self.total = total;
        if self.samples.back().is_some_and(|(t, d)| at < *t || done < *d) {
            self.samples.clear();
        }
        self.samples.push_back((at, done));
        // The oldest one kept is the last that is outside the window: the window is always covered.
        while self.samples.get(1).is_some_and(|(t, _)| at.duration_since(*t) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes per second; none until there is something to compare.
    pub fn rate(&self) -> Option<f64> {
        let ((t0, d0), (t1, d1)) = (self.samples.front()?, self.samples.back()?);
        let seconds = t1.duration_since(*t0).as_secs_f64();
        (seconds > 0.2).then(|| (d1 - d0) as f64 / seconds)
    }

    /// Time that is left at this rate; none while total or rate are unknown.
    pub fn eta(&self) -> Option<SignedDuration> {
        let (rate, left) = (self.rate()?, self.total?.saturating_sub(self.samples.back()?.1));
        let seconds = left as f64 / rate;
        (rate > 0.0 && seconds < 1e9).then(|| SignedDuration::from_secs(seconds.ceil() as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn rate_and_eta_follow_the_last_seconds() {
        let mut meter = Meter::default();
        meter.sample(at(0), 0, Some(3000));
        assert_eq!((meter.rate(), meter.eta()), (None, None));
        meter.sample(at(1), 100, Some(3000));
        assert_eq!(meter.rate(), Some(100.0));
        assert_eq!(meter.eta(), Some(SignedDuration::from_secs(29)));
        for s in 2..=20 {
            meter.sample(at(s), 100 + (s as u64 - 1) * 10, Some(3000));
        }
        assert_eq!(meter.rate(), Some(10.0));
        assert!(meter.samples.len() <= 12, "{}", meter.samples.len());
    }

    #[test]
    fn what_goes_back_or_stands_still_has_no_eta() {
        let mut meter = Meter::default();
        meter.sample(at(0), 100, Some(200));
        meter.sample(at(5), 100, Some(200));
        assert_eq!((meter.rate(), meter.eta()), (Some(0.0), None));
        meter.sample(at(6), 50, None);
        assert_eq!((meter.rate(), meter.eta()), (None, None));
        meter.sample(at(4), 60, Some(10));
        meter.sample(at(8), 70, Some(10));
        assert_eq!(meter.eta(), Some(SignedDuration::ZERO));
    }
}
