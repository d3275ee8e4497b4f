//! Sizes, counts and spans of time as people read them, the same in every message of the product.

use jiff::SignedDuration;

/// A size: `142 MiB`; whole numbers from 10 up, one decimal below.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    // Tenths of the unit, rounded to nearest, in integers: no float ever says 9.99 or 1024.
    let mut unit = 1u128 << 10;
    for (i, name) in UNITS.iter().enumerate() {
        let tenths = (u128::from(n) * 10 + unit / 2) / unit;
        let whole = (u128::from(n) + unit / 2) / unit;
        if tenths < 100 {
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
        if whole < 1024 || i + 1 == UNITS.len() {
            return format!("{whole} {name}");
        }
        unit <<= 10;
    }
    format!("{n} B")
}

/// A count with separators: `142,884`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count of things: `1 document`, `142,884 documents`. The plural takes an `s`.
pub fn things(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A span of time in its two largest units: `45 s`, `2 min 5 s`, `3 d 4 h`.
pub fn duration(d: SignedDuration) -> String {
    let s = d.as_secs().max(0);
    let two = |a: i64, unit: &str, b: i64, lower: &str| match b {
        0 => format!("{a} {unit}"),
        b => format!("{a} {unit} {b} {lower}"),
    };
    match s {
        0..60 => format!("{s} s"),
        60..3600 => two(s / 60, "min", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let cases =
            [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (125, "2 min 5 s"), (7380, "2 h 3 min"), (100_000, "1 d 3 h")];
        for (s, text) in cases {
            assert_eq!(duration(SignedDuration::from_secs(s)), text);
        }
    }

    #[test]
    fn sizes() {
        let cases: [(u64, &str); 16] = [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 * 1024 - 1, "10 KiB"),
            (10 * 1024 - 60, "9.9 KiB"),
            (10 * 1024, "10 KiB"),
            (1023 * 1024, "1023 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (1024 * 1024 - 513, "1023 KiB"),
            (142 << 20, "142 MiB"),
            ((142 << 20) + 400_000, "142 MiB"),
            (1 << 40, "1.0 TiB"),
            (1 << 60, "1.0 EiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (n, text) in cases {
            assert_eq!(bytes(n), text, "{n}");
        }
    }

    #[test]
    fn counts() {
        for (n, text) in
            [(0, "0"), (12, "12"), (999, "999"), (1000, "1,000"), (142_884, "142,884"), (1_000_000, "1,000,000")]
        {
            assert_eq!(count(n), text);
        }
        assert_eq!((things(1, "key"), things(2, "key")), ("1 key".into(), "2 keys".into()));
    }
}
