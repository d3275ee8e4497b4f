//! Times and spans of time as they are typed.

use std::time::Duration;

use jiff::{SpanRelativeTo, Timestamp, civil::DateTime, tz::TimeZone};

/// A point in time: RFC 3339, or a date with or without a time of day, in UTC.
pub(super) fn parse_time(s: &str) -> Result<Timestamp, String> {
    let civil = || s.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    s.parse()
        .ok()
        .or_else(|| Some(civil()?.timestamp()))
        .ok_or_else(|| "not a time: use 2026-05-10T08:00:00Z, or \"2026-05-10 08:00\" for UTC".to_owned())
}

/// A span of time: `30m`, `1h`, `1d12h`; days have 24 hours.
pub(super) fn parse_ttl(s: &str) -> Result<Duration, String> {
    let span = s.parse::<jiff::Span>().ok();
    let duration = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    duration
        .and_then(|d| Duration::try_from(d).ok())
        .filter(|d| d.as_secs() > 0)
        .ok_or_else(|| "not a span of time: use 30m, 1h or 2d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_unless_they_say_otherwise() {
        let parse = |s| parse_time(s).map(|t| t.to_string());
        assert_eq!(parse("2026-05-10T08:00:00Z").as_deref(), Ok("2026-05-10T08:00:00Z"));
        assert_eq!(parse("2026-05-10T08:00:00+02:00").as_deref(), Ok("2026-05-10T06:00:00Z"));
        assert_eq!(parse("2026-05-10 08:00").as_deref(), Ok("2026-05-10T08:00:00Z"));
        assert_eq!(parse("2026-05-10").as_deref(), Ok("2026-05-10T00:00:00Z"));
        for bad in ["", "08:00", "2026-13-01", "now"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_have_units() {
        let secs = |s| parse_ttl(s).map(|d| d.as_secs());
        assert_eq!([secs("1h"), secs("30m"), secs("2d"), secs("1h30m")], [Ok(3600), Ok(1800), Ok(172_800), Ok(5400)]);
        for bad in ["", "5", "1mo", "0s", "-1h", "999999999999h"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
